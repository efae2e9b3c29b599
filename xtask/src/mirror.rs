//! Which of the tree's images are in our registry: copies them there, says what is missing or
//! stale, and resolves tags into the lock. The protocol is in the `image-mirror` library, the
//! connection to registries in `world::registry`; when to do any of this is up to the callers.

mod check;
mod copy;
mod load;
mod progress;
mod resolve;

use camino::Utf8PathBuf;
use image_mirror::{Endpoint, ImageList, ImagesLock, Options};

use crate::repo::Repo;
use crate::run::context::Site;
use crate::run::interrupt::Interrupt;
use crate::world::registry::{self, failure};
use run_record::Failure;

pub(crate) use check::{check, findings, require};
pub(crate) use copy::{copy, copy_all};
pub(crate) use load::{load, of_the_cluster, registries};
pub(crate) use resolve::{is_served, resolve, update};

/// Where images come from: public registries, with the tree's lock, or what stands in for them.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The lock with what the listed images resolve to there.
    pub lock: Utf8PathBuf,
    pub stand_in: Option<StandIn>,
}

/// A registry that serves images under other registries' names, as far as a machine like this
/// needs.
#[derive(Clone, Debug)]
pub(crate) struct StandIn {
    pub address: String,
    pub hosts: &'static [&'static str],
}

impl Origin {
    pub fn public(repo: &Repo) -> Self {
        Self { lock: repo.tree.path("infra/images/images.lock"), stand_in: None }
    }

    /// Reads its lock; what that has for another list than the tree's counts as unresolved.
    ///
    /// # Errors
    /// `usage` for a lock or a list that cannot be read.
    pub fn read_lock(&self, repo: &Repo) -> Result<ImagesLock, Failure> {
        Ok(ImagesLock::read(&self.lock).map_err(failure)?.for_list(&self.listed(repo)?))
    }

    fn options(&self, repo: &Repo, site: &Site) -> Result<Options, Failure> {
        let mut options = registry::options(repo, site)?;
        if let Some(stand_in) = &self.stand_in {
            // It stands in for registries whose accounts it must never see.
            let endpoint = Endpoint { host: stand_in.address.clone(), plain_http: true, ca: None, anonymous: true };
            options.sources.extend(stand_in.hosts.iter().map(|host| ((*host).to_owned(), endpoint.clone())));
        }
        Ok(options)
    }

    /// The images that the tree lists; for a stand-in, only those that a machine like this one
    /// runs.
    fn listed(&self, repo: &Repo) -> Result<ImageList, Failure> {
        let mut listed = ImageList::read(&list_path(repo)).map_err(failure)?;
        if self.stand_in.is_some() {
            listed.images.retain(|image| image.role.is_none());
            let arch = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            listed.images.iter_mut().for_each(|image| image.platforms = vec![format!("linux/{arch}")]);
        }
        Ok(listed)
    }
}

fn list_path(repo: &Repo) -> Utf8PathBuf {
    repo.tree.path("infra/images/images.yaml")
}

/// Registries may make us wait for minutes: an interrupt ends that at once. A half-sent blob is in
/// no repository, and complete ones stay.
async fn interruptible<T>(work: impl Future<Output = Result<T, image_mirror::Error>>) -> Result<T, Failure> {
    Interrupt::global().or(work).await?.map_err(failure)
}

fn require_known<'a>(
    repo: &Repo,
    ids: &[impl AsRef<str>],
    known: impl Iterator<Item = &'a str>,
) -> Result<(), Failure> {
    let known: Vec<&str> = known.collect();
    let Some(unknown) = ids.iter().map(AsRef::as_ref).find(|id| !known.contains(id)) else { return Ok(()) };
    let (list, known) = (list_path(repo), known.join(", "));
    Err(Failure::usage(format!("no image {unknown:?} in {list}: expected one of {known}")))
}

/// The images of a lock with these ids; without ids, all that pods run.
pub(crate) fn pick(repo: &Repo, mut lock: ImagesLock, ids: &[&str]) -> Result<ImagesLock, Failure> {
    require_known(repo, ids, lock.images.iter().map(|image| image.id.as_str()))?;
    lock.images.retain(|image| match ids {
        [] => image.role.is_none(),
        ids => ids.contains(&image.id.as_str()),
    });
    Ok(lock)
}

/// An image's name as pods use it.
pub(crate) fn pull_reference(repo: &Repo, origin: &Origin, id: &str) -> Result<String, Failure> {
    let lock = origin.read_lock(repo)?;
    let image = lock.images.iter().find(|image| image.id == id);
    let image = image.ok_or_else(|| Failure::usage(format!("{}: no image {id:?}", origin.lock)))?;
    let digest = image.target_digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
    Ok(format!("{}/{}{digest}", repo.env.registry.pull, image.target))
}

fn images(count: usize) -> String {
    format!("{count} image{}", if count == 1 { "" } else { "s" })
}
