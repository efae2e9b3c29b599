//! Shared by the tests: the tree, the tool's own binary, other programs, an HTTP server, and, for
//! the cluster tests, the cluster.

// Each test binary uses only part of it.
#![allow(dead_code)]

pub mod cluster;
pub mod devcontainers;
#[cfg(target_os = "linux")]
pub mod fresh_machine;
#[cfg(target_os = "linux")]
pub mod internet;
pub mod rendered;
pub mod server;
pub mod tls;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use xshell::{Shell, cmd};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// For commands that must succeed; at the root of the tree.
pub fn shell() -> Shell {
    let shell = Shell::new().unwrap();
    shell.change_dir(root());
    shell
}

/// Variables that would make a choice for a run which the test makes itself, or consent to
/// something.
const CHOOSING: [&str; 16] = [
    "HELMFILE_ENVIRONMENT",
    "HELM_LAYER_SELECTOR",
    "INFRA_CRITICAL_PATH",
    "K3D_REGISTRY_HEALTHCHECK_URL",
    "KUBE_CONTEXT",
    "XTASK_ALLOW_DESTROY",
    "XTASK_CONFIRM",
    "AMEIDE_IMAGES_LOCK",
    "AMEIDE_LAB_UPSTREAM",
    "DOCKERHUB_USERNAME",
    "DOCKERHUB_TOKEN",
    "DCKR_USERNAME",
    "DCKR_PAT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "TRACEPARENT",
];

/// A program with only the environment of a plain machine, not that of whoever started the tests.
pub fn plain(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env("NO_COLOR", "1");
    for variable in CHOOSING {
        command.env_remove(variable);
    }
    command
}

/// The tool, in this tree.
pub fn xtask(tree: &Path, arguments: &[&str]) -> Command {
    let mut command = plain(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(tree).args(arguments);
    command
}

/// One of the pinned tools, from where the tool itself gets it.
pub fn tool(name: &str) -> Command {
    let bin = bin();
    let mut command = plain(Path::new(bin).join(name));
    command.current_dir(root()).env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()));
    command
}

/// The folder with the pinned tools.
fn bin() -> &'static str {
    static BIN: OnceLock<String> = OnceLock::new();
    BIN.get_or_init(|| {
        let printed = succeeds(xtask(&root(), &["tools"]));
        printed.lines().find_map(|line| line.strip_prefix("export PATH=")?.split(':').next()).unwrap().to_owned()
    })
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A folder of the cache that `install` fills once for each content of `list`, which says what is
/// installed.
pub fn installed(name: &str, list: &Path, install: impl FnOnce(&Path)) -> PathBuf {
    let key = {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        std::fs::read(list).unwrap().hash(&mut hasher);
        hasher.finish()
    };
    let folder = ::xtask::files::cache_dir().unwrap().into_std_path_buf().join(format!("{name}-{key:016x}"));
    let cache = folder.parent().unwrap();
    std::fs::create_dir_all(cache).unwrap();
    let lock = std::fs::File::create(cache.join("lock")).unwrap();
    lock.lock().unwrap();
    // The last file that an installation writes: an incomplete one is repeated.
    let complete = folder.join("complete");
    if !complete.exists() {
        let _ = std::fs::remove_dir_all(&folder);
        install(&folder);
        std::fs::write(&complete, "").unwrap();
    }
    folder
}

#[track_caller]
pub fn succeeds(command: Command) -> String {
    ends(command, 0)
}

/// Runs a command and expects this exit code; returns what it printed.
#[track_caller]
pub fn ends(mut command: Command, exit: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(exit), "{command:?}\n{}", text(&output));
    text(&output)
}

/// Polls until the condition holds, for things that give no notification.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(120), "not seen within 120 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Does it for each item, this many in parallel; the first failure ends the test.
pub fn side_by_side<T: Send>(
    workers: usize,
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    each: impl Fn(T) + Sync,
) {
    let items = Mutex::new(items.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(item) = { items.lock().unwrap().next() } {
                    each(item);
                }
            });
        }
    });
}

/// Installs Debian packages, one caller at a time, because apt-get does not wait for its lock.
///
/// Returns whether that worked; it cannot on other systems, or without root.
pub fn apt_install(packages: &[&str]) -> bool {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    [&["update"][..], &[&["install", "-y", "--no-install-recommends"], packages].concat()].iter().all(|arguments| {
        let mut apt = Command::new("apt-get");
        apt.args(*arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        apt.status().is_ok_and(|status| status.success())
    })
}

/// Writes a stand-in for a program.
pub fn write_program(path: &Path, script: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, script).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Copies the tool's configuration, so that tests can change it. The charts, which have more files
/// than everything else, stay the tree's own: only programs that are replaced by stand-ins read
/// them.
pub fn copy_configuration(to: &Path) {
    let kubernetes = to.join("infra/kubernetes");
    std::fs::create_dir_all(&kubernetes).unwrap();
    let shell = shell();
    let parts = ["docker", "images", "tools"].map(|part| root().join("infra").join(part));
    let to = to.join("infra");
    cmd!(shell, "cp -r {parts...} {to}").quiet().run().unwrap();
    let parts = std::fs::read_dir(root().join("infra/kubernetes")).unwrap().map(|entry| entry.unwrap().path());
    let (charts, parts): (Vec<_>, Vec<_>) = parts.partition(|path| path.ends_with("charts"));
    cmd!(shell, "cp -r {parts...} {kubernetes}").quiet().run().unwrap();
    std::os::unix::fs::symlink(&charts[0], kubernetes.join("charts")).unwrap();
}

/// Edits a file.
pub fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = change(std::fs::read_to_string(path).unwrap());
    std::fs::write(path, text).unwrap();
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a signal to a process, which may have ended by itself.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).output();
}

/// A new terminal: the program's side, and ours.
pub fn terminal() -> [std::fs::File; 2] {
    use std::os::fd::FromRawFd;
    let (mut ours, mut theirs) = (0, 0);
    let nothing = std::ptr::null_mut();
    // SAFETY: both are written to, the others may be null (openpty(3)), and nobody else has them.
    unsafe {
        assert_eq!(libc::openpty(&mut ours, &mut theirs, nothing, nothing.cast(), nothing.cast()), 0);
        libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(theirs, libc::F_SETFD, libc::FD_CLOEXEC);
        [std::fs::File::from_raw_fd(theirs), std::fs::File::from_raw_fd(ours)]
    }
}

/// Runs a program on its own terminal, as its standard input, output and error.
pub fn on(command: &mut Command, terminal: std::fs::File) {
    use std::os::unix::process::CommandExt;
    command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
    // SAFETY: all three calls are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // These tests may have been started by `nohup`, which the tool would respect.
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY as _, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// An old script by its path, called from another folder through a path with spaces.
pub struct OldScripts(tempfile::TempDir);

impl OldScripts {
    pub fn command(&self, path: &str, arguments: &[&str]) -> Command {
        let mut command = plain(self.0.path().join("a tree").join(path));
        command.current_dir(self.0.path()).args(arguments);
        command
    }
}

pub fn old_scripts() -> OldScripts {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root(), folder.path().join("a tree")).unwrap();
    OldScripts(folder)
}
