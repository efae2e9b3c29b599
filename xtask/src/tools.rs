//! The pinned tools: helm, helmfile, k3d, kubectl. Their versions stand in
//! `infra/tools/NAME/go.mod`; a tool of that version on PATH is used as it is,
//! otherwise it is built from its module into the cache.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use crate::exit::Failure;
use crate::gomodule::Program;
use crate::output::Reporter;
use crate::process;
use crate::state;
use crate::tree::{Tree, read_yaml};

/// `infra/tools/tools.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolsFile {
    tools: BTreeMap<String, ToolEntry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolEntry {
    /// Arguments that make the tool print its version.
    version: Vec<String>,
    /// The Go variable that holds the version.
    stamp: String,
}

#[derive(Clone, Debug)]
pub struct Tool {
    pub name: String,
    /// With its leading `v`, as Go modules have it.
    pub version: String,
    program: Program,
    version_arguments: Vec<String>,
}

/// Where the tools that a run needs are.
#[derive(Clone, Debug)]
pub struct Toolbox {
    paths: BTreeMap<String, Utf8PathBuf>,
    /// For the PATH of children: Helmfile looks `helm` up there.
    pub search_path: String,
}

impl Toolbox {
    pub fn path(&self, name: &str) -> Utf8PathBuf {
        self.paths.get(name).cloned().unwrap_or_else(|| name.into())
    }

    /// A command that runs the tool, finding its fellow tools on PATH.
    pub fn command(&self, name: &str) -> tokio::process::Command {
        let mut command = process::command(self.path(name));
        command.env("PATH", &self.search_path);
        command
    }
}

/// Every tool that the tree pins.
pub fn pinned(tree: &Tree) -> Result<Vec<Tool>, Failure> {
    let file: ToolsFile = read_yaml(&tree.path("infra/tools/tools.yaml"))?;
    file.tools
        .into_iter()
        .map(|(name, entry)| {
            let module = tree.path("infra/tools").join(&name);
            let (package, version) = pinned_in(&module.join("go.mod"))?;
            let stamp = Some(format!("{}={version}", entry.stamp));
            let program = Program { name: name.clone(), module, package, stamp };
            Ok(Tool { name, version, program, version_arguments: entry.version })
        })
        .collect()
}

/// The `tool` package of a go.mod, and the version of the module that holds it.
fn pinned_in(go_mod: &Utf8Path) -> Result<(String, String), Failure> {
    let text =
        std::fs::read_to_string(go_mod).map_err(|error| Failure::usage(format!("cannot read {go_mod}: {error}")))?;
    let lines = || text.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    let package = lines()
        .find_map(|line| line.strip_prefix("tool ").map(str::trim))
        .filter(|package| !package.starts_with('('))
        .ok_or_else(|| Failure::usage(format!("{go_mod}: expected a line `tool PACKAGE`")))?;
    // `require` lines stand alone or in a block; both end in `MODULE VERSION`.
    let version = lines()
        .filter(|line| !line.contains("=>"))
        .filter_map(|line| line.strip_prefix("require ").unwrap_or(line).split_once(' '))
        .filter(|(module, version)| {
            version.starts_with('v') && (package == *module || package.starts_with(&format!("{module}/")))
        })
        .max_by_key(|(module, _)| module.len())
        .map(|(_, version)| version.trim().to_owned())
        .ok_or_else(|| Failure::usage(format!("{go_mod}: expected a require line for the module of {package}")))?;
    Ok((package.to_owned(), version))
}

impl Tool {
    /// The tool on PATH, if it has the pinned version.
    async fn on_path(&self) -> Option<Utf8PathBuf> {
        let path = Utf8PathBuf::from_path_buf(which::which(&self.name).ok()?).ok()?;
        let mut command = process::command(&path);
        command.args(&self.version_arguments);
        let output = process::capture(command).await.ok()?.ok().ok()?;
        prints_version(&output, &self.version).then_some(path)
    }

    /// Where the tool is: on PATH, in the cache, or built now.
    pub async fn find_or_build(&self, cache: &Utf8Path, reporter: &Reporter) -> Result<Utf8PathBuf, Failure> {
        let cached = self.program.cached(cache)?;
        if cached.is_file() {
            return Ok(cached);
        }
        if let Some(path) = self.on_path().await {
            return Ok(path);
        }
        self.program.build(cache, reporter).await
    }
}

/// Whether a version stands in the output as a word of its own (`v1.8.0` is not in `v1.8.01`).
fn prints_version(output: &str, version: &str) -> bool {
    let bare = version.trim_start_matches('v');
    output
        .split(|c: char| !(c.is_ascii_alphanumeric() || ".-+".contains(c)))
        .any(|word| word.trim_start_matches('v').split('+').next() == Some(bare))
}

/// Finds or builds the named tools (all of them for an empty list).
pub async fn ensure(tree: &Tree, names: &[&str], reporter: &Reporter) -> Result<Toolbox, Failure> {
    let cache = state::cache_dir()?;
    let mut paths = BTreeMap::new();
    for tool in pinned(tree)? {
        if names.is_empty() || names.contains(&tool.name.as_str()) {
            let path = tool.find_or_build(&cache, reporter).await?;
            paths.insert(tool.name, path);
        }
    }
    // One folder with all of them, for people's PATH and for children's.
    let bin = cache.join("bin");
    let failed = |error: std::io::Error| Failure::usage(format!("cannot link the tools into {bin}: {error}"));
    std::fs::create_dir_all(&bin).map_err(failed)?;
    for (name, path) in &paths {
        link(path, &bin.join(name)).map_err(failed)?;
    }
    let search_path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    Ok(Toolbox { paths, search_path })
}

/// Points `link` at `target`, in one step for whoever looks at the same time.
fn link(target: &Utf8Path, link: &Utf8Path) -> std::io::Result<()> {
    if link.read_link_utf8().is_ok_and(|current| current == target) {
        return Ok(());
    }
    let temporary = link.with_extension(format!("{}.new", std::process::id()));
    std::os::unix::fs::symlink(target, &temporary)?;
    std::fs::rename(&temporary, link)
}

/// `cargo xtask tools`.
pub async fn run(tree: &Tree, reporter: &Reporter) -> Result<(), Failure> {
    let cache = state::cache_dir()?;
    for tool in pinned(tree)? {
        let step = reporter.step(&tool.name, &tool.version);
        let path = tool.find_or_build(&cache, reporter).await?;
        step.unchanged(format!("{} at {path}", tool.version));
    }
    let toolbox = ensure(tree, &[], reporter).await?;
    let bin = toolbox.search_path.split(':').next().unwrap_or_default();
    reporter.data(&format!("export PATH={bin}:$PATH"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_and_version_come_from_go_mod() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("go.mod")).unwrap();
        std::fs::write(&path, "module x\n\ntool helm.sh/helm/v4/cmd/helm\n\nrequire (\n\thelm.sh/helm v1.0.0 // indirect\n\thelm.sh/helm/v4 v4.3.1\n)\n").unwrap();
        assert_eq!(pinned_in(&path).unwrap(), ("helm.sh/helm/v4/cmd/helm".to_owned(), "v4.3.1".to_owned()));
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
        ] {
            assert_eq!(prints_version(output, version), found, "{output:?} {version}");
        }
    }
}
