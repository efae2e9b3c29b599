//! What is done before a layer's turn: Helmfile reads it, which takes nothing but the tree, and the
//! nodes of a local cluster pull its images. Whatever fails here is done again in the layer's turn,
//! which reports it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use kube::Client;
use tokio::sync::OnceCell;

use super::{Args, instant};
use crate::compare::images::{self, Places};
use crate::compare::look::Snapshot;
use crate::compare::reader::Reader;
use crate::repo::layers::Layer;
use crate::run::context::Context;
use crate::world::docker;
use crate::world::process::capture_within;
use crate::world::tools;
use run_record::Failure;

/// A layer as Helmfile reads it.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// As [`Reader::list`] returns it.
    pub list: Option<String>,
    pub manifests: String,
}

impl Read {
    /// # Errors
    /// What Helmfile cannot read.
    pub async fn now(reader: &Reader<'_>, layer: &Layer) -> Result<Self, Failure> {
        let (list, manifests) = tokio::try_join!(reader.list(layer), reader.render(layer))?;
        Ok(Self { list, manifests })
    }
}

/// Layers, each read once, and the tree that they are read from.
pub(crate) struct Ahead {
    snapshot: Snapshot,
    layers: Vec<(String, OnceCell<Read>)>,
}

impl Ahead {
    /// # Errors
    /// A tree that cannot be read.
    pub fn of(reader: &Reader<'_>, layers: &[Layer]) -> Result<Self, Failure> {
        let layers = layers.iter().map(|layer| (layer.name(), OnceCell::new())).collect();
        Ok(Self { snapshot: Snapshot::take(reader.context, reader.lock.clone())?, layers })
    }

    /// These layers, of which the first one has been read already; `None` if that is not possible yet.
    pub async fn begun(context: &Context, layers: &[Layer], args: &Args) -> Option<Self> {
        let origin = instant::origin(&context.run, &context.repo).ok()?;
        let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await.ok()?;
        let reader = Reader::new(context, &toolbox, origin, args.selector()).ok()?;
        let ahead = Self::of(&reader, layers).ok()?;
        ahead.read(&reader, layers.first()?).await.ok()?;
        Some(ahead)
    }

    /// Whether the tree is still the one that these layers are read from.
    pub fn is_of(&self, snapshot: &Snapshot) -> bool {
        self.snapshot == *snapshot
    }

    /// # Errors
    /// What Helmfile cannot read.
    pub async fn read(&self, reader: &Reader<'_>, layer: &Layer) -> Result<Read, Failure> {
        let name = layer.name();
        match self.layers.iter().find(|(known, _)| *known == name) {
            Some((_, read)) => read.get_or_try_init(|| Read::now(reader, layer)).await.cloned(),
            None => Read::now(reader, layer).await,
        }
    }

    /// Reads these layers one after the other, and lets the nodes pull what each of them needs.
    pub async fn prepare(&self, reader: &Reader<'_>, client: &Client, layers: &[Layer]) {
        for layer in layers {
            if let Ok(read) = self.read(reader, layer).await
                && let Ok(wanted) = images_of(reader.context, &read.manifests)
            {
                let _ = pull(reader.context, client, &wanted).await;
            }
        }
    }
}

/// How long a node may take for one image.
const PULL: Duration = Duration::from_secs(600);

/// The images that the nodes get from the platform's registry. Any other registry is asked only by
/// the pods: it may count requests.
fn images_of(context: &Context, manifests: &str) -> Result<BTreeSet<String>, Failure> {
    let places = Places::of(&context.repo.tree)?;
    let registry = format!("{}/", context.repo.env.registry.pull);
    let found = images::images(manifests, &places).map_err(Failure::usage)?;
    Ok(found.into_iter().map(|named| named.image).filter(|image| image.starts_with(&registry)).collect())
}

/// Lets each node of a local cluster pull those of these images that it has not got, one after the
/// other, as the kubelet does.
///
/// # Errors
/// Errors from reading; a pull that fails is none.
async fn pull(context: &Context, client: &Client, wanted: &BTreeSet<String>) -> Result<(), Failure> {
    let Some(config) = context.repo.k3d_config()? else { return Ok(()) };
    // `--context` may name any cluster.
    if wanted.is_empty() || context.site.kube_context != format!("k3d-{}", config.name()) {
        return Ok(());
    }
    let nodes = images::on_nodes(client).await?;
    join_all(nodes.iter().map(async |(node, has)| {
        for image in wanted.iter().filter(|image| !has.contains(&images::by_digest(image))) {
            let pulled = capture_within(docker::docker(["exec", node, "crictl", "pull", image]), PULL).await;
            // The next one would most likely end the same way.
            if !pulled.is_ok_and(|pulled| pulled.status.success()) {
                return;
            }
        }
    }))
    .await;
    Ok(())
}
