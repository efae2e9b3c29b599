//! A machine that never saw this project, on the one that the tests run on: its own namespaces for
//! network, mounts and processes, no running Docker Engine, no home, a work tree with the committed
//! files. Its network leads only to listeners that a test puts there.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use xshell::cmd;

use super::{eventually, plain, root, shell};

pub struct FreshMachine {
    folder: tempfile::TempDir,
    unshare: Child,
    /// The pid, outside, of the first process in the namespaces.
    init: u32,
}

/// Gives the machine its own version of what must not be shared, and stays running.
const SET_UP: &str = r#"set -eu
ip link set lo up
resolver=$(readlink -f /etc/resolv.conf)
mount -t tmpfs tmpfs /run
mkdir -p "${resolver%/*}"
[ -e "$resolver" ] || touch "$resolver"
mount -t tmpfs tmpfs /var/log
mount --bind "$1/docker" /var/lib/docker
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/resolv.conf" "$resolver"
mount --bind "$1/authorities.pem" /etc/ssl/certs/ca-certificates.crt
touch "$1/ready"
exec sleep infinity
"#;

impl FreshMachine {
    /// `authority`: the certificate of the only authority that it trusts.
    pub fn new(authority: &Path) -> Self {
        // Not in memory: a whole cluster's images and volumes will be here.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["docker", "home", "a work tree"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::fs::write(path("hosts"), "127.0.0.1 localhost\n").unwrap();
        std::fs::write(path("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        std::fs::copy(authority, path("authorities.pem")).unwrap();
        let (shell, tree) = (shell(), path("a work tree"));
        let files = cmd!(shell, "git ls-files --cached --others --exclude-standard").quiet().read().unwrap();
        let archive = cmd!(shell, "tar -c --ignore-failed-read -T -").stdin(files).quiet().ignore_stderr();
        let archive = archive.output().unwrap().stdout;
        cmd!(shell, "tar -x -C {tree}").stdin(archive).quiet().run().unwrap();
        let (unshare, init) = boot(folder.path());
        Self { folder, unshare, init }
    }

    /// The power fails, and comes back: every process ends at once, and what is on disk stays.
    /// Listeners are gone too.
    pub fn reboot(&mut self) {
        self.power_off();
        (self.unshare, self.init) = boot(self.folder.path());
    }

    fn power_off(&mut self) {
        // When the first process ends, so do all others of the namespace, and the mounts are
        // removed.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        // This takes a moment, also for the engine's folder.
        let gone = format!("/proc/{}", self.init);
        let started = std::time::Instant::now();
        while Path::new(&gone).exists() && started.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn tree(&self) -> PathBuf {
        self.path("a work tree")
    }

    /// What its names resolve to: one address for all of them, or none.
    pub fn resolves(&self, names: &[&str], address: Option<&str>) {
        let own = address.map(|address| format!("{address} {}\n", names.join(" "))).unwrap_or_default();
        // Written in place: it is mounted.
        std::fs::write(self.path("hosts"), format!("127.0.0.1 localhost\n{own}")).unwrap();
    }

    /// A listener on this machine's network, for a server outside it.
    pub fn listener(&self, address: &str) -> TcpListener {
        let (network, address) = (File::open(format!("/proc/{}/ns/net", self.init)).unwrap(), address.to_owned());
        // Only a separate thread enters the namespace, and then ends.
        let moved = std::thread::spawn(move || {
            // SAFETY: the descriptor is open, and is a network namespace's.
            assert_eq!(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            TcpListener::bind(address).unwrap()
        });
        moved.join().unwrap()
    }

    /// A program on this machine, in the work tree, with only the environment of a login.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = plain("nsenter");
        command.args(["--target", &self.init.to_string(), "--net", "--mount", "--pid", "env", "-i", "-C"]);
        command.arg(self.tree());
        command.arg(format!("HOME={}", self.path("home").display())).args(["TERM=dumb", "NO_COLOR=1", PATH]);
        command.arg(program).args(arguments).current_dir(root());
        command
    }

    pub fn xtask(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
        let variables: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut words: Vec<&str> = variables.iter().map(String::as_str).collect();
        words.push(env!("CARGO_BIN_EXE_xtask"));
        words.extend(arguments);
        self.command("env", &words)
    }
}

/// Without Go: a user of released tools has none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Drop for FreshMachine {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// Starts a machine on this folder; returns its first process.
fn boot(folder: &Path) -> (Child, u32) {
    let ready = folder.join("ready");
    let _ = std::fs::remove_file(&ready);
    let namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
    let mut unshare = Command::new("unshare");
    unshare.args(namespaces).args(["--propagation", "private", "sh", "-c", SET_UP, "sh"]).arg(folder);
    // SAFETY: prctl is async-signal-safe.
    unsafe {
        // A killed test leaves no machine behind.
        unshare.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let unshare = unshare.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    eventually("a machine of its own", || ready.exists());
    let children = format!("/proc/{0}/task/{0}/children", unshare.id());
    let init = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    (unshare, init)
}
