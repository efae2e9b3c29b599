//! This tool's own commands in what it tells people: pasted, each must reach the cluster of the run
//! that told it. Commands that are only quoted stay as they are.

/// How each of them begins.
const START: &str = "cargo xtask ";

/// The same in a quotation, on its way to the reporter, which writes `START` again.
const QUOTED: &str = "cargo\u{1f}xtask ";

/// The flags by which a command reaches the cluster of this run. Each is empty, or followed by a
/// space.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub context: String,
    pub env: String,
}

impl Flags {
    /// Adds the flags to each of this tool's commands, except for those that it has already. Doing so
    /// again changes nothing.
    pub fn put_into(&self, text: &str) -> String {
        let mut parts = text.split(START);
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, rest| {
            // They stand before the subcommand, both with their values; our own may be long.
            let context = rest.strip_prefix(&*self.context).filter(|_| !self.context.is_empty());
            let after = context.unwrap_or(rest);
            let has = |flag: &str| {
                let mut words = after.split(' ').take_while(|word| !word.ends_with([';', ')'])).take(4);
                words.any(|word| word == flag) || context.is_some() && flag == "--context"
            };
            let quoted = names_a_run(rest);
            let context = if quoted || has("--context") { "" } else { &self.context };
            let env = if quoted || has("--env") { "" } else { &self.env };
            format!("{text}{START}{context}{env}{rest}")
        })
    }
}

/// Whether this is somebody's run, as the holder of a lock or Lease is described: `COMMAND by
/// USER@HOST (pid N)`.
fn names_a_run(rest: &str) -> bool {
    let who = rest.split_once(" (pid ").and_then(|(before, _)| before.rsplit_once(" by "));
    who.is_some_and(|(_, who)| who.contains('@') && !who.contains(' '))
}

/// What another program printed, as part of a sentence of this tool: no flags are added to it.
pub fn quoted(text: &str) -> String {
    text.replace(START, QUOTED)
}

/// Any text, as whoever quoted from it found it.
pub(super) fn unquoted(text: &str) -> String {
    text.replace(QUOTED, START)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(context: &str, env: &str) -> Flags {
        Flags { context: context.to_owned(), env: env.to_owned() }
    }

    #[test]
    fn a_command_names_context_and_environment_once() {
        for (text, named) in [
            ("cargo xtask cluster", "cargo xtask --env ci cluster"),
            ("cargo xtask --env ci cluster", "cargo xtask --env ci cluster"),
            (
                "wait, then cargo xtask layer 10; or cargo xtask up",
                "wait, then cargo xtask --env ci layer 10; or cargo xtask --env ci up",
            ),
            ("docker login", "docker login"),
        ] {
            assert_eq!(flags("", "--env ci ").put_into(text), named);
            assert_eq!(Flags::default().put_into(text), text);
            for context in ["--context b ", "--context 'my (big) cluster of ours' "] {
                let (elsewhere, flags) =
                    (named.replace(START, &format!("{START}{context}")), flags(context, "--env ci "));
                assert_eq!(flags.put_into(text), elsewhere);
                assert_eq!(flags.put_into(&elsewhere), elsewhere);
            }
        }
    }

    #[test]
    fn what_is_quoted_is_told_as_it_was_found() {
        let flags = flags("--context b ", "--env ci ");
        let run = "waiting for cargo xtask --env ci --yes layer 45 by root@host (pid 1), for 3 s";
        assert_eq!(flags.put_into(run), run);
        let told = format!("see the log (last: {}): cargo xtask up", quoted("run cargo xtask layer 10"));
        let told = unquoted(&flags.put_into(&told));
        assert_eq!(told, "see the log (last: run cargo xtask layer 10): cargo xtask --context b --env ci up");
    }
}
