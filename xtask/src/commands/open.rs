//! `cargo xtask open`: lists what can be opened of the tree's releases, or opens one of it on this
//! machine until Ctrl-C (exit 130, like any run that is stopped).

use run_record::Failure;

use crate::reach::forward::{self, Wanted};
use crate::reach::services;
use crate::run::context::Context;
use crate::world::kubernetes;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A service, or a release that has one: NAME or NAMESPACE/NAME; if not given, lists them
    pub name: Option<String>,
    /// Only this port of the service, by number or name; LOCAL:PORT listens at LOCAL
    #[arg(long, value_name = "[LOCAL:]PORT", value_parser = forward::wanted, requires = "name")]
    pub port: Vec<Wanted>,
}

/// # Errors
/// `usage` for an unknown name or port; `port-taken`; errors from reading the cluster.
pub async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let client = kubernetes::client(context).await?;
    let Some(name) = &args.name else {
        let there = services::of_tree(context, &client).await?;
        let text = if context.run.json {
            serde_json::json!(there).to_string()
        } else {
            services::list(&there, &context.run.reporter.completed("cargo xtask open"))
        };
        context.run.reporter.data(&text);
        return Ok(());
    };
    let all = services::all(&context.repo, &client).await?;
    let service = match services::named(&all, name, &[]) {
        Ok(service) => service,
        // Listing what can be opened may require asking Helmfile, so only if the list is needed.
        Err(failure) => match services::of_tree(context, &client).await {
            Ok(there) => services::named(&all, name, &there)?,
            Err(_) => return Err(failure),
        },
    };
    let Some(openable) = services::openable(service, &services::mapped(&context.repo, &context.site)?) else {
        let message = format!(
            "{name:?} cannot be opened: it is headless or outside of the cluster, or has no TCP port or no pods"
        );
        return Err(Failure::usage(message).remedy("cargo xtask open"));
    };
    let ports = forward::chosen(&openable, &args.port)?;
    if context.run.dry_run {
        for (port, _) in &ports {
            let what =
                format!("forward a port of this machine to {}/{}:{}", openable.namespace, openable.name, port.number);
            context.run.reporter.planned(&openable.name, what);
        }
        return Ok(());
    }
    forward::forward(context, &client, &openable, &ports).await
}

/// Prints how to open the services, as the last lines of `up`; never fails it.
pub async fn tell(context: &Context) {
    let look = async { services::of_tree(context, &kubernetes::client(context).await?).await };
    match look.await {
        Ok(there) => services::summary(&there).iter().for_each(|line| context.run.reporter.note("up", line)),
        Err(failure) => {
            context.run.reporter.note("up", format!("cannot list the services that can be opened: {failure}"))
        }
    }
}
