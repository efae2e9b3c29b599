//! The command line: one enum, with one doc line per command.

use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::cluster::remedy;
use crate::commands::{
    Done, checklist, cluster, completion, doctor, drift, lab, layer, logs, mirror, open, releases, report, script,
    tools, trace, up,
};
use crate::files;
use crate::repo::{Repo, Tree, environment};
use crate::run::Run;
use crate::run::consent;
use crate::run::context::{Context, Site};
use crate::run::duration;
use crate::run::foreign;
use crate::run::reporter::{Format, Reporter};
use crate::run::state::{self, StateDir};
use run_record::{Code, Event, Failure};

/// Brings the stack up on a cluster, layer by layer, and says what blocks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 unclassified, 2 usage or bad file, 3 lock not obtained, 4 Kubernetes API unreachable, 5 registry, 6 namespace terminating, 7 stuck or owned release, 8 not ready, 9 tests failed, 10 consent needed, 130/143 interrupted. Every command is safe to repeat."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

#[derive(clap::Args)]
pub struct Common {
    /// A folder of infra/kubernetes/environments
    #[arg(long, global = true, env = "HELMFILE_ENVIRONMENT", default_value = environment::DEFAULT)]
    pub env: String,
    /// The kubeconfig context, if not the environment's own
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Print what would be done and change nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// How to print
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub output: Format,
    /// Consent to changes that lose nothing and that a terminal would ask about (also
    /// XTASK_CONFIRM=1)
    #[arg(long, global = true)]
    pub yes: bool,
    /// Consent to losing what is named, if nobody can be asked (also XTASK_ALLOW_DESTROY)
    #[arg(long, global = true, value_enum, value_delimiter = ',', value_name = "WHAT")]
    pub allow_destroy: Vec<consent::Kind>,
    /// How long to wait for the cluster lock, and for releases that others work on
    #[arg(long, global = true, default_value = "30m", value_parser = duration::parse, allow_negative_numbers = true)]
    pub lock_timeout: Duration,
    /// Use the lab's images even if the upstream registries answer
    #[arg(long, global = true, overrides_with = "no_lab")]
    pub lab: bool,
    /// Fail if the upstream registries do not answer, instead of using the lab
    #[arg(long, global = true)]
    pub no_lab: bool,
    /// Print more details
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Print only problems and what was asked for; the run's record is complete all the same
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// The main job: tools, cluster, mirror, and the layers of the critical path
    Up(up::Args),
    /// Make the local cluster match k3d.yaml; or prefetch, status, stop, delete, recreate
    Cluster {
        #[command(subcommand)]
        action: Option<cluster::Action>,
    },
    /// Copy the images of images.lock into the registry
    Mirror(mirror::Args),
    /// Make layers match the tree: 45, data-plane-ext, a path, 10-45
    Layer(crate::layer::Args),
    /// Show what others have changed in what the layers deployed: object, field, who and when
    Drift(drift::Args),
    /// List unhealthy releases; repair them; show their history
    Releases(releases::Args),
    /// Print the logs of the pods of a layer or a release; --follow goes on until Ctrl-C
    Logs(logs::Args),
    /// List the services that can be opened; with a name, forward ports of this machine to one
    Open(open::Args),
    /// Check whether the data plane is ready, item by item, with evidence and remedy
    Checklist(checklist::Args),
    /// Show a run: one HTML page with its timeline, or Markdown
    Report(report::Args),
    /// Find, download or build the pinned tools, and print how to use them
    Tools(tools::Args),
    /// Check this machine, with the fix for each finding
    Doctor,
    /// Build what a machine without internet lacks (docs/lab.md)
    Lab,
    /// Print the completion script for a shell: bash, zsh or fish; it says where it belongs
    Completion { shell: completion::Shell },
    /// Print candidates for the last of these words, for the shells
    #[command(hide = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// The old script names with their old arguments
    #[command(hide = true)]
    Script {
        #[command(subcommand)]
        script: script::Script,
    },
}

impl Command {
    /// The name as typed.
    fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Cluster { .. } => "cluster",
            Self::Mirror(_) => "mirror",
            Self::Layer(_) => "layer",
            Self::Drift(_) => "drift",
            Self::Releases(_) => "releases",
            Self::Logs(_) => "logs",
            Self::Open(_) => "open",
            Self::Checklist(_) => "checklist",
            Self::Report(_) => "report",
            Self::Tools(_) => "tools",
            Self::Doctor => "doctor",
            Self::Lab => "lab",
            Self::Completion { .. } => "completion",
            Self::Complete { .. } => "complete",
            Self::Script { .. } => "script",
        }
    }

    /// Whether its exit code says if something differs: then 1 does not mean failure.
    pub fn tells_by_exit_code(&self) -> bool {
        match self {
            Self::Layer(args) => args.exit_code,
            Self::Up(args) => args.exit_code,
            Self::Drift(args) => args.exit_code,
            _ => false,
        }
    }

    /// The output of a command that is no run: it looks at no cluster, and leaves no record.
    pub fn without_a_run(&self) -> Option<String> {
        match self {
            Self::Completion { shell } => Some(completion::script(*shell).to_owned()),
            Self::Complete { words } => Some(completion::candidates(Cli::command(), words)),
            _ => None,
        }
    }

    /// Whether it is worth a report in a job summary.
    pub fn is_a_run(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Layer(_) | Self::Script { .. })
    }
}

/// A command line that cannot be read, as `--output json` tells it; `None` if that was not asked for,
/// or if it asks for help.
pub fn refused(error: &clap::Error, words: &[String]) -> Option<Failure> {
    let json =
        words.windows(2).any(|pair| pair == ["--output", "json"]) || words.iter().any(|it| it == "--output=json");
    if !json || !error.use_stderr() {
        return None;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Some(Failure::usage("a command is missing").remedy("cargo xtask --help"));
    }
    let text = error.to_string();
    let mut parts = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let first = parts.next().unwrap_or_default();
    let failure = Failure::usage(first.strip_prefix("error: ").unwrap_or(&first));
    Some(parts.filter(|part| !part.starts_with("For more")).fold(failure, Failure::evidence))
}

pub async fn dispatch(context: &Context, command: &Command) -> Result<Done, Failure> {
    carry_out(context, command).await.map_err(|failure| remedy::fitting(&context.repo, &context.site, failure))
}

/// The larger commands are on the heap: without optimisation each future is copied on its way to
/// where it runs, and all of them would be as large as the largest.
async fn carry_out(context: &Context, command: &Command) -> Result<Done, Failure> {
    match command {
        Command::Up(args) => return Box::pin(up::run(context, args)).await,
        Command::Cluster { action } => Box::pin(cluster::run(context, *action)).await,
        Command::Mirror(args) => Box::pin(mirror::run(context, args)).await,
        Command::Layer(args) => return Box::pin(layer::run(context, args)).await,
        Command::Drift(args) => return Box::pin(drift::run(context, args)).await,
        Command::Releases(args) => Box::pin(releases::run(context, args)).await,
        Command::Logs(args) => Box::pin(logs::run(context, args)).await,
        Command::Open(args) => Box::pin(open::run(context, args)).await,
        Command::Checklist(args) => Box::pin(checklist::run(context, args)).await,
        Command::Report(args) => report::run(&context.run, args).await,
        Command::Tools(args) => tools::run(context, args).await,
        Command::Doctor => doctor::run(context).await,
        Command::Lab => lab::run(context).await,
        // See `without_a_run`.
        Command::Completion { .. } | Command::Complete { .. } => Ok(()),
        Command::Script { script } => Box::pin(script::run(context, script)).await,
    }?;
    Ok(Done::AsAsked)
}

impl Common {
    pub fn reporter(&self) -> Reporter {
        Reporter::new(self.output, self.verbose).quietly(self.quiet)
    }

    /// The environment: an old script's argument, else `--env`; an empty variable counts as unset.
    fn env(&self, command: &Command) -> String {
        let argument = match command {
            Command::Script { script } => script.environment(),
            _ => None,
        };
        let named = argument.unwrap_or(&self.env);
        if named.is_empty() { environment::DEFAULT.to_owned() } else { named.to_owned() }
    }

    pub fn context(&self, command: &Command, reporter: Arc<Reporter>) -> Result<Context, Failure> {
        let current = std::env::current_dir().map_err(|error| Failure::usage(format!("no current folder: {error}")))?;
        let current = Utf8PathBuf::from_path_buf(current)
            .map_err(|path| Failure::usage(format!("the current folder {} is not UTF-8", path.display())))?;
        let tree = Tree::discover(&current)?;
        let env_name = self.env(command);
        let env = tree.environment(&env_name)?;
        let cluster = env.cluster.context.clone();
        let id = format!("{}-{}", jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S"), std::process::id());
        let kept_runs = state::kept_runs()?;
        let state = StateDir::open(&tree.root, &cluster, &reporter)?;
        let dir = state.runs().join(&id);
        let failed = |error: std::io::Error| {
            Failure::new(Code::DiskFull, format!("cannot write the run's record in {dir}: {error}"))
        };
        files::create_private_dir(&dir).map_err(failed)?;
        reporter.record_to(dir.join("record.jsonl")).map_err(failed)?;
        state.prune(kept_runs);
        let trace = trace::begin(&reporter);
        reporter.event(&Event::RunStarted {
            command: foreign::own_command_line(),
            verb: command.name().to_owned(),
            env: env_name.clone(),
            trace,
        });
        let run = Run {
            id,
            dir,
            state,
            reporter,
            consent: consent::Given::by(self.yes, &self.allow_destroy)?,
            dry_run: self.dry_run,
            json: self.output == Format::Json,
            lock_timeout: self.lock_timeout,
        };
        let site = Site {
            kube_context: self.context.clone().unwrap_or(cluster),
            registry_host: env.registry.push.clone(),
            inside: None,
            lab: match (self.lab, self.no_lab) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
        };
        let repo = Repo { tree, env_name, env };
        run.reporter.tell_with(remedy::flags(&repo, &site));
        Ok(Context { run, repo, site })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_cannot_be_read_is_a_failure_for_programs_too() {
        let refused = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            super::refused(&Cli::try_parse_from(&words).err().unwrap(), &words)
        };
        let failure = refused("xtask layer 45 --forse --output json").unwrap();
        assert_eq!((failure.code, failure.message.as_str()), (Code::Usage, "unexpected argument '--forse' found"));
        assert!(failure.evidence.iter().any(|line| line.starts_with("Usage: cargo xtask")), "{:?}", failure.evidence);
        let failure = refused("xtask --output=json layer").unwrap();
        assert!(failure.message.contains("not provided: <LAYER>"), "{failure}");
        assert!(refused("xtask layer 45 --forse").is_none());
        assert!(refused("xtask layer --help --output json").is_none());
    }

    #[test]
    fn a_negative_number_reaches_what_says_which_are_expected() {
        for (line, expected) in [
            ("xtask layer 45 --lock-timeout -1", "expected a number of seconds"),
            ("xtask layer 45 --jobs -1", "expected a whole number, 1 or more"),
            ("xtask logs minio --tail -1", "-1 is not in 0.."),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
