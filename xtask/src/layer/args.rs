//! What a run of layers is asked for, as its command line says it.

use std::num::NonZeroUsize;

use camino::Utf8PathBuf;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Numbers (45), names (data-plane-ext), paths, or ranges (10-45)
    #[arg(value_name = "LAYER", required_unless_present_any = ["all", "list", "plan"])]
    pub selectors: Vec<String>,
    /// Every layer
    #[arg(long, conflicts_with = "selectors")]
    pub all: bool,
    /// List the layers, or the selected ones, and stop
    #[arg(long)]
    pub list: bool,
    /// With --list: those of INFRA_CRITICAL_PATH, else of layers.yaml, in that order
    #[arg(long, requires = "list", conflicts_with = "selectors")]
    pub critical_path: bool,
    /// Leave out `helm test`
    #[arg(long)]
    pub skip_tests: bool,
    /// Helmfile's label selector, to sync a part of a layer
    #[arg(short = 'l', long, env = "HELM_LAYER_SELECTOR", value_name = "LABEL=VALUE")]
    pub selector: Option<String>,
    /// Take back fields that others have changed since (kubectl, a controller): the tree's values
    /// win, and the flag is the consent
    #[arg(long)]
    pub force_conflicts: bool,
    /// Also sync what has not changed
    #[arg(long)]
    pub force: bool,
    /// With --dry-run: also send each object to the API server as a dry run (conflicts, immutable
    /// fields, webhooks)
    #[arg(long, requires = "dry_run")]
    pub server: bool,
    /// With --dry-run: exit 1 if a run would change anything, 0 if not, more for errors
    #[arg(long, requires = "dry_run")]
    pub exit_code: bool,
    /// With --dry-run: write the result to this file, for --plan
    #[arg(long, requires = "dry_run", value_name = "FILE")]
    pub save_plan: Option<Utf8PathBuf>,
    /// Do what this file says, or refuse if anything that it is based on has changed since
    #[arg(long, value_name = "FILE", conflicts_with_all = ["selectors", "all", "list", "save_plan", "force", "force_conflicts", "skip_tests"])]
    pub plan: Option<Utf8PathBuf>,
    /// Take its releases back together to the revisions of its last good run, or of RUN
    #[arg(
        long,
        value_name = "RUN",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with_all = ["list", "force", "jobs", "keep_going", "remove", "plan", "save_plan", "exit_code", "server"]
    )]
    pub rollback: Option<Option<String>>,
    /// Uninstall its releases; what holds data stays, unless --allow-destroy names claim
    #[arg(long, conflicts_with_all = ["list", "skip_tests", "force", "force_conflicts", "jobs", "keep_going", "plan", "save_plan", "exit_code", "server"])]
    pub remove: bool,
    #[command(flatten)]
    pub pace: Pace,
}

/// How a run goes through several layers.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Pace {
    /// How many layers to work on at once, as far as layers.yaml allows [default: the number of
    /// processors]
    #[arg(short, long, value_name = "N", value_parser = jobs, allow_negative_numbers = true)]
    pub jobs: Option<NonZeroUsize>,
    /// After a failure, go on with the layers that do not need the failed one
    #[arg(long)]
    pub keep_going: bool,
}

fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected a whole number, 1 or more".to_owned())
}

impl Pace {
    pub(crate) fn jobs(self) -> usize {
        let processors = || std::thread::available_parallelism().ok();
        self.jobs.or_else(processors).map_or(1, NonZeroUsize::get)
    }
}

impl Args {
    /// Whole layers with their tests, as a command line without flags would request.
    pub fn of(selectors: Vec<String>) -> Self {
        Self { selectors, ..Self::default() }
    }

    /// Helmfile's selector; an empty variable counts as unset.
    pub(crate) fn selector(&self) -> Option<&str> {
        self.selector.as_deref().map(str::trim).filter(|selector| !selector.is_empty())
    }

    /// With `HELM_LAYER_SELECTOR`, as the command line would take it.
    pub fn selected_by_environment(self) -> Self {
        Self { selector: std::env::var("HELM_LAYER_SELECTOR").ok(), ..self }
    }
}
