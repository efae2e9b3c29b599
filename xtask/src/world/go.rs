//! Builds programs from pinned Go modules (`go.mod` and `go.sum`, so that their sources are
//! checksummed) into a cache keyed by content.

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

use crate::files::{self, Kept, digest};
use crate::run::reporter::Reporter;
use crate::run::wait;
use crate::world::process::{self, Job};
use run_record::{Code, Failure, Step, StepKind};

/// A program in a Go module.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub name: String,
    /// The folder with its `go.mod`.
    pub module: Utf8PathBuf,
    /// The package to build, as `go build` takes it.
    pub package: String,
    /// `variable=value` to set at link time, if the program prints a version.
    pub stamp: Option<String>,
}

/// The free disk space needed before a build starts: the Go module and build caches of the largest
/// program here (helmfile) take 2.5 GiB.
const FREE_FOR_BUILD: u64 = 3 << 30;

impl Program {
    /// The path in the cache for exactly this content, built or not.
    pub fn cached(&self, cache: &Utf8Path) -> Result<Utf8PathBuf, Failure> {
        Ok(cache.join("go").join(format!("{}-{}", self.name, self.key()?)).join(&self.name))
    }

    /// A digest of everything that determines the program's content.
    pub fn key(&self) -> Result<String, Failure> {
        let mut hash = Sha256::new();
        digest::update(&mut hash, &self.module, &digest::files_below(&self.module)?)?;
        hash.update(&self.package);
        hash.update(self.stamp.as_deref().unwrap_or_default());
        hash.update(std::env::consts::ARCH);
        // A machine and a virtual machine on it may share the cache. Linux, where nearly everybody
        // builds, goes without a word, so that what is built there already stays found.
        if std::env::consts::OS != "linux" {
            hash.update(std::env::consts::OS);
        }
        Ok(digest::short(hash))
    }

    /// Whether the cache has it, as far as a look tells.
    fn is_built(output: &Utf8Path) -> bool {
        matches!(files::kept(output), Kept::Whole | Kept::Unsized)
    }

    /// The program, built if the cache lacks it. Two concurrent runs build it once.
    pub async fn build(&self, cache: &Utf8Path, reporter: &Reporter) -> Result<Utf8PathBuf, Failure> {
        let output = self.cached(cache)?;
        if Self::is_built(&output) {
            return Ok(output);
        }
        let go = require_go()?;
        files::require_free(cache, FREE_FOR_BUILD, &format!("building {}", self.name))?;
        let folder = output.parent().unwrap_or(cache);
        let failed = |what: &str, error: std::io::Error| {
            Failure::new(Code::DiskFull, format!("{what} in the cache {folder}: {error}"))
        };
        std::fs::create_dir_all(folder).map_err(|error| failed("cannot create a folder", error))?;
        let lock = std::fs::File::create(folder.join("lock")).map_err(|error| failed("cannot create a file", error))?;
        wait::for_lock(&lock, || reporter.waiting(&self.name, "another run is building it")).await?;
        if Self::is_built(&output) {
            return Ok(output);
        }
        let text = format!("building {} (minutes when cold)", self.package);
        let step = reporter.step(Step::new(StepKind::Tool, &self.name, text));
        let part = folder.join(format!("{}.part", self.name));
        let log = folder.join("build.log");
        let mut command = process::command(&go);
        command.current_dir(&self.module).args(["build", "-trimpath", "-buildvcs=false", "-v", "-o", part.as_str()]);
        let stamp = self.stamp.as_ref().map(|stamp| format!(" -X {stamp}")).unwrap_or_default();
        command.arg(format!("-ldflags=-s -w{stamp}")).arg(&self.package);
        command
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off");
        let mut packages = 0;
        let ended = Job { command, log: &log, inherit: None }
            .run_to_end(|line| {
                packages += 1;
                reporter.progress(&format!("[{}] building: {packages} packages, {line}", self.name));
            })
            .await?;
        if !ended.status.success() {
            let full = ended.tail.iter().find(|line| line.contains("no space left on device"));
            let failure = match full {
                Some(line) => Failure::new(Code::DiskFull, format!("the disk ran full while building {}", self.name))
                    .evidence(line),
                None => {
                    Failure::new(Code::ToolBuildFailed, format!("building {} from {} failed", self.name, self.module))
                        .evidence(ended.tail.last().cloned().unwrap_or_default())
                }
            };
            return Err(failure.remedy("cargo xtask doctor").log(log));
        }
        files::keep(&part, &output).map_err(|error| failed("cannot keep a file", error))?;
        step.done_as(format!("built {}", self.package));
        Ok(output)
    }
}

/// # Errors
/// `go-missing`, with what to do about it.
pub fn require_go() -> Result<Utf8PathBuf, Failure> {
    let go = which::which("go").ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
    go.ok_or_else(|| {
        Failure::new(Code::GoMissing, "no Go toolchain on PATH, which builds what is pinned as a Go module")
            .remedy("install Go 1.26 or newer (https://go.dev/doc/install)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let module = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        std::fs::write(module.join("go.mod"), "module a\n").unwrap();
        let program = Program { name: "a".into(), module: module.clone(), package: ".".into(), stamp: None };
        let before = program.key().unwrap();
        assert_eq!(before, program.key().unwrap());
        std::fs::write(module.join("go.sum"), "x v1 h1:\n").unwrap();
        assert_ne!(before, program.key().unwrap());
        assert_ne!(program.key().unwrap(), Program { stamp: Some("v=1".into()), ..program.clone() }.key().unwrap());
    }
}
