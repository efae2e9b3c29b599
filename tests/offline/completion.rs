//! Completion in the shells themselves: a key is pressed on a terminal, and what counts is what the
//! shell makes of the line.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::support::{apt_install, eventually, on, plain, root, succeeds, terminal, xtask};

/// As cargo knows it: it holds what was built for this tree.
fn target() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_xtask")).ancestors().nth(2).unwrap().to_owned()
}

/// The shells, installed first if they are missing on Debian and this is root.
fn shell(name: &str) -> Command {
    let there = || Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(there() || apt_install(&[name]), "no {name}: install it (Debian: apt-get install {name}, as root)");
    let mut command = plain(name);
    command.current_dir(root()).env("CARGO_TARGET_DIR", target()).env("TERM", "xterm");
    command
}

fn script(folder: &Path, shell: &str) -> PathBuf {
    let path = folder.join(format!("cargo-xtask.{shell}"));
    std::fs::write(&path, succeeds(xtask(&root(), &["completion", shell]))).unwrap();
    path
}

/// A shell on a terminal, whose `cargo` reports how it was called.
struct Session {
    child: Child,
    keys: File,
    screen: Arc<Mutex<String>>,
    _home: tempfile::TempDir,
}

impl Session {
    /// Completion for cargo itself is loaded before ours.
    fn start(name: &str, target: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        let script = script(home.path(), name).display().to_string();
        let asked = "cargo() { printf 'ASKED<%s>\\n' \"$*\"; }\n";
        let mut command = shell(name);
        let (file, text) = match name {
            "bash" => (
                ".bashrc",
                format!(
                    "{asked}_of_cargo() {{ COMPREPLY=(of-cargo-itself); }}\ncomplete -F _of_cargo cargo\n. {script}\nPS1='READY '\n"
                ),
            ),
            _ => (
                ".zshrc",
                format!(
                    "{asked}autoload -Uz compinit; compinit -u\n_of_cargo() {{ compadd of-cargo-itself; }}\ncompdef _of_cargo cargo\n. {script}\nPS1='READY '\n"
                ),
            ),
        };
        let file = home.path().join(file);
        std::fs::write(&file, text).unwrap();
        match name {
            "bash" => command.args(["--noprofile", "--rcfile"]).arg(&file).arg("-i"),
            _ => command.args(["-d", "-i"]).env("ZDOTDIR", home.path()),
        };
        // Cargo takes either variable.
        command.env("HOME", home.path()).env("CARGO_TARGET_DIR", "").env("CARGO_BUILD_TARGET_DIR", target);
        let [theirs, ours] = terminal();
        on(&mut command, theirs);
        let child = command.spawn().unwrap();
        drop(command);
        let (screen, mut output) = (Arc::new(Mutex::new(String::new())), ours.try_clone().unwrap());
        let seen = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        let session = Self { child, keys: ours, screen, _home: home };
        session.shows("READY ");
        session
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        let started = std::time::Instant::now();
        eventually(&format!("{text} on the screen"), || {
            let screen = self.screen.lock().unwrap();
            assert!(started.elapsed().as_secs() < 30, "{text:?} is not shown:\n{screen}");
            screen.contains(text)
        });
    }

    fn types(&mut self, keys: &str) {
        self.screen.lock().unwrap().clear();
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Asserts that a line is completed, shows `shown`, and calls cargo with `asked`.
    #[track_caller]
    fn completes(&mut self, line: &str, shown: &str, asked: &str) {
        self.types(&format!("{line}\t"));
        self.shows(shown);
        self.types("\n");
        self.shows(&format!("ASKED<{asked}>"));
        self.shows("READY ");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn bash_and_zsh_complete_what_the_tree_has_and_leave_cargo_its_own() {
    for name in ["bash", "zsh"] {
        let mut session = Session::start(name, &target());
        session.completes("cargo xtask layer 45", "data-plane-ext", "xtask layer 45-data-plane-ext");
        session.completes("cargo xtask --env=st", "aging", "xtask --env=staging");
        session.completes("cargo xtask checkl", "ist", "xtask checklist");
        session.completes("cargo xtask up --skip", "-tests", "xtask up --skip-tests");
        session.completes("cargo xtask mirror busy", "box", "xtask mirror busybox");
        session.completes("cargo xtask logs neo", "4j", "xtask logs neo4j");
        session.completes("cargo xtask report --to README", ".md", "xtask report --to README.md");
        session.completes("cargo of-", "cargo-itself", "of-cargo-itself");
        // Ambiguous completions are listed.
        session.types("cargo xtask up --allow-destroy cl\t\t");
        for kind in ["claim", "cluster"] {
            session.shows(kind);
        }
        // Nothing is built to complete a line, and nothing is printed.
        let mut bare = Session::start(name, Path::new("/nowhere"));
        bare.types("cargo xtask layer 45\t\n");
        bare.shows("ASKED<xtask layer 45>");
        let screen = bare.screen.lock().unwrap().clone();
        assert!(!screen.contains("nowhere") && !screen.contains("Compiling"), "{name}: {screen}");
    }
}

#[test]
fn fish_completes_what_the_tree_has_and_leaves_cargo_its_own() {
    let home = tempfile::tempdir().unwrap();
    let script = script(home.path(), "fish");
    let ask = |line: &str, target: &Path| {
        let mut fish = shell("fish");
        fish.args(["--no-config", "--command"]).env("HOME", home.path()).env("CARGO_TARGET_DIR", target);
        fish.arg(format!("source {}; complete --do-complete '{line}'", script.display()));
        let said = succeeds(fish);
        said.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let offered = |line: &str| ask(line, &target());
    assert_eq!(offered("cargo xtask layer 45"), ["45-data-plane-ext"]);
    let mut fish = shell("fish");
    fish.args(["--no-config", "--command"]).env("HOME", home.path()).env("CARGO_TARGET_DIR", "");
    fish.env("CARGO_BUILD_TARGET_DIR", target());
    fish.arg(format!("source {}; complete --do-complete 'cargo xtask layer 45'", script.display()));
    assert!(succeeds(fish).starts_with("45-data-plane-ext"), "cargo takes either variable");
    assert_eq!(offered("cargo xtask --env st"), ["staging"]);
    assert_eq!(offered("cargo xtask --env=st"), ["--env=staging"]);
    assert_eq!(offered("cargo xtask up --skip"), ["--skip-tests"]);
    assert!(offered("cargo xtask report --to READ").iter().any(|name| name == "README.md"));
    assert!(!offered("cargo bui").iter().any(|name| name == "up"));
    assert_eq!(ask("cargo xtask layer 45", Path::new("/nowhere")), Vec::<String>::new());
}

#[test]
fn runs_and_contexts_are_those_that_this_machine_has() {
    let home = tempfile::tempdir().unwrap();
    let kubeconfig = home.path().join("config");
    std::fs::write(&kubeconfig, "apiVersion: v1\nkind: Config\ncontexts: [{name: k3d-own, context: {cluster: a, user: b}}, {name: team, context: {cluster: a, user: b}}]\n").unwrap();
    for run in [
        "k3d-ameide/runs/20261101-100000-1",
        "k3d-ameide/runs/20261102-100000-1",
        "k3d-ameide-ci/runs/20261103-100000-1",
    ] {
        std::fs::create_dir_all(home.path().join(run)).unwrap();
    }
    let offered_in = |env: &str, words: &[&str]| {
        let mut command = xtask(&root(), &[&["complete", "--"], words].concat());
        command.env("AMEIDE_STATE_DIR", home.path()).env("KUBECONFIG", &kubeconfig);
        command.env("HELMFILE_ENVIRONMENT", env);
        succeeds(command).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let offered = |words: &[&str]| offered_in("", words);
    assert_eq!(offered_in("ci", &["report", ""]), ["20261103-100000-1"]);
    let newest_first = ["20261102-100000-1", "20261101-100000-1"];
    assert_eq!(offered(&["report", ""]), newest_first);
    assert_eq!(offered_in("ci", &["--env=local", "report", ""]), newest_first);
    assert_eq!(offered(&["--env", "ci", "report", "2026"]), ["20261103-100000-1"]);
    assert_eq!(offered(&["--env=ci", "report", "2026"]), ["20261103-100000-1"]);
    assert_eq!(offered(&["layer", "45", "--rollback=2026110"]), newest_first.map(|run| format!("--rollback={run}")));
    assert_eq!(offered(&["--context", "k"]), ["k3d-own"]);
    // Looking for completions creates nothing.
    assert!(!home.path().join("k3d-ameide/k3d-cluster.lock").exists());
}
