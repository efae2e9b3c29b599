//! `cargo xtask completion SHELL` prints a script that lets a shell complete `cargo xtask …`; the
//! shell then calls `complete` with the words so far to get the candidates.
//!
//! clap's crate for this (`clap_complete`) declares its dynamic completion unstable, does not
//! support a command of two words, and would be built by everybody who types `cargo xtask`. This
//! walks the same description of the command line.

use camino::Utf8PathBuf;
use clap::{Arg, Command};
use image_mirror::ImageList;

use crate::repo::{Tree, environment};
use crate::run::foreign;
use crate::run::state::StateDir;
use crate::world::kubeconfig;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The script that a shell reads at startup.
pub fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("completion/cargo-xtask.bash"),
        Shell::Zsh => include_str!("completion/cargo-xtask.zsh"),
        Shell::Fish => include_str!("completion/cargo-xtask.fish"),
    }
}

/// Means that a file name may follow, which the shell completes better.
const FILES: &str = ":files";

/// The candidates for the last of these words, one per line, each with a description after a tab;
/// nothing if nothing is known, for whatever reason.
pub fn candidates(command: Command, words: &[String]) -> String {
    let tree = std::env::current_dir().ok().and_then(|folder| Utf8PathBuf::from_path_buf(folder).ok());
    let tree = tree.and_then(|folder| Tree::discover(&folder).ok());
    let lines = offered(command, words, tree.as_ref()).into_iter().map(|(value, about)| match about.is_empty() {
        true => format!("{value}\n"),
        false => format!("{value}\t{about}\n"),
    });
    lines.collect()
}

type Candidate = (String, String);

fn offered(mut command: Command, words: &[String], tree: Option<&Tree>) -> Vec<Candidate> {
    // Propagates global flags to each command.
    command.build();
    let Some((last, before)) = words.split_last() else { return Vec::new() };
    let mut place = Place { command: &command, positionals: 0, open: None, only_positionals: false, env: None };
    before.iter().for_each(|word| place.pass(word));
    let mut found = place.at(last, before, tree);
    // A shell would interpret other characters.
    found.retain(|(value, _)| {
        value == FILES || value.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=,:".contains(c))
    });
    found.retain(|(value, _)| value == FILES || value.starts_with(last.as_str()));
    found
}

/// The position in a command line where something is to be completed.
struct Place<'a> {
    command: &'a Command,
    /// How many of the command's own arguments come before it.
    positionals: usize,
    /// A flag whose value is missing, and how many values it already has.
    open: Option<(&'a Arg, usize)>,
    /// After `--`.
    only_positionals: bool,
    /// The environment that is chosen before it.
    env: Option<String>,
}

impl<'a> Place<'a> {
    fn pass(&mut self, word: &str) {
        if let Some((arg, given)) = self.open.take() {
            if arg.get_id() == "env" {
                self.env = Some(word.to_owned());
            }
            let most = arg.get_num_args().map_or(1, |range| range.max_values());
            self.open = (given + 1 < most).then_some((arg, given + 1));
        } else if self.only_positionals {
            self.positionals += 1;
        } else if word == "--" {
            self.only_positionals = true;
        } else if let Some(env) = word.strip_prefix("--env=") {
            self.env = Some(env.to_owned());
        } else if let Some(long) = word.strip_prefix("--") {
            let lacks_value = |arg: &&Arg| !long.contains('=') && wants_a_word(arg);
            self.open = self.long(long).filter(lacks_value).map(|arg| (arg, 0));
        } else if let Some(shorts) = word.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            // In `-vl` the value of `-l` is missing; `-lx` has it.
            let value = shorts
                .chars()
                .enumerate()
                .find_map(|(at, short)| Some((at, self.short(short)?)).filter(|(_, arg)| wants_a_word(arg)));
            self.open = value.filter(|(at, _)| at + 1 == shorts.chars().count()).map(|(_, arg)| (arg, 0));
        } else if let Some(command) = self.command.find_subcommand(word).filter(|_| self.positionals == 0) {
            *self = Self { command, positionals: 0, open: None, only_positionals: false, env: self.env.take() };
        } else {
            self.positionals += 1;
        }
    }

    fn at(&self, word: &str, before: &[String], tree: Option<&Tree>) -> Vec<Candidate> {
        if let Some((arg, given)) = self.open {
            return self.listed(arg, given, word, tree);
        }
        if !self.only_positionals
            && let Some((name, value)) = word.strip_prefix("--").and_then(|long| long.split_once('='))
        {
            let values = self.long(name).filter(|arg| takes_values(arg)).map(|arg| self.listed(arg, 0, value, tree));
            let whole =
                |(value, about): Candidate| (if value == FILES { value } else { format!("--{name}={value}") }, about);
            return values.into_iter().flatten().map(whole).collect();
        }
        if !self.only_positionals && word.starts_with('-') {
            let flags = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
            let flags = flags.filter_map(|arg| Some((format!("--{}", arg.get_long()?), about(arg.get_help()))));
            let once = |(flag, _): &Candidate| !before.contains(flag);
            return flags.filter(once).collect();
        }
        let commands = self.command.get_subcommands().filter(|command| !command.is_hide_set() && self.positionals == 0);
        let mut found: Vec<Candidate> =
            commands.map(|command| (command.get_name().to_owned(), about(command.get_about()))).collect();
        let positionals: Vec<&Arg> = self.command.get_positionals().collect();
        let many = |arg: &&&Arg| arg.get_num_args().is_some_and(|range| range.max_values() > 1);
        let arg = positionals.get(self.positionals).or_else(|| positionals.last().filter(many));
        if let Some(arg) = arg {
            found.extend(self.listed(arg, self.positionals, word, tree));
        }
        found
    }

    fn long(&self, long: &str) -> Option<&'a Arg> {
        let name = long.split('=').next();
        self.command.get_arguments().find(|arg| arg.get_long() == name)
    }

    fn short(&self, short: char) -> Option<&'a Arg> {
        self.command.get_arguments().find(|arg| arg.get_short() == Some(short))
    }

    /// The values of an argument; in a list, those after its last comma that it does not name yet.
    fn listed(&self, arg: &Arg, nth: usize, word: &str, tree: Option<&Tree>) -> Vec<Candidate> {
        let values = self.values(arg, nth, word, tree);
        let Some((before, _)) = word.rsplit_once(',').filter(|_| arg.get_value_delimiter() == Some(',')) else {
            return values;
        };
        let new = values.into_iter().filter(|(value, _)| !before.split(',').any(|named| named == value));
        new.map(|(value, about)| (format!("{before},{value}"), about)).collect()
    }

    /// The candidates for an argument's `nth` value: from a closed list, or names in the tree.
    fn values(&self, arg: &Arg, nth: usize, word: &str, tree: Option<&Tree>) -> Vec<Candidate> {
        let possible = arg.get_possible_values();
        if !possible.is_empty() {
            let shown = possible.iter().filter(|value| !value.is_hide_set());
            return shown.map(|value| (value.get_name().to_owned(), about(value.get_help()))).collect();
        }
        let names = arg.get_value_names().unwrap_or_default();
        let name = names.get(nth).or(names.last()).map_or("", |name| name.as_str());
        if name == "FILE" {
            return vec![(FILES.to_owned(), String::new())];
        }
        let Some(tree) = tree else { return Vec::new() };
        let mut found = Vec::new();
        match (self.command.get_name(), arg.get_id().as_str()) {
            (_, "context") => found.extend(contexts()),
            ("report", "run") | ("layer", "rollback") => found.extend(runs(tree, self.env.as_deref())),
            (_, "env") => found.extend(tree.environments().unwrap_or_default().into_iter().map(bare)),
            ("repair", "uninstall" | "rollback") if nth == 0 => found.extend(releases(tree)),
            ("open", "name") => {
                found.extend(releases(tree));
                found.extend(services(tree));
            }
            _ => {
                for kind in name.split('|') {
                    match kind {
                        "LAYER" => found.extend(layers(tree, word)),
                        "RELEASE" => found.extend(releases(tree)),
                        "IMAGE" => found.extend(images(tree)),
                        _ => {}
                    }
                }
            }
        }
        found.dedup_by(|one, other| one.0 == other.0);
        found
    }
}

fn takes_values(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|range| range.takes_values())
}

/// Whether its value is a separate word.
fn wants_a_word(arg: &Arg) -> bool {
    takes_values(arg) && !arg.is_require_equals_set()
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    foreign::line(text.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default())
}

fn bare(name: String) -> Candidate {
    (name, String::new())
}

/// By their full names; by the name without its number if that is being typed.
fn layers(tree: &Tree, word: &str) -> Vec<Candidate> {
    let by_stage = word.starts_with(|c: char| c.is_ascii_alphabetic());
    let layers = tree.layers().unwrap_or_default().into_iter();
    layers.map(|layer| bare(if by_stage { layer.stage.clone() } else { layer.name() })).collect()
}

/// From the layers' files, unrendered: asking Helmfile would take seconds.
fn releases(tree: &Tree) -> Vec<Candidate> {
    let mut found = Vec::new();
    for layer in tree.layers().unwrap_or_default() {
        let text = crate::repo::read(&layer.path).unwrap_or_default();
        let releases = text.lines().skip_while(|line| line.trim_end() != "releases:");
        let names = releases.filter_map(|line| line.strip_prefix("  - name: "));
        found.extend(names.map(|name| (name.trim().to_owned(), format!("release of {}", layer.name()))));
    }
    found
}

/// The services that a layer waits for.
fn services(tree: &Tree) -> Vec<Candidate> {
    let needs = tree.layer_needs().map(|needs| needs.layers).unwrap_or_default();
    let names = needs.into_values().flat_map(|needs| needs.services).map(|service| service.name);
    let names: std::collections::BTreeSet<String> = names.collect();
    names.into_iter().map(|name| (name, "service".to_owned())).collect()
}

/// The newest first, as many as fit on a screen.
fn runs(tree: &Tree, env: Option<&str>) -> Vec<Candidate> {
    // As for the command itself: the flag, else the variable, and an empty one counts as unset.
    let variable = std::env::var("HELMFILE_ENVIRONMENT").ok();
    let env = env.map(str::to_owned).or(variable).filter(|env| !env.is_empty());
    let env = tree.environment(env.as_deref().unwrap_or(environment::DEFAULT));
    let names = env.map(|env| StateDir::runs_of(&tree.root, &env.cluster.context)).unwrap_or_default();
    names.into_iter().take(20).map(bare).collect()
}

fn contexts() -> Vec<Candidate> {
    let known = kubeconfig::load().map(|config| config.contexts).unwrap_or_default();
    known.into_iter().map(|context| bare(context.name)).collect()
}

fn images(tree: &Tree) -> Vec<Candidate> {
    let list = ImageList::read(&tree.path("infra/images/images.yaml"));
    let images = list.map(|list| list.images).unwrap_or_default();
    images.into_iter().map(|image| (image.id, image.image)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    fn tree() -> Tree {
        Tree::discover(&Utf8PathBuf::from(env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    /// What is offered for the last word of a line.
    fn at(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        offered(Cli::command(), &words, Some(&tree())).into_iter().map(|(value, _)| value).collect()
    }

    #[test]
    fn what_is_closed_and_what_the_tree_names_is_offered() {
        for (line, expected) in [
            ("rel", &["releases"][..]),
            ("--env st", &["staging"]),
            ("--env=st", &["--env=staging"]),
            ("layer 4", &["40-data-plane", "42-db-migrations", "45-data-plane-ext"]),
            ("layer data", &["data-plane", "data-plane-ext"]),
            ("layer 10 24-", &["24-auth"]),
            ("--env ci -v layer --selector a=b 60", &["60-qa"]),
            ("layer -l a=b 60", &["60-qa"]),
            ("layer -vl a=b 60", &["60-qa"]),
            ("layer --rollback 60", &["60-qa"]),
            ("layer 10 --skip-tests --crit", &["--critical-path"]),
            ("layer -- 60", &["60-qa"]),
            ("logs mini", &["minio"]),
            ("logs --tail 5 tem", &["temporal"]),
            ("mirror bus", &["busybox"]),
            ("mirror busybox red", &["redis"]),
            ("open postgres", &["postgres-ameide", "postgres-ameide-rw"]),
            ("open minio red", &[]),
            ("releases re", &["repair"]),
            ("releases repair --uninstall neo", &["neo4j"]),
            ("releases repair --rollback neo", &["neo4j"]),
            ("releases repair --rollback neo4j neo", &[]),
            ("up --allow-destroy cl", &["cluster", "claim"]),
            ("up --allow-destroy=cluster,re", &["--allow-destroy=cluster,registry", "--allow-destroy=cluster,release"]),
            ("up --allow-destroy cluster,cl", &["cluster,claim"]),
            ("--output j", &["json"]),
            ("completion f", &["fish"]),
            ("report --format m", &["markdown"]),
            ("report --to ", &[FILES]),
            ("layer --plan=", &[FILES]),
            ("nonsense ", &[]),
            ("--lock-timeout 5", &[]),
            ("comple", &["completion"]),
            ("scr", &[]),
        ] {
            assert_eq!(at(line), expected, "{line}");
        }
        let all = at("");
        assert!(
            Cli::command()
                .get_subcommands()
                .all(|command| { command.is_hide_set() != all.iter().any(|offered| offered == command.get_name()) }),
            "{all:?}"
        );
    }

    #[test]
    fn every_flag_is_offered_once_with_what_it_does() {
        let words = ["up", "--dry-run", "--"].map(str::to_owned);
        let flags = offered(Cli::command(), &words, None);
        let of = |name: &str| flags.iter().find(|(flag, _)| flag == name);
        assert!(of("--skip-tests").is_some_and(|(_, about)| about == "Leave out `helm test`"), "{flags:?}");
        assert!(of("--env").is_some() && of("--dry-run").is_none(), "{flags:?}");
    }

    #[test]
    fn without_a_tree_there_are_no_names_and_no_errors() {
        for line in ["layer ", "--env ", "mirror ", "open ", "logs "] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(offered(Cli::command(), &words, None), Vec::new(), "{line}");
        }
        assert_eq!(offered(Cli::command(), &[], None), Vec::new());
    }
}
