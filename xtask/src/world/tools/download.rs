//! Fetches from a project's servers: the digests of its release archives, and an archive, which is
//! cached under its digest and used only if it has that digest.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::future::join_all;
use image_mirror::{Digest, FetchEvent, Fetcher, Kind, RetryPolicy};
use indicatif::BinaryBytes;

use crate::files::{self, Kept};
use crate::run::interrupt::Interrupt;
use crate::run::reporter::Reporter;
use crate::run::wait;
use crate::world::proxies;
use crate::world::tools::archive::Archive;
use crate::world::tools::{checksums, unpack};
use run_record::{Code, Failure, Step, StepKind};

/// There is an alternative, so waits are shorter than for an image.
const RETRY: RetryPolicy = RetryPolicy {
    tries: 3,
    base: Duration::from_millis(500),
    cap: Duration::from_secs(5),
    patience: Duration::from_secs(30),
    stall: Duration::from_secs(15),
};

/// The maximum size of a checksum file, in bytes.
const CHECKSUMS: usize = 1 << 20;

/// The maximum size of an archive, in bytes.
const MOST: u64 = 512 << 20;

/// The free disk space needed before a download starts: archive and binary of the largest tool take
/// 80 MiB.
const FREE: u64 = 256 << 20;

/// The result of a download.
pub enum Had {
    There(Utf8PathBuf),
    /// Why it failed; the tool may still be available in another way.
    Not(String),
    /// It is not what the lock names.
    Wrong(String),
}

/// The digest of each of these archives according to the project's own checksum file, or why it is
/// not known. Each file is requested once, all of them in parallel.
///
/// # Errors
/// `usage` for a malformed proxy; `interrupted`.
pub async fn ask(archives: &[Archive], reporter: &Reporter) -> Result<Vec<Result<Digest, String>>, Failure> {
    let fetcher = Fetcher::new(&proxies::named()?, RETRY);
    let mut urls: Vec<&str> = archives.iter().map(|archive| archive.checksums.as_str()).collect();
    urls.sort_unstable();
    urls.dedup();
    let texts = urls.iter().map(|url| fetcher.text(url, CHECKSUMS, |event| tell("tools", &event, reporter)));
    let texts = Interrupt::global().or(join_all(texts)).await?;
    let digest = |archive: &Archive| {
        let url = archive.checksums.as_str();
        let text = urls.iter().position(|other| *other == url).and_then(|at| texts.get(at));
        let text = text.ok_or_else(|| format!("{url}: was not asked"))?.as_ref().map_err(ToString::to_string)?;
        checksums::digest_in(text, archive.form, archive.name()).map_err(|reason| format!("{url}: {reason}"))
    };
    Ok(archives.iter().map(digest).collect())
}

impl Archive {
    /// The path of the binary from the archive with this digest in the cache, downloaded or not.
    pub fn cached(&self, cache: &Utf8Path, digest: &Digest) -> Utf8PathBuf {
        let digest = digest.as_str().trim_start_matches("sha256:");
        let (tool, platform) = (&self.tool, self.platform.replace('/', "-"));
        cache.join("archives").join(format!("{tool}-{}-{platform}-{}", self.version, &digest[..16])).join(tool)
    }

    /// The binary, downloaded if the cache lacks it; an interrupted download resumes. Two
    /// concurrent runs download it once. `check` checks the unpacked binary before it is put into
    /// the cache.
    ///
    /// # Errors
    /// `disk-full`; `usage` for a malformed proxy; `interrupted`; errors from `check`.
    pub async fn download(
        &self,
        cache: &Utf8Path,
        digest: &Digest,
        reporter: &Reporter,
        check: impl AsyncFnOnce(&Utf8Path) -> Result<(), Failure>,
    ) -> Result<Had, Failure> {
        let output = self.cached(cache, digest);
        let fetcher = Fetcher::new(&proxies::named()?, RETRY);
        files::require_free(cache, FREE, &format!("downloading {}", self.tool))?;
        let folder = output.parent().unwrap_or(cache);
        let failed = |what: &str, error: std::io::Error| {
            Failure::new(Code::DiskFull, format!("{what} in the cache {folder}: {error}")).remedy("cargo xtask doctor")
        };
        std::fs::create_dir_all(folder).map_err(|error| failed("cannot create a folder", error))?;
        let lock = std::fs::File::create(folder.join("lock")).map_err(|error| failed("cannot create a file", error))?;
        wait::for_lock(&lock, || reporter.waiting(&self.tool, "another run is downloading it")).await?;
        if files::kept(&output) == Kept::Whole {
            return Ok(Had::There(output));
        }
        let part = folder.join(format!("{}.part", self.tool));
        let step = reporter.step(Step::new(StepKind::Tool, &self.tool, format!("downloading {}", self.url)));
        let size = match self.fetch(&fetcher, &part, digest, reporter).await? {
            Ok(size) => size,
            Err(had) => return Ok(had),
        };
        let binary = match &self.member {
            None => part.clone(),
            Some(member) => {
                let binary = folder.join(format!("{}.new", self.tool));
                match unpack::one(&part, member, &binary) {
                    Ok(()) => binary,
                    Err(unpack::Error::Disk(error)) => return Err(failed("cannot unpack a file", error)),
                    Err(unpack::Error::Archive(reason)) => return Ok(Had::Not(format!("{}: {reason}", self.url))),
                }
            }
        };
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&binary, executable).map_err(|error| failed("cannot change a file", error))?;
        check(&binary).await?;
        files::keep(&binary, &output).map_err(|error| failed("cannot keep a file", error))?;
        // It is no longer needed; if it remains, it does no harm.
        let _ = std::fs::remove_file(&part);
        step.done_as(format!("downloaded {} ({})", self.url, BinaryBytes(size)));
        Ok(Had::There(output))
    }

    /// The archive as published, with the right digest, and its size in bytes; or why not.
    async fn fetch(
        &self,
        fetcher: &Fetcher,
        part: &Utf8Path,
        digest: &Digest,
        reporter: &Reporter,
    ) -> Result<Result<u64, Had>, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Code::DiskFull, format!("cannot read {part}: {error}")).remedy("cargo xtask doctor")
        };
        let size = || part.metadata().map_or(0, |metadata| metadata.len());
        loop {
            let before = size();
            if before > 0 && is(part, digest).map_err(failed)? {
                return Ok(Ok(before));
            }
            let told = |event: FetchEvent| tell(&self.tool, &event, reporter);
            let fetched = Interrupt::global().or(fetcher.download(&self.url, part, MOST, told)).await?;
            if let Err(error) = fetched {
                if error.kind() == Kind::DiskFull {
                    let failure = Failure::new(Code::DiskFull, format!("downloading {}: {error}", self.tool));
                    return Err(failure.remedy("cargo xtask doctor"));
                }
                if matches!(error.kind(), Kind::Invalid | Kind::Protocol) {
                    let _ = std::fs::remove_file(part);
                }
                return Ok(Err(Had::Not(error.to_string())));
            }
            if is(part, digest).map_err(failed)? {
                return Ok(Ok(size()));
            }
            let page = is_a_web_page(part).map_err(failed)?;
            std::fs::remove_file(part).map_err(failed)?;
            // An earlier run's partial file may be the cause: try once more, from the start.
            if before == 0 && page {
                let reason = "answered a web page, not the archive: is a proxy or a login in between?";
                return Ok(Err(Had::Not(format!("{}: {reason}", self.url))));
            }
            if before == 0 {
                let reason = format!("{}: its bytes do not have the digest {digest} of tools.lock", self.url);
                return Ok(Err(Had::Wrong(reason)));
            }
        }
    }
}

fn is(part: &Utf8Path, digest: &Digest) -> std::io::Result<bool> {
    Ok(format!("sha256:{}", files::digest::of_file(part)?) == digest.as_str())
}

/// No archive and no program begins like one.
fn is_a_web_page(part: &Utf8Path) -> std::io::Result<bool> {
    let mut beginning = Vec::new();
    std::fs::File::open(part)?.take(1024).read_to_end(&mut beginning)?;
    let text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&beginning);
    Ok(text.trim_ascii_start().starts_with(b"<"))
}

fn tell(resource: &str, event: &FetchEvent, reporter: &Reporter) {
    match event {
        FetchEvent::Moved { bytes, total } => {
            let total = total.map(|total| format!(" of {}", BinaryBytes(total))).unwrap_or_default();
            reporter.progress(&format!("[{resource}] downloading: {}{total}", BinaryBytes(*bytes)));
        }
        FetchEvent::Waiting { wait, reason } => {
            reporter.waiting(resource, format!("{reason}; retrying in {:.1} s", wait.as_secs_f64()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_page_is_told_from_an_archive_and_a_program() {
        let folder = tempfile::tempdir().unwrap();
        let part = Utf8PathBuf::from_path_buf(folder.path().join("x.part")).unwrap();
        for (content, page) in [
            (&b"<!DOCTYPE html><title>Log in</title>"[..], true),
            (b"\xef\xbb\xbf\r\n <html>", true),
            (b"\x1f\x8b\x08", false),
            (b"\x7fELF", false),
            (b"#!/bin/sh\n<", false),
            (b"", false),
        ] {
            std::fs::write(&part, content).unwrap();
            assert_eq!(is_a_web_page(&part).unwrap(), page, "{content:?}");
        }
    }
}
