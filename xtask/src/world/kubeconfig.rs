//! The kubeconfig: read as `kubectl` reads it, and how the entries of a k3d cluster are added and
//! removed while others may write to it too.
//!
//! Reading follows client-go's `tools/clientcmd/loader.go`: every file of `KUBECONFIG`, else
//! `~/.kube/config`; a missing one is skipped, a malformed one is an error; the first file that
//! sets a value wins. Writing takes `FILE.lock`, as `kubectl config` does, so that no writer loses
//! the changes of another. k3d itself takes no such lock, and refuses a list of several files, so
//! it is never allowed to write the file.
//!
//! A parser's message may quote the line, and with it a token: messages only give the position.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, Instant, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use kube::config::{Kubeconfig, KubeconfigError};
use serde_json::Value;

use crate::files::{bounds, env_path, is_named};
use crate::host;
use crate::run::foreign::plain;
use crate::run::interrupt::Interrupt;
use run_record::{Code, Failure, human_seconds};

/// The kubeconfig's lists, and the key of an entry in each.
const LISTS: [(&str, &str); 3] = [("clusters", "cluster"), ("users", "user"), ("contexts", "context")];

/// How long to wait for another writer's lock. `kubectl` holds it for milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The files in effect, each once, in order of precedence.
///
/// # Errors
/// A name that is not UTF-8.
pub fn files() -> Result<Vec<Utf8PathBuf>, Failure> {
    let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) else {
        return Ok(env_path("HOME").map(|home| home.join(".kube/config")).into_iter().collect());
    };
    let mut files: Vec<Utf8PathBuf> = Vec::new();
    for path in std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()) {
        let path = Utf8PathBuf::from_path_buf(path)
            .map_err(|path| Failure::usage(format!("KUBECONFIG names {}, which is not UTF-8", path.display())))?;
        if !files.contains(&path) {
            files.push(path);
        }
    }
    Ok(files)
}

/// All files merged.
///
/// # Errors
/// `usage` for an existing file that cannot be read, or is not a kubeconfig; it is named.
pub fn load() -> Result<Kubeconfig, Failure> {
    merged(&files()?)
}

fn merged(files: &[Utf8PathBuf]) -> Result<Kubeconfig, Failure> {
    let mut all = Kubeconfig::default();
    for path in files {
        let Some(mut config) = read(path)? else { continue };
        // An empty value counts as unset, so that the next file decides.
        config.current_context = config.current_context.filter(|name| !name.is_empty());
        all = all.merge(config).map_err(|error| broken(path, error))?;
    }
    Ok(all)
}

/// `None` if there is no such file.
fn read(path: &Utf8Path) -> Result<Option<Kubeconfig>, Failure> {
    // Anything that is not a regular file, such as a shell's `<(…)`, can be read only once.
    if std::fs::metadata(path).is_ok_and(|file| file.is_file()) {
        match bounds::read(path, bounds::SETTINGS).map(|text| unfolds(&text).map_err(|error| unparsed(&error))) {
            Err(error) if error.kind() == ErrorKind::FileTooLarge => return Err(told(path, &error.to_string())),
            Ok(Err(why)) => return Err(told(path, &why)),
            _ => {}
        }
    }
    match Kubeconfig::read_from(path) {
        Ok(config) => Ok(Some(config)),
        Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(broken(path, error)),
    }
}

fn broken(path: &Utf8Path, error: KubeconfigError) -> Failure {
    let why = match error {
        KubeconfigError::ReadConfig(error, _) => format!("cannot be read: {}", plain(&error.to_string())),
        KubeconfigError::Parse(error) => unparsed(&error),
        KubeconfigError::KindMismatch | KubeconfigError::ApiVersionMismatch => {
            "is of another kind or apiVersion than the files before it in KUBECONFIG".to_owned()
        }
        other => format!("is not a kubeconfig: {other}"),
    };
    told(path, &why)
}

/// Checks this because the client library allows aliases to expand to a million values.
pub(crate) fn unfolds(text: &str) -> Result<(), serde_saphyr::Error> {
    if text.contains('&') { bounds::yaml::<Value>(text).map(drop) } else { Ok(()) }
}

fn told(path: &Utf8Path, why: &str) -> Failure {
    Failure::usage(format!("{path} {why}")).evidence("it is a file of KUBECONFIG, or ~/.kube/config").remedy(format!(
        "correct it, or leave it out of KUBECONFIG; kubectl config view --kubeconfig {path} reads it too"
    ))
}

fn unparsed(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(at) => format!("is not a kubeconfig: line {}, column {}", at.line(), at.column()),
        None => "is not a kubeconfig".to_owned(),
    }
}

/// What is done with the entries that k3d makes for a cluster.
pub(crate) enum Change<'a> {
    /// Removes the context, cluster and user of this name.
    Forget { context: &'a str, user: &'a str },
    /// Sets these entries, each given by its list's name and its content.
    Put { entries: &'a [(&'static str, Value)], current: Option<&'a str> },
}

impl Change<'_> {
    /// Applies it; returns whether anything changed.
    fn apply(&self, config: &mut Value) -> bool {
        let before = config.clone();
        match self {
            Self::Forget { context, user } => {
                for (list, _) in LISTS {
                    let name = if list == "users" { user } else { context };
                    if let Some(entries) = config.get_mut(list).and_then(Value::as_array_mut) {
                        entries.retain(|entry| name_of(entry) != Some(name));
                    }
                }
                if config.get("current-context").and_then(Value::as_str) == Some(context) {
                    config["current-context"] = Value::from("");
                }
            }
            Self::Put { entries, current } => {
                if !config.is_object() {
                    *config = serde_json::json!({"apiVersion": "v1", "kind": "Config"});
                }
                for (list, entry) in *entries {
                    if !config[*list].is_array() {
                        config[*list] = Value::Array(Vec::new());
                    }
                    let Some(known) = config[*list].as_array_mut() else { continue };
                    match known.iter_mut().find(|other| name_of(other) == name_of(entry)) {
                        Some(other) => *other = entry.clone(),
                        None => known.push(entry.clone()),
                    }
                }
                if let Some(current) = current {
                    config["current-context"] = Value::from(*current);
                }
            }
        }
        *config != before
    }
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("name").and_then(Value::as_str)
}

/// The text after a change; `None` if nothing changed. Unknown fields are kept, and so is the text
/// of every entry that is not changed, including comments, if the file is in block style, as all
/// tools write it.
pub(crate) fn changed(text: &str, change: &Change) -> Result<Option<String>, String> {
    let config: Value =
        if text.trim().is_empty() { Value::Null } else { bounds::yaml(text).map_err(|error| unparsed(&error))? };
    let mut wanted = config.clone();
    if !change.apply(&mut wanted) {
        return Ok(None);
    }
    let spliced = splice(text, &config, &wanted);
    let same = |text: &String| bounds::yaml::<Value>(text).is_ok_and(|again| again == wanted);
    match spliced.filter(same) {
        Some(text) => Ok(Some(text)),
        None => serde_saphyr::to_string(&wanted).map(Some).map_err(|error| error.to_string()),
    }
}

/// Changes entries in the text itself. `None` if it is not in block style; the caller parses the
/// result again.
fn splice(text: &str, config: &Value, wanted: &Value) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (list, _) in LISTS {
        let none = Vec::new();
        let (old, new) = (config[list].as_array().unwrap_or(&none), wanted[list].as_array().unwrap_or(&none));
        if old == new {
            continue;
        }
        let head = lines
            .iter()
            .position(|line| line.split('#').next().unwrap_or_default().trim_end() == format!("{list}:"))?;
        let first = lines[head + 1..].iter().find(|line| !is_blank(line))?;
        let indent = first.len() - first.trim_start().len();
        let opens = |line: &str| line.len() - line.trim_start().len() == indent && line.trim_start().starts_with("- ");
        let end = lines[head + 1..]
            .iter()
            .position(|line| !is_blank(line) && !opens(line) && line.len() - line.trim_start().len() <= indent)
            .map_or(lines.len(), |length| head + 1 + length);
        let starts: Vec<usize> = (head + 1..end).filter(|&line| opens(&lines[line])).collect();
        if starts.len() != old.len() {
            return None;
        }
        let mut body: Vec<String> = lines[head + 1..starts.first().copied().unwrap_or(end)].to_vec();
        for (index, entry) in old.iter().enumerate() {
            let stop = starts.get(index + 1).copied().unwrap_or(end);
            match new.iter().find(|other| name_of(other) == name_of(entry)) {
                Some(same) if same == entry => body.extend_from_slice(&lines[starts[index]..stop]),
                Some(other) => body.extend(item(other, indent)?),
                None => {}
            }
        }
        for entry in new.iter().filter(|entry| !old.iter().any(|other| name_of(other) == name_of(entry))) {
            body.extend(item(entry, indent)?);
        }
        if new.is_empty() {
            lines[head] = format!("{list}: []");
        }
        lines.splice(head + 1..end, body);
    }
    if config["current-context"] != wanted["current-context"] {
        let named = serde_saphyr::to_string(&wanted["current-context"]).ok()?;
        let line = format!("current-context: {}", named.trim_end());
        match lines.iter().position(|line| line.starts_with("current-context:")) {
            Some(at) => lines[at] = line,
            None => lines.push(line),
        }
    }
    Some(lines.join("\n") + "\n")
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#')
}

fn item(entry: &Value, indent: usize) -> Option<Vec<String>> {
    let text = serde_saphyr::to_string(entry).ok()?;
    let lines = text.lines().enumerate();
    Some(lines.map(|(index, line)| format!("{:indent$}{}{line}", "", if index == 0 { "- " } else { "  " })).collect())
}

/// Removes the context, cluster and user that k3d made for this cluster from every file. Returns
/// whether there were any.
///
/// # Errors
/// A file that names the cluster and cannot be rewritten; it is left unchanged.
pub async fn forget(cluster: &str) -> Result<bool, Failure> {
    forget_in(&files()?, cluster).await
}

async fn forget_in(files: &[Utf8PathBuf], cluster: &str) -> Result<bool, Failure> {
    let context = format!("k3d-{cluster}");
    let change = Change::Forget { context: &context, user: &format!("admin@{context}") };
    let mut found = false;
    for path in files {
        // A file that does not even name it need not be readable for us.
        if bounds::ends(path, bounds::SETTINGS, 0)
            .is_ok_and(|(text, ..)| String::from_utf8_lossy(&text).contains(&context))
        {
            found |= write(path, &change).await?;
        }
    }
    Ok(found)
}

/// Adds the entries of a kubeconfig (as `k3d kubeconfig get` prints it) to the file that already
/// has each of them, else to the one that `kubectl config` would write to. Its context becomes the
/// current one if there is none. `server` is the API server's address from here, if it differs from
/// k3d's.
///
/// # Errors
/// `usage` for a malformed file, `lock-timeout`, `state-unwritable`.
pub async fn put(kubeconfig: &str, server: Option<&str>) -> Result<(), Failure> {
    put_into(&files()?, kubeconfig, server).await
}

async fn put_into(files: &[Utf8PathBuf], kubeconfig: &str, server: Option<&str>) -> Result<(), Failure> {
    let failed =
        |why: String| Failure::new(Code::ClusterFailed, "k3d returned no kubeconfig for the cluster").evidence(why);
    let mut new: Value = bounds::yaml(kubeconfig).map_err(|error| failed(unparsed(&error)))?;
    if let (Some(server), Some(current)) = (server, new.pointer_mut("/clusters/0/cluster/server")) {
        *current = Value::from(server);
    }
    let all = merged(files)?;
    let current = new["current-context"].as_str().filter(|_| all.current_context.is_none());
    let Some(target) = files.iter().find(|path| path.exists()).or(files.last()) else {
        return Err(Failure::usage("no place for the kubeconfig: neither KUBECONFIG nor HOME is set"));
    };
    let mut places: Vec<(&Utf8PathBuf, Vec<(&'static str, Value)>)> = Vec::new();
    for (list, _) in LISTS {
        for entry in new[list].as_array().into_iter().flatten() {
            let name = name_of(entry).unwrap_or_default();
            let mut place = target;
            for path in files {
                if read(path)?.is_some_and(|config| holds(&config, list, name)) {
                    place = path;
                    break;
                }
            }
            match places.iter_mut().find(|(path, _)| *path == place) {
                Some((_, entries)) => entries.push((list, entry.clone())),
                None => places.push((place, vec![(list, entry.clone())])),
            }
        }
    }
    if places.is_empty() {
        return Err(failed("it names no cluster".to_owned()));
    }
    for (path, entries) in &places {
        let current = current.filter(|_| *path == target || places.len() == 1);
        write(path, &Change::Put { entries, current }).await?;
    }
    Ok(())
}

fn holds(config: &Kubeconfig, list: &str, name: &str) -> bool {
    match list {
        "clusters" => config.clusters.iter().any(|entry| entry.name == name),
        "users" => config.auth_infos.iter().any(|entry| entry.name == name),
        _ => config.contexts.iter().any(|entry| entry.name == name),
    }
}

/// Applies a change to one file, under its lock; returns whether anything changed.
async fn write(path: &Utf8Path, change: &Change<'_>) -> Result<bool, Failure> {
    let failed = |error: String| {
        Failure::new(Code::StateUnwritable, format!("cannot change the kubeconfig {path}: {error}"))
            .remedy(format!("correct that file or its rights: kubectl config view --kubeconfig {path}"))
    };
    let text = || match bounds::read(path, bounds::SETTINGS) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|error| failed(plain(&error.to_string()))),
    };
    // Usually there is nothing to do, and then there is no need to wait for anybody.
    if changed(&text()?, change).map_err(failed)?.is_none() {
        return Ok(false);
    }
    let _lock = FileLock::take(path).await?;
    let Some(rest) = changed(&text()?, change).map_err(failed)? else { return Ok(false) };
    replace(path, rest.as_bytes()).map_err(|error| failed(plain(&error.to_string())))?;
    Ok(true)
}

/// Atomically, so that readers see the old file or the new one. A symbolic link is kept, and so are
/// the file's mode and owner; a new file is accessible to its owner only.
fn replace(path: &Utf8Path, content: &[u8]) -> std::io::Result<()> {
    let target = path.canonicalize_utf8().unwrap_or_else(|_| path.to_owned());
    let before = std::fs::metadata(&target).ok();
    let folder = target.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let whole = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        if let Some(before) = &before {
            // As root, in another user's home.
            let _ = std::os::unix::fs::fchown(file.as_file(), Some(before.uid()), Some(before.gid()));
            file.as_file().set_permissions(std::fs::Permissions::from_mode(before.mode() & 0o7777))?;
        }
        file.as_file().sync_all()?;
        file.persist(&target).map_err(|error| error.error)?;
        Ok(())
    };
    match whole() {
        // A file that is a mount point can be written but not replaced.
        Err(error)
            if before.is_some() && matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::CrossesDevices) =>
        {
            File::options().write(true).truncate(true).open(&target)?.write_all(content)
        }
        other => other,
    }
}

/// client-go's `FILE.lock`: it exists while somebody writes, is created with `O_EXCL`, and is named
/// after the path as given (for a link, the link's own).
struct FileLock {
    path: Utf8PathBuf,
}

impl FileLock {
    /// # Errors
    /// `lock-timeout` if it is not released, with its age; `state-unwritable`.
    async fn take(file: &Utf8Path) -> Result<Self, Failure> {
        Self::take_within(file, LOCK_WAIT).await
    }

    async fn take_within(file: &Utf8Path, wait: Duration) -> Result<Self, Failure> {
        let path = Utf8PathBuf::from(format!("{file}.lock"));
        let failed = |error: std::io::Error| {
            Failure::new(Code::StateUnwritable, format!("cannot lock the kubeconfig {file}: {error}"))
                .remedy(format!("give yourself the right to write beside it, or set KUBECONFIG; {path} is its lock"))
        };
        if let Some(folder) = file.parent().filter(|folder| !folder.as_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let started = Instant::now();
        loop {
            let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
            match made {
                Ok(mut lock) => {
                    // For the next run of this tool, in case this one is killed right here.
                    let _ = lock.write_all(ours(std::process::id()).as_bytes());
                    return Ok(Self { path });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
            // For writing as well, which NFS wants for an exclusive lock.
            let left = File::options().read(true).write(true).open(&path);
            if left.is_ok_and(|left| removed_if_left(left, &path)) {
                continue;
            }
            if started.elapsed() >= wait {
                let age = std::fs::metadata(&path).and_then(|lock| lock.modified()).ok();
                let age = age.and_then(|made| SystemTime::now().duration_since(made).ok());
                let age =
                    age.map(|age| format!(", created {} ago", human_seconds(age.as_secs_f64()))).unwrap_or_default();
                return Err(Failure::new(Code::LockTimeout, format!("the kubeconfig {file} stays locked by somebody else"),
                )
                .evidence(format!("{path} exists{age}: kubectl creates it while it writes, for milliseconds, and leaves it behind when it is killed"))
                .remedy(format!("if no kubectl or other tool is using it: rm {path}")));
            }
            // There is no notification when it is released.
            Interrupt::global().or(tokio::time::sleep(Duration::from_millis(50))).await?;
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What this tool writes into a lock: its process id, and the namespace in which that is valid. A
/// home folder may be shared with containers, which have their own process ids.
fn ours(pid: u32) -> String {
    format!("cargo xtask, pid {pid} in {}", host::pid_namespace())
}

/// Removes a lock that a killed run left. Every run that does so holds the kernel's lock on that very
/// file meanwhile: otherwise what it removes could be the new lock of a run that was faster.
fn removed_if_left(mut lock: File, path: &Utf8Path) -> bool {
    let mut text = String::new();
    lock.try_lock().is_ok()
        && (&mut lock).take(4096).read_to_string(&mut text).is_ok()
        && left_by_us(&text)
        && is_named(&lock, path)
        && std::fs::remove_file(path).is_ok()
}

/// Whether a lock's text is that of a run of this tool, in the same process namespace, that was
/// killed before it released the lock.
fn left_by_us(text: &str) -> bool {
    let pid = text.strip_prefix("cargo xtask, pid ").and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    pid.is_some_and(|pid| text == ours(pid) && !text.ends_with(' ') && !host::lives(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubectl writes it, with comments added by hand.
    const CONFIG: &str = "apiVersion: v1\n# mine\nclusters:\n- cluster:\n    certificate-authority-data: QQ==\n    server: https://127.0.0.1:6551\n  name: k3d-ameide-ci\n# the other one\n- cluster:\n    proxy-url: http://p # a proxy\n    server: https://x\n  name: other\ncontexts:\n- context:\n    cluster: k3d-ameide-ci\n    user: admin@k3d-ameide-ci\n  name: k3d-ameide-ci\n- context:\n    cluster: other\n    user: other\n  name: other\ncurrent-context: k3d-ameide-ci\nkind: Config\nnew-field: [1, 2]\nusers:\n- name: admin@k3d-ameide-ci\n  user:\n    token: a\n- name: other\n  user:\n    token: b\n";

    const K3D: &str = "apiVersion: v1\nclusters:\n- cluster:\n    server: https://0.0.0.0:6550\n  name: k3d-ameide\ncontexts:\n- context:\n    cluster: k3d-ameide\n    user: admin@k3d-ameide\n  name: k3d-ameide\ncurrent-context: k3d-ameide\nkind: Config\nusers:\n- name: admin@k3d-ameide\n  user:\n    token: c\n";

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn path(&self, name: &str) -> Utf8PathBuf {
            Utf8PathBuf::from_path_buf(self.folder.path().join(name)).unwrap()
        }

        fn with(&self, name: &str, text: &str) -> Utf8PathBuf {
            std::fs::write(self.path(name), text).unwrap();
            self.path(name)
        }
    }

    fn value(path: &Utf8Path) -> Value {
        serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn forget(text: &str) -> Option<String> {
        let change = Change::Forget { context: "k3d-ameide-ci", user: "admin@k3d-ameide-ci" };
        changed(text, &change).unwrap()
    }

    #[test]
    fn only_that_clusters_entries_go_and_every_other_line_stays() {
        let rest = forget(CONFIG).unwrap();
        for kept in ["# mine", "# a proxy", "new-field: [1, 2]", "token: b", "current-context: \"\""] {
            assert!(rest.contains(kept), "{kept}: {rest}");
        }
        assert!(!rest.contains("ameide-ci"), "{rest}");
        let mut expected: Value = serde_saphyr::from_str(CONFIG).unwrap();
        for (list, _) in LISTS {
            expected[list].as_array_mut().unwrap().remove(0);
        }
        expected["current-context"] = "".into();
        assert_eq!(serde_saphyr::from_str::<Value>(&rest).unwrap(), expected);
        assert_eq!(forget(&rest), None);
    }

    /// Every style of the same file leads to the same content.
    #[test]
    fn a_file_in_any_style_is_changed_to_the_same_end() {
        let plain: Value = serde_saphyr::from_str(CONFIG).unwrap();
        let expected: Value = serde_saphyr::from_str(&forget(CONFIG).unwrap()).unwrap();
        let indented: String = CONFIG
            .lines()
            .map(|line| if line.starts_with(['-', ' ']) { format!("  {line}\n") } else { format!("{line}\n") })
            .collect();
        for text in [plain.to_string(), indented, CONFIG.replace('\n', "\r\n"), format!("---\n{CONFIG}")] {
            let rest = forget(&text).unwrap();
            assert_eq!(serde_saphyr::from_str::<Value>(&rest).unwrap(), expected, "{text}");
        }
        assert!(
            changed("contexts: [unclosed, secret", &Change::Forget { context: "a", user: "b" })
                .is_err_and(|why| !why.contains("secret"))
        );
    }

    #[tokio::test]
    async fn a_clusters_entries_are_put_where_they_are_or_where_kubectl_would_put_them() {
        let files = Files::new();
        let absent = files.path("sub folder/config");
        put_into(std::slice::from_ref(&absent), K3D, None).await.unwrap();
        assert_eq!(value(&absent), serde_saphyr::from_str::<Value>(K3D).unwrap());
        assert_eq!(std::fs::metadata(&absent).unwrap().mode() & 0o777, 0o600);
        // With other entries: they are unchanged to the letter, and so is the current context.
        let (gone, config) = (files.path("gone"), files.with("config", CONFIG));
        let list = [gone.clone(), config.clone(), files.with("last", "")];
        put_into(&list, K3D, Some("https://k3d-ameide-serverlb:6443")).await.unwrap();
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains("# a proxy") && text.contains("current-context: k3d-ameide-ci"), "{text}");
        assert_eq!(value(&config)["clusters"][2]["cluster"]["server"], "https://k3d-ameide-serverlb:6443");
        assert!(!gone.exists());
        // Again: nothing differs, nothing is written.
        let inode = std::fs::metadata(&config).unwrap().ino();
        put_into(&list, K3D, Some("https://k3d-ameide-serverlb:6443")).await.unwrap();
        assert_eq!(std::fs::metadata(&config).unwrap().ino(), inode);
        // Entries that a later file of the list has stay there.
        let list = [files.with("first", "apiVersion: v1\nkind: Config\n"), config.clone()];
        put_into(&list, K3D, None).await.unwrap();
        assert_eq!(value(&config)["clusters"][2]["cluster"]["server"], "https://0.0.0.0:6550");
        assert_eq!(value(&list[0])["clusters"], Value::Null);
        assert!(forget_in(&list, "ameide").await.unwrap());
        assert_eq!(value(&config), serde_saphyr::from_str::<Value>(CONFIG).unwrap());
        assert!(!forget_in(&list, "ameide").await.unwrap());
    }

    #[tokio::test]
    async fn a_link_stays_a_link_and_a_file_keeps_its_mode() {
        let files = Files::new();
        let target = files.with("target", CONFIG);
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o640)).unwrap();
        let link = files.path("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        put_into(std::slice::from_ref(&link), K3D, None).await.unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o777, 0o640);
        assert_eq!(value(&target)["clusters"].as_array().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn kubectls_lock_is_waited_for_and_one_that_stays_is_told() {
        let files = Files::new();
        let config = files.with("config", "");
        let lock = files.with("config.lock", "");
        let failure = FileLock::take_within(&config, Duration::from_millis(120)).await.err().unwrap();
        assert_eq!(failure.code, Code::LockTimeout);
        assert!(failure.evidence[0].contains("config.lock exists, created "), "{failure:?}");
        assert!(failure.remedy.unwrap().ends_with(&format!("rm {lock}")));
        // Somebody else's lock is never removed.
        assert!(lock.exists());
        // What they wrote while we waited is not lost.
        let (waiting, writing) = tokio::join!(put_into(std::slice::from_ref(&config), K3D, None), async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert_eq!(std::fs::read_to_string(&config).unwrap(), "");
            std::fs::write(&config, CONFIG).unwrap();
            std::fs::remove_file(&lock)
        });
        writing.unwrap();
        waiting.unwrap();
        assert_eq!(value(&config)["clusters"].as_array().unwrap().len(), 3);
        assert!(!lock.exists(), "ours is gone as well");
        // A lock of ours whose run was killed does not count.
        std::fs::write(&lock, ours(99_999_999)).unwrap();
        drop(FileLock::take_within(&config, Duration::ZERO).await.unwrap());
        // For a process of another container, we cannot know whether it is alive.
        std::fs::write(&lock, ours(99_999_999).replace("pid:[", "pid:[1")).unwrap();
        assert!(FileLock::take_within(&config, Duration::ZERO).await.is_err());
        std::fs::write(&lock, ours(std::process::id())).unwrap();
        assert!(FileLock::take_within(&config, Duration::ZERO).await.is_err());
    }

    #[tokio::test]
    async fn a_lock_that_a_killed_run_left_is_removed_by_one_run_only() {
        let files = Files::new();
        let (config, lock) = (files.path("config"), files.with("config.lock", &ours(99_999_999)));
        // Somebody is removing it.
        let (first, second) = (File::open(&lock).unwrap(), File::open(&lock).unwrap());
        first.lock().unwrap();
        assert!(FileLock::take_within(&config, Duration::ZERO).await.is_err());
        drop(first);
        // Somebody has removed it since it was opened, and taken the lock.
        let taken = FileLock::take_within(&config, Duration::ZERO).await.unwrap();
        assert!(!removed_if_left(second, &lock) && lock.exists());
        drop(taken);
        assert!(!lock.exists());
    }

    #[test]
    fn of_several_files_the_first_that_says_something_wins() {
        let files = Files::new();
        let first =
            files.with("first", "current-context: ''\nclusters: null\nusers:\n- {name: other, user: {token: z}}\n");
        let all =
            merged(&[files.path("absent"), first, files.with("second", CONFIG), files.with("third", K3D)]).unwrap();
        assert_eq!(all.current_context.as_deref(), Some("k3d-ameide-ci"));
        assert_eq!((all.clusters.len(), all.contexts.len(), all.auth_infos.len()), (3, 3, 3));
        assert_eq!(all.auth_infos[0].name, "other");
    }
}
