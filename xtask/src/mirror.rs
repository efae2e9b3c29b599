//! What of the images that the tree lists is in our registry: copies it there, says what is
//! missing or stale, and resolves tags into the lock. The protocol is the `image-mirror`
//! library's, the way to registries `world::registry`'s, and who calls it when its callers'.

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
pub(crate) use load::{load, of_the_cluster};
pub(crate) use resolve::{is_served, resolve};

/// Where images come from: public registries, by the tree's lock, or what stands in for them.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// What the listed images resolve to there.
    pub lock: Utf8PathBuf,
    pub stand_in: Option<StandIn>,
}

/// A registry that serves images by the names of others, as much as a machine like this needs.
#[derive(Clone, Debug)]
pub(crate) struct StandIn {
    pub address: String,
    pub hosts: &'static [&'static str],
}

impl Origin {
    pub fn public(repo: &Repo) -> Self {
        Self { lock: repo.tree.path("infra/images/images.lock"), stand_in: None }
    }

    /// What its lock says.
    pub fn read_lock(&self) -> Result<ImagesLock, Failure> {
        ImagesLock::read(&self.lock).map_err(failure)
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

    /// The images that the tree lists; of a stand-in, for what a machine like this one runs.
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

/// Registries may keep us waiting for minutes: an interrupt ends that at once. What was
/// half sent is in no repository, and what was complete stays.
async fn interruptible<T>(work: impl Future<Output = Result<T, image_mirror::Error>>) -> Result<T, Failure> {
    Interrupt::global().or(work).await?.map_err(failure)
}

/// Of a lock the images with these ids; for none, all that pods run.
pub(crate) fn pick(repo: &Repo, mut lock: ImagesLock, ids: &[&str]) -> Result<ImagesLock, Failure> {
    if let Some(unknown) = ids.iter().find(|id| !lock.images.iter().any(|image| image.id == **id)) {
        let known: Vec<&str> = lock.images.iter().map(|image| image.id.as_str()).collect();
        return Err(Failure::usage(format!(
            "no image {unknown:?} in {}: expected one of {}",
            list_path(repo),
            known.join(", ")
        )));
    }
    lock.images.retain(|image| match ids {
        [] => image.role.is_none(),
        ids => ids.contains(&image.id.as_str()),
    });
    Ok(lock)
}

/// An image as pods name it.
pub(crate) fn pull_reference(repo: &Repo, origin: &Origin, id: &str) -> Result<String, Failure> {
    let lock = origin.read_lock()?;
    let image = lock.images.iter().find(|image| image.id == id);
    let image = image.ok_or_else(|| Failure::usage(format!("{}: no image {id:?}", origin.lock)))?;
    let digest = image.target_digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
    Ok(format!("{}/{}{digest}", repo.env.registry.pull, image.target))
}

fn images(count: usize) -> String {
    format!("{count} image{}", if count == 1 { "" } else { "s" })
}
