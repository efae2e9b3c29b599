//! The pinned tools: helm, helmfile, k3d, kubectl. Their versions are in `infra/tools/NAME/go.mod`.
//! One in the cache is used, which takes only a look at a file; else the first one on PATH that has
//! the version, which takes starting it. Otherwise its release archive is downloaded into the cache,
//! if `tools.lock` has the digest; if it has none or no server answers, the tool is built from its
//! module, into a separate place.

pub mod archive;
pub mod checksums;
pub mod download;
pub mod lock;
mod unpack;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use image_mirror::Digest;
use serde::Deserialize;

use crate::files::{self, Kept};
use crate::repo;
use crate::repo::Tree;
use crate::repo::read_yaml;
use crate::run::context::Context;
use crate::run::reporter::Reporter;
use crate::world::go::Program;
use crate::world::kubernetes;
use crate::world::process;
use archive::{Archive, Template};
use download::Had;
use lock::Lock;
use run_record::{Code, Exit, Failure};

/// `infra/tools/tools.yaml`.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct ToolsFile {
    /// The platforms with release archives, `os/arch`.
    platforms: Vec<String>,
    tools: BTreeMap<String, ToolEntry>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct ToolEntry {
    /// Arguments that make the tool print its version.
    version: Vec<String>,
    /// Environment variables that it is always run with.
    #[serde(default)]
    environment: BTreeMap<String, String>,
    /// The Go variable that holds the version.
    stamp: String,
    /// `None`: it is always built.
    archive: Option<Template>,
}

/// Where a missing tool may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The cache, PATH, the release archive, the Go module: the first that has it.
    Anywhere,
    /// Only what is built here from the Go module.
    Source,
}

/// Where a tool would come from, as far as is known without network access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is there: in the cache or on PATH.
    There(Utf8PathBuf),
    /// The address of its release archive.
    Archive(String),
    /// The folder of the Go module that it would be built from.
    Module(Utf8PathBuf),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    /// With its leading `v`, as in Go modules.
    pub version: String,
    program: Program,
    /// The release archive for this machine with its digest, or why there is none to use.
    archive: Result<(Archive, Digest), String>,
    version_arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// The paths of the tools that a run needs.
#[derive(Clone, Debug)]
pub struct Toolbox {
    paths: BTreeMap<String, Utf8PathBuf>,
    environments: BTreeMap<String, BTreeMap<String, String>>,
    /// The PATH for children: Helmfile looks up `helm` there.
    pub search_path: String,
}

impl Toolbox {
    pub fn path(&self, name: &str) -> Utf8PathBuf {
        self.paths.get(name).cloned().unwrap_or_else(|| name.into())
    }

    /// A command that runs the tool, with the other tools on its PATH.
    pub fn command(&self, name: &str) -> tokio::process::Command {
        let mut command = process::command(self.path(name));
        command.env("PATH", &self.search_path);
        if let Some(environment) = self.environments.get(name) {
            command.envs(environment);
        }
        command
    }

    /// A command of a tool that works on this kubeconfig context's cluster.
    pub fn command_on(&self, name: &str, context: &Context) -> tokio::process::Command {
        let mut command = self.command(name);
        command.env_clear().envs(variables_on(name, self.environments.get(name), &self.search_path, context));
        command
    }
}

/// What a program is started with, by name.
pub type Variables = BTreeMap<OsString, OsString>;

/// The environment of a [`Toolbox::command_on`], without a toolbox: known before any tool is looked
/// for.
///
/// # Errors
/// `usage` if there is no place for a cache.
pub fn environment_on(pinned: &[Tool], name: &str, context: &Context) -> Result<Variables, Failure> {
    let tool = pinned.iter().find(|tool| tool.name == name);
    let search_path = search_path(&files::cache_dir()?);
    Ok(variables_on(name, tool.map(|tool| &tool.environment), &search_path, context))
}

/// With the cloud credentials if the context's user logs in with a plugin, bypassing a proxy if the
/// cluster is on this machine, and as part of the run's trace.
fn variables_on(name: &str, own: Option<&BTreeMap<String, String>>, search_path: &str, context: &Context) -> Variables {
    let mut all: Variables = process::environment::of(name).into_iter().collect();
    all.insert("PATH".into(), search_path.into());
    all.extend(own.into_iter().flatten().map(|(name, value)| (name.into(), value.into())));
    all.extend(process::environment::for_plugins_of(&context.site.kube_context));
    let more = kubernetes::reached_directly(&context.repo, &context.site).into_iter();
    let more = more.chain(context.run.reporter.trace_context());
    all.extend(more.map(|(name, value)| (name.into(), value.into())));
    all
}

/// The PATH for children: the folder with all of the tools comes first.
fn search_path(cache: &Utf8Path) -> String {
    format!("{}:{}", cache.join("bin"), std::env::var("PATH").unwrap_or_default())
}

const FILE: &str = "infra/tools/tools.yaml";

/// Every tool that the tree pins.
///
/// # Errors
/// `usage` for an invalid file below `infra/tools`.
pub fn pinned(tree: &Tree) -> Result<Vec<Tool>, Failure> {
    let file: ToolsFile = read_yaml(&tree.path(FILE))?;
    let (lock, here) = (Lock::read(tree)?, archive::here());
    let tools = file.tools.into_iter().map(|(name, entry)| {
        let module = tree.path("infra/tools").join(&name);
        let (package, version) = pinned_in(&module.join("go.mod"))?;
        let template = entry.archive.filter(|_| file.platforms.contains(&here));
        let archive = template.map(|template| fill(tree, &template, &name, &version, &here)).transpose()?;
        let archive = match (archive, lock.digest(&name, &here, &version)) {
            (Some(archive), Some(digest)) => Ok((archive, digest.clone())),
            (Some(_), None) => Err(format!("tools.lock has no digest of the archive of {version} for {here}")),
            (None, _) => Err(format!("tools.yaml names no archive for {here}")),
        };
        let stamp = Some(format!("{}={version}", entry.stamp));
        let program = Program { name: name.clone(), module, package, stamp };
        let (version_arguments, environment) = (entry.version, entry.environment);
        Ok(Tool { name, version, program, archive, version_arguments, environment })
    });
    tools.collect()
}

/// The release archives of every tool in its pinned version, for all platforms.
///
/// # Errors
/// As [`pinned`].
pub fn archives(tree: &Tree) -> Result<Vec<Archive>, Failure> {
    let file: ToolsFile = read_yaml(&tree.path(FILE))?;
    let mut archives = Vec::new();
    for (name, entry) in file.tools {
        let Some(template) = entry.archive else { continue };
        let (_, version) = pinned_in(&tree.path("infra/tools").join(&name).join("go.mod"))?;
        for platform in &file.platforms {
            archives.push(fill(tree, &template, &name, &version, platform)?);
        }
    }
    Ok(archives)
}

fn fill(tree: &Tree, template: &Template, tool: &str, version: &str, platform: &str) -> Result<Archive, Failure> {
    let filled = template.fill(tool, version, platform);
    filled.map_err(|reason| Failure::usage(format!("{}: {reason}", tree.path(FILE))))
}

/// The `tool` package of a go.mod, and the version of its module.
fn pinned_in(go_mod: &Utf8Path) -> Result<(String, String), Failure> {
    pin(&repo::read(go_mod)?).map_err(|error| Failure::usage(format!("{go_mod}: {error}")))
}

pub(crate) fn pin(text: &str) -> Result<(String, String), String> {
    let lines = || text.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    let package = lines()
        .find_map(|line| line.strip_prefix("tool ").map(str::trim))
        .filter(|package| !package.starts_with('('))
        .ok_or("expected a line `tool PACKAGE`")?;
    // `require` lines are single or in a block; both end in `MODULE VERSION`.
    let version = lines()
        .filter(|line| !line.contains("=>"))
        .filter_map(|line| line.strip_prefix("require ").unwrap_or(line).split_once(' '))
        .filter(|(module, version)| {
            version.starts_with('v') && (package == *module || package.starts_with(&format!("{module}/")))
        })
        .max_by_key(|(module, _)| module.len())
        .map(|(_, version)| version.trim().to_owned())
        .ok_or_else(|| format!("expected a require line for the module of {package}"))?;
    Ok((package.to_owned(), version))
}

/// What a program said when it was asked for its version.
enum Asked {
    Right,
    Other(String),
    /// It was ended before it had said anything to the point.
    Killed(String),
}

/// Whether the kernel refused to start a file that exists: it is no program (ENOEXEC), or the program
/// that it names is missing (ENOENT).
fn is_no_program(failure: &Failure) -> bool {
    ["(os error 8)", "(os error 2)"].iter().any(|error| failure.message.contains(error))
}

/// Whether the file system keeps programs from running (`noexec`), or the file's rights do (EACCES).
fn is_forbidden(failure: &Failure) -> bool {
    failure.message.contains("(os error 13)")
}

impl Tool {
    /// The first program on PATH that has the pinned version, which need not be the first of its
    /// name. Our own folder of links does not count, however it got onto PATH.
    async fn on_path(&self, bin: &Utf8Path) -> Option<Utf8PathBuf> {
        let bin = bin.canonicalize().ok();
        let is_ours = |path: &std::path::Path| {
            bin.is_some() && path.parent().and_then(|folder| folder.canonicalize().ok()) == bin
        };
        let mut seen = std::collections::BTreeSet::new();
        for path in which::which_all(&self.name).ok()?.filter(|path| !is_ours(path)) {
            // `/bin` is often a link to `/usr/bin`.
            if !seen.insert(path.canonicalize().ok()) {
                continue;
            }
            let Ok(path) = Utf8PathBuf::from_path_buf(path) else { continue };
            if matches!(self.asked(&path).await, Ok(Asked::Right)) {
                return Some(path);
            }
        }
        None
    }

    /// Asks a program for its version.
    ///
    /// # Errors
    /// Why it did not answer, which may be this machine's fault.
    async fn asked(&self, path: &Utf8Path) -> Result<Asked, Failure> {
        let mut command = process::command(path);
        command.args(&self.version_arguments).envs(&self.environment);
        // Its output counts, not its exit code: a tool may have other things to complain about (a
        // newer version that it could not check for, a broken plugin). One that does not answer is
        // not used.
        let answer = process::capture_within(command, VERSION).await?;
        let told = format!("it says {:?}", answer.stdout.lines().next().unwrap_or_default().trim());
        Ok(match answer.status.signal() {
            _ if prints_version(&answer.stdout, &self.version) => Asked::Right,
            // Somebody else ended it, or the machine has no memory left.
            Some(9 | 15) => Asked::Killed(told),
            _ => Asked::Other(told),
        })
    }

    /// Its places in the cache: built here earlier, which only happens if there is no other way or
    /// somebody asks for it, or unpacked from its archive.
    fn places(&self, cache: &Utf8Path, from: From) -> Result<Vec<Utf8PathBuf>, Failure> {
        let downloaded = self.archive.as_ref().ok().filter(|_| from == From::Anywhere);
        let downloaded = downloaded.map(|(archive, digest)| archive.cached(cache, digest));
        Ok([self.program.cached(cache)?].into_iter().chain(downloaded).collect())
    }

    /// Its path in the cache, found by just a look. What cannot be the tool is as good as absent,
    /// with a warning; one whose size nobody noted is started, once.
    async fn cached(&self, cache: &Utf8Path, from: From, reporter: &Reporter) -> Result<Option<Utf8PathBuf>, Failure> {
        for path in self.places(cache, from)? {
            let damage = match files::kept(&path) {
                Kept::Absent => continue,
                Kept::Whole => return Ok(Some(path)),
                Kept::Damaged(how) => how,
                Kept::Unsized => {
                    let why = match self.asked(&path).await {
                        Ok(Asked::Right) => {
                            // Somebody else's cache may be read-only: then it is started each time.
                            let _ = files::note_size(&path);
                            return Ok(Some(path));
                        }
                        Ok(Asked::Other(told)) => told,
                        Err(failure) if is_no_program(&failure) => failure.message,
                        Err(failure) if matches!(failure.exit(), Exit::Interrupted | Exit::Terminated) => {
                            return Err(failure);
                        }
                        // Nothing is known against it.
                        Ok(Asked::Killed(_)) | Err(_) => return Ok(Some(path)),
                    };
                    // A look alone would take it for the tool.
                    let _ = std::fs::remove_file(&path);
                    why
                }
            };
            reporter.warn(&self.name, format!("{path} is damaged and not used: {damage}"));
        }
        Ok(None)
    }

    /// The tool's path: in the cache, on PATH, or downloaded or built now.
    ///
    /// # Errors
    /// `go-missing`, `tool-build-failed` if no source has it; `tool-version` if the archive has
    /// another version; `machine-not-ready`, `no-answer` if what was unpacked cannot be asked for it;
    /// `disk-full`; `interrupted`.
    pub async fn find(&self, cache: &Utf8Path, from: From, reporter: &Reporter) -> Result<Utf8PathBuf, Failure> {
        if let Some(path) = self.cached(cache, from, reporter).await? {
            return Ok(path);
        }
        if from == From::Source {
            return self.program.build(cache, reporter).await;
        }
        if let Some(path) = self.on_path(&cache.join("bin")).await {
            return Ok(path);
        }
        let had = match &self.archive {
            Err(reason) => Had::Not(reason.clone()),
            Ok((archive, digest)) => {
                let check = async |path: &Utf8Path| self.require_version(path, archive).await;
                archive.download(cache, digest, reporter, check).await?
            }
        };
        let told = |reason: &str| format!("not downloaded, to be built from its Go module: {reason}");
        let (reason, advice) = match had {
            Had::There(path) => return Ok(path),
            Had::Not(reason) => {
                reporter.note(&self.name, told(&reason));
                let advice = match &self.archive {
                    Err(_) => {
                        "cargo xtask tools --update, on a machine with internet access, so that it can be downloaded"
                    }
                    Ok(_) => "check that its archive can be reached (HTTPS_PROXY, SSL_CERT_FILE)",
                };
                (reason, advice)
            }
            Had::Wrong(reason) => {
                reporter.warn(&self.name, told(&reason));
                (reason, "ask its project which of the two digests is the archive's")
            }
        };
        self.program.build(cache, reporter).await.map_err(|failure| self.neither(&reason, advice, failure))
    }

    /// Where [`Self::find`] would first look for it with success; nothing is changed.
    pub async fn source(&self, cache: &Utf8Path, from: From) -> Result<Source, Failure> {
        let is_there = |path: &Utf8PathBuf| matches!(files::kept(path), Kept::Whole | Kept::Unsized);
        let mut found = self.places(cache, from)?.into_iter().find(is_there);
        if found.is_none() && from == From::Anywhere {
            found = self.on_path(&cache.join("bin")).await;
        }
        Ok(match (found, &self.archive) {
            (Some(path), _) => Source::There(path),
            (None, Ok((archive, _))) if from == From::Anywhere => Source::Archive(archive.url.clone()),
            _ => Source::Module(self.program.module.clone()),
        })
    }

    /// Requires that a program from the archive is the pinned version.
    ///
    /// # Errors
    /// `tool-version` if it is not; else why it could not say so, which proves nothing against it.
    async fn require_version(&self, path: &Utf8Path, archive: &Archive) -> Result<(), Failure> {
        let (name, version) = (&self.name, &self.version);
        let told = match self.asked(path).await {
            Ok(Asked::Right) => return Ok(()),
            Ok(Asked::Other(told)) => told,
            Ok(Asked::Killed(told)) => {
                let message = format!("{name} {version} was ended before it had told its version");
                return Err(Failure::new(Code::NoAnswer, message).evidence(told).remedy("run it again"));
            }
            Err(failure) if is_no_program(&failure) => failure.message,
            Err(failure) if is_forbidden(&failure) => {
                return Err(Failure::new(Code::MachineNotReady, failure.message)
                    .evidence(format!("{path} may not be started"))
                    .remedy("set AMEIDE_CACHE_DIR to a folder where programs may run"));
            }
            Err(failure) => return Err(failure),
        };
        Err(Failure::new(Code::ToolVersion, format!("{} contains a {name} other than {version}", archive.url))
            .evidence(told)
            .remedy("cargo xtask tools --from-source   # builds it instead; the archive's address is in infra/tools/tools.yaml"))
    }

    /// Combines the failures of both ways into one.
    fn neither(&self, download: &str, advice: &str, mut built: Failure) -> Failure {
        let (name, version) = (&self.name, &self.version);
        let remedy = match built.code {
            Code::GoMissing => "install Go 1.26 or newer (https://go.dev/doc/install)",
            Code::ToolBuildFailed => "correct what the log says",
            _ => return built,
        };
        built.message = format!("{name} {version} is neither downloaded nor built: {}", built.message);
        built
            .evidence(format!("not downloaded: {download}"))
            .remedy(format!("{remedy}; or {advice}; or put {name} {version} on PATH"))
    }
}

/// How long a tool may take to print its version.
const VERSION: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 20 });

/// Whether the output gives this version: the version that is alone on a line, if there is such a
/// line, else the first one. Notices may mention others.
pub(crate) fn prints_version(output: &str, version: &str) -> bool {
    let alone = output.lines().map(str::trim).find(|line| is_version(line));
    let first =
        || output.split(|c: char| !(c.is_ascii_alphanumeric() || ".-+".contains(c))).find(|word| is_version(word));
    alone.or_else(first).is_some_and(|told| bare(told) == bare(version))
}

/// Tools print `v1.8.0+build` for what Go modules call `v1.8.0`.
fn bare(version: &str) -> &str {
    version.trim_start_matches('v').split('+').next().unwrap_or_default()
}

/// `1.2.3`, optionally with a `v` before it, or a pre-release or build suffix.
fn is_version(word: &str) -> bool {
    let core = bare(word).split('-').next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// The named tools (all of them for an empty list), each from its cheapest source.
///
/// # Errors
/// As [`Tool::find`].
pub async fn ensure(tree: &Tree, names: &[&str], reporter: &Reporter) -> Result<Toolbox, Failure> {
    ensure_from(tree, names, From::Anywhere, reporter).await
}

/// Like [`ensure`], with a choice of sources.
///
/// # Errors
/// As [`Tool::find`].
pub async fn ensure_from(tree: &Tree, names: &[&str], from: From, reporter: &Reporter) -> Result<Toolbox, Failure> {
    let cache = files::cache_dir()?;
    let mut found = Vec::new();
    for tool in of_names(tree, names)? {
        let path = tool.find(&cache, from, reporter).await?;
        found.push((tool, path));
    }
    toolbox(&cache, found)
}

/// The same, if all of them are in the cache: nothing is downloaded or built.
///
/// # Errors
/// `interrupted`, or files that cannot be read.
pub async fn at_hand(tree: &Tree, names: &[&str], reporter: &Reporter) -> Result<Option<Toolbox>, Failure> {
    let cache = files::cache_dir()?;
    let mut found = Vec::new();
    for tool in of_names(tree, names)? {
        let Some(path) = tool.cached(&cache, From::Anywhere, reporter).await? else { return Ok(None) };
        found.push((tool, path));
    }
    toolbox(&cache, found).map(Some)
}

/// The pinned tools of these names; all, if there are none.
fn of_names(tree: &Tree, names: &[&str]) -> Result<Vec<Tool>, Failure> {
    let is_named = |tool: &Tool| names.is_empty() || names.contains(&tool.name.as_str());
    Ok(pinned(tree)?.into_iter().filter(is_named).collect())
}

fn toolbox(cache: &Utf8Path, found: Vec<(Tool, Utf8PathBuf)>) -> Result<Toolbox, Failure> {
    let (mut paths, mut environments) = (BTreeMap::new(), BTreeMap::new());
    for (tool, path) in found {
        paths.insert(tool.name.clone(), path);
        environments.insert(tool.name, tool.environment);
    }
    // One folder with all of them, for people's PATH and for that of children.
    let bin = cache.join("bin");
    let failed = |error: std::io::Error| Failure::usage(format!("cannot link the tools into {bin}: {error}"));
    std::fs::create_dir_all(&bin).map_err(failed)?;
    for (name, path) in &paths {
        link(path, &bin.join(name)).map_err(failed)?;
    }
    Ok(Toolbox { paths, environments, search_path: search_path(cache) })
}

/// Points `link` at `target`, atomically for concurrent readers.
fn link(target: &Utf8Path, link: &Utf8Path) -> std::io::Result<()> {
    if link.read_link_utf8().is_ok_and(|current| current == target) {
        return Ok(());
    }
    let temporary = link.with_extension(format!("{}.new", std::process::id()));
    std::os::unix::fs::symlink(target, &temporary)?;
    std::fs::rename(&temporary, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_of_tools_yaml_is_that_of_the_type() {
        crate::schema::kept::<ToolsFile>("tools.json");
    }

    #[test]
    fn package_and_version_come_from_go_mod() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("go.mod")).unwrap();
        std::fs::write(&path, "module x\n\ntool helm.sh/helm/v4/cmd/helm\n\nrequire (\n\thelm.sh/helm v1.0.0 // indirect\n\thelm.sh/helm/v4 v4.3.1\n)\n").unwrap();
        assert_eq!(pinned_in(&path).unwrap(), ("helm.sh/helm/v4/cmd/helm".to_owned(), "v4.3.1".to_owned()));
    }

    /// A stand-in for `v1.8.0` that runs this script, in its folder.
    fn stand_in(script: &str) -> (tempfile::TempDir, Utf8PathBuf, Tool) {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("stand-in")).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = Program { name: path.to_string(), module: path.clone(), package: String::new(), stamp: None };
        let environment = BTreeMap::from([("QUIET".to_owned(), "true".to_owned())]);
        let version_arguments = vec!["version".to_owned()];
        let (version, archive) = ("v1.8.0".to_owned(), Err(String::new()));
        let tool = Tool { name: path.to_string(), version, program, archive, version_arguments, environment };
        (folder, path, tool)
    }

    /// Whether a stand-in on PATH with this output is accepted.
    async fn taken(script: &str) -> bool {
        let (_folder, path, tool) = stand_in(script);
        assert_eq!(tool.on_path(path.parent().unwrap()).await, None, "a link of our own");
        tool.on_path("/nowhere".into()).await.is_some()
    }

    #[tokio::test]
    async fn a_download_that_cannot_be_asked_is_not_taken_for_another_version() {
        use std::os::unix::fs::PermissionsExt;
        let template: Template = serde_json::from_value(serde_json::json!({
            "url": "http://files.example/{version}", "checksums": {"url": "{url}.sha256", "form": "bare"}
        }))
        .unwrap();
        let archive = template.fill("helm", "v1.8.0", "linux/amd64").unwrap();
        let required = async |script: &str, mode: u32| {
            let (_folder, path, tool) = stand_in(script);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            tool.require_version(&path, &archive)
                .await
                .map_err(|failure| (failure.code, failure.remedy.unwrap_or_default()))
        };
        assert_eq!(required("echo 1.8.0", 0o755).await, Ok(()));
        for (script, mode, code, remedy) in [
            ("echo 1.8.1", 0o755, Code::ToolVersion, "--from-source"),
            ("echo 1.8.0", 0o644, Code::MachineNotReady, "AMEIDE_CACHE_DIR"),
            ("kill -KILL $$", 0o755, Code::NoAnswer, "run it again"),
            ("exec sleep 3600", 0o755, Code::NoAnswer, ""),
        ] {
            let (found, told) = required(script, mode).await.unwrap_err();
            assert!(found == code && told.contains(remedy), "{script}: {found:?} {told}");
        }
    }

    #[tokio::test]
    async fn a_tool_is_taken_for_what_it_says_however_it_ends() {
        assert!(taken("echo 1.8.0").await);
        assert!(taken("echo 1.8.0; echo 'Get \"https://api.github.com\": dial tcp: timeout' >&2; exit 3").await);
        assert!(taken("[ \"$1$QUIET\" = versiontrue ] && echo 1.8.0").await, "with its own variables");
        for script in ["exit 0", "echo 1.8.1", "echo 1.8.0 >&2; exit 1", "kill -SEGV $$", "head -c 100000000 /dev/zero"]
        {
            assert!(!taken(script).await, "{script}");
        }
    }

    #[tokio::test]
    async fn a_tool_that_hangs_is_not_used() {
        assert!(!taken("echo 1.8.0; exec sleep 3600").await);
    }

    #[test]
    fn a_version_is_a_word_of_its_own() {
        for (output, version, found) in [
            ("v4.3.1\n", "v4.3.1", true),
            ("v4.3.1+g1234", "v4.3.1", true),
            ("k3d version v5.8.3\nk3s version v1.31 (default)", "v5.8.3", true),
            (r#"{"gitVersion":"v1.37.2"}"#, "v1.37.2", true),
            ("v4.3.10", "v4.3.1", false),
            ("v14.3.1", "v4.3.1", false),
            ("4.3.1", "v4.3.1", true),
            // Notices before it, after it, and mentioning the wanted version.
            ("A new release is there: 1.9.0, you have v1.8.0\n1.8.0\n", "v1.8.0", true),
            ("1.8.0\nhelmfile v1.9.0 is there: https://example.org/v1.9.0\n", "v1.9.0", false),
            ("k3d version v5.8.3\nupdate to v5.9.0\n", "v5.9.0", false),
            ("v4.3.1-rc.1", "v4.3.1", false),
            ("WARNING: 10.0.0.1 is not reached\nv4.3.1\n", "v4.3.1", true),
            ("", "v4.3.1", false),
        ] {
            assert_eq!(prints_version(output, version), found, "{output:?} {version}");
        }
    }
}
