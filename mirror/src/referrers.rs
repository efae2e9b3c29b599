//! Signatures, SBOMs and other artifacts that refer to an image: through a list of referrers (OCI
//! distribution spec 1.1, "Listing Referrers" and "Referrers Tag Schema"), or through a tag derived
//! from the digest, as cosign does
//! (<https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>).
//!
//! An image is complete without them: what cannot be copied of them is a warning.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Display;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::manifest::{Manifest, OCI_INDEX};
use crate::observe::MirrorEvent;
use crate::registry::Need;
use crate::target::{Route, Target};

/// The suffixes of cosign's tags: `sha256-HEX.sig` and so on.
const COSIGN: [&str; 3] = ["sig", "att", "sbom"];
/// Limits on what a source can make us request: pages of a list, and manifests in total.
const PAGES: usize = 100;
const MOST: usize = 1000;
/// The most held in memory at once, in bytes.
const BYTES: usize = 64 << 20;
/// What is skipped when a limit is reached.
const REST: &str = "the rest of its referrers";
/// A bundle may be an index of indexes.
const DEEP: usize = 4;

#[derive(Deserialize)]
struct Index {
    /// Go writes an empty list as `null`; a manifest that is not an index has no such field.
    #[serde(deserialize_with = "Option::deserialize")]
    manifests: Option<Vec<Value>>,
}

/// The tag derived from a digest.
fn tag(digest: &Digest) -> String {
    digest.as_str().replacen(':', "-", 1)
}

fn digest_of(descriptor: &Value) -> Option<Digest> {
    Digest::parse(descriptor["digest"].as_str()?).ok()
}

/// Whether the image can do without: the registry answered about this one artifact, even if its answer
/// was cut off each time. No answer at all, or a rate limit, concerns everything, and the next run
/// finds the image missing.
fn is_its_own(error: &Error) -> bool {
    let answered = error.status.is_some() && !matches!(error.kind, Kind::RateLimited | Kind::DiskFull);
    answered || matches!(error.kind, Kind::NotFound | Kind::Invalid | Kind::Denied | Kind::Protocol | Kind::Auth)
}

struct Copying<'a> {
    target: &'a Target,
    route: &'a Route,
    /// How many manifests may still be read for this image, at any depth.
    left: Cell<usize>,
}

/// Copies what refers to an image after the image itself; returns how many there were.
pub(crate) async fn copy(target: &Target, route: &Route, top: &Manifest) -> Result<usize, Error> {
    let copying = Copying { target, route, left: Cell::new(MOST) };
    let mut count = copying.of(&top.digest).await?;
    // Whoever signs an index may sign each platform too; nobody signs only the platforms.
    if count > 0 && top.is_index() {
        for child in &top.document.manifests {
            count += copying.of(&child.digest).await?;
        }
    }
    Ok(count)
}

impl Copying<'_> {
    fn warn(&self, what: &str, why: impl Display) {
        let text = format!("copied without {what}: {why}");
        self.target.tell(MirrorEvent::Warning { id: self.route.id.clone(), text });
    }

    /// The result of a part that the image can do without.
    fn part<T>(&self, what: &str, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error) if is_its_own(&error) => {
                self.warn(what, error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn of(&self, subject: &Digest) -> Result<usize, Error> {
        let (listed, tagged) = futures_util::future::join(self.list(subject), self.tagged(subject)).await;
        let (listed, tagged) = (listed?, tagged?);
        let mut copied = Vec::new();
        let mut noted = true;
        for descriptor in listed {
            if self.left.get() == 0 {
                self.warn(REST, format!("more than {MOST} manifests refer to it"));
                break;
            }
            let Some(digest) = digest_of(&descriptor) else { continue };
            let what = format!("{digest}, which refers to it");
            let Some(put) = self.part(&what, self.referrer(&digest, subject).await)? else { continue };
            // Registries and proxies list all kinds of things.
            let Some((manifest, by_target)) = put else { continue };
            noted &= by_target;
            copied.push(described(descriptor, &manifest));
        }
        let mut count = copied.len();
        if !noted {
            self.part("a list of its referrers", self.note(subject, copied).await)?;
        }
        for tag in tagged {
            let what = format!("the signature {tag}");
            if self.part(&what, self.signature(&tag, subject).await)? == Some(true) {
                count += 1;
            }
        }
        Ok(count)
    }

    /// What refers to it according to the source.
    async fn list(&self, subject: &Digest) -> Result<Vec<Value>, Error> {
        let url = self.route.source.address.url(&self.route.repository, &format!("referrers/{subject}"));
        // By the specification, the tag counts only if there is no such list.
        if let Some(listed) = self.part("its referrers", self.pages(url).await)?.flatten() {
            return Ok(self.bounded(listed));
        }
        let tag = tag(subject);
        // A HEAD first: a missing manifest must not cost a pull.
        let found = self.route.source.digest_by_head(&self.route.repository, &tag, Need::Optional).await;
        // Some read the tag as the digest itself, and return the image (GitLab's registry).
        let Some(Some(found)) = self.part("its referrers", found)? else { return Ok(Vec::new()) };
        // If the answer has no digest, the content is compared below.
        if found.as_ref() == Some(subject) {
            return Ok(Vec::new());
        }
        let list =
            self.part("its referrers", self.route.source.manifest(&self.route.repository, &tag).await)?.flatten();
        let list = list.filter(|list| list.is_index() && list.digest != *subject);
        let list = list.and_then(|list| serde_json::from_slice::<Index>(&list.bytes).ok());
        Ok(self.bounded(list.and_then(|list| list.manifests).unwrap_or_default()))
    }

    fn bounded(&self, mut listed: Vec<Value>) -> Vec<Value> {
        if listed.len() > MOST {
            self.warn(REST, format!("more than {MOST} manifests refer to it"));
            listed.truncate(MOST);
        }
        listed
    }

    /// The list of the referrers API; `None` if the registry does not support it.
    async fn pages(&self, first: String) -> Result<Option<Vec<Value>>, Error> {
        let (mut listed, mut seen, mut next) = (None::<Vec<Value>>, BTreeSet::new(), Some(first));
        let mut held = 0;
        while let Some(url) = next.take().filter(|url| seen.insert(url.clone())) {
            if seen.len() > PAGES || held > BYTES {
                self.warn(REST, format!("its list has more than {PAGES} pages, or {} MiB", BYTES >> 20));
                break;
            }
            let page = match self.route.source.page(&self.route.repository, &url).await {
                // What the earlier pages listed is still valid.
                Err(error) if listed.is_some() && is_its_own(&error) => {
                    self.warn(REST, error);
                    break;
                }
                page => page?,
            };
            // Proxies answer 200 to anything.
            let page = page.and_then(|(bytes, more)| Some((bytes.len(), serde_json::from_slice(&bytes).ok()?, more)));
            let Some((size, index, more)): Option<(usize, Index, _)> = page else {
                if listed.is_some() {
                    self.warn(REST, format!("a page of its list is not valid ({})", self.route.source.address.name));
                }
                break;
            };
            held += size;
            let listed = listed.get_or_insert_default();
            listed.extend(index.manifests.unwrap_or_default());
            next = more.filter(|_| listed.len() <= MOST);
        }
        Ok(listed)
    }

    /// Cosign's tags that the source has.
    async fn tagged(&self, subject: &Digest) -> Result<Vec<String>, Error> {
        let looks = COSIGN.map(|kind| async move {
            let tag = format!("{}.{kind}", tag(subject));
            let found = self.route.source.digest_by_head(&self.route.repository, &tag, Need::Optional).await;
            (tag, found)
        });
        let mut tags = Vec::new();
        for (tag, found) in join_all(looks).await {
            match self.part(&format!("the signature {tag}"), found)? {
                // A registry that reads the digest out of the tag returns the image.
                Some(Some(digest)) if digest.as_ref() != Some(subject) => tags.push(tag),
                _ => {}
            }
        }
        Ok(tags)
    }

    /// Copies one artifact if it really refers to this image; returns whether the target recorded
    /// that.
    async fn referrer(&self, digest: &Digest, subject: &Digest) -> Result<Option<(Manifest, bool)>, Error> {
        let manifest = self.read(digest.as_str()).await?;
        if manifest.document.subject.as_ref().is_none_or(|it| it.digest != *subject) {
            return Ok(None);
        }
        self.parts(&manifest).await?;
        let noted = self.put(&manifest, manifest.digest.as_str()).await?;
        Ok(Some((manifest, noted)))
    }

    /// Copies what a cosign tag points to; returns whether it is a signature at all. The target's
    /// own content there is never overwritten.
    async fn signature(&self, tag: &str, subject: &Digest) -> Result<bool, Error> {
        let manifest = self.read(tag).await?;
        // A registry that reads the digest out of the tag returns the image, on both sides.
        if manifest.digest == *subject {
            return Ok(false);
        }
        let (target, name) = (&self.target.registry, &self.route.target);
        let there = target.manifest(name, tag).await?.filter(|there| there.digest != *subject);
        if there.is_some_and(|there| there.digest != manifest.digest && !holds_all(&manifest, &there)) {
            let message =
                format!("{}: {name}:{tag} already has other content, which is left as it is", target.address.name);
            return Err(Error::new(Kind::Invalid, message));
        }
        self.parts(&manifest).await?;
        self.put(&manifest, tag).await.map(|_| true)
    }

    /// Reads one of the source's manifests, up to a limit, so that no source can make us read
    /// forever.
    async fn read(&self, reference: &str) -> Result<Manifest, Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            return Err(Error::new(Kind::Invalid, format!("more than {MOST} manifests refer to it")));
        };
        self.left.set(left);
        self.route.source.required_manifest(&self.route.repository, reference).await
    }

    async fn put(&self, manifest: &Manifest, reference: &str) -> Result<bool, Error> {
        self.target
            .registry
            .put_manifest(&self.route.target, &manifest.media_type, manifest.bytes.clone(), reference)
            .await
    }

    /// Places the blobs of a manifest, and of everything in an index.
    async fn parts(&self, manifest: &Manifest) -> Result<(), Error> {
        let (mut ordered, mut level, mut held) = (Vec::new(), vec![manifest.clone()], 0);
        for _ in 0..DEEP {
            let mut next = Vec::new();
            for child in level.iter().flat_map(|manifest| &manifest.document.manifests) {
                let child = self.read(child.digest.as_str()).await?;
                held += child.bytes.len();
                if held > BYTES {
                    let message = format!("its content is larger than {} MiB", BYTES >> 20);
                    return Err(Error::new(Kind::Invalid, message));
                }
                next.push(child);
            }
            ordered.append(&mut level);
            level = next;
        }
        // Whatever refers to something is pushed after it.
        for part in ordered.iter().rev() {
            for blob in part.blobs() {
                self.target.place(&self.route.blob(blob)).await?;
            }
            if part.digest != manifest.digest {
                self.put(part, part.digest.as_str()).await?;
            }
        }
        Ok(())
    }

    /// Adds them to the list under the target's tag, next to what is already there.
    async fn note(&self, subject: &Digest, copied: Vec<Value>) -> Result<(), Error> {
        let (target, name, tag) = (&self.target.registry, &self.route.target, tag(subject));
        let known = target.manifest(name, &tag).await?;
        let mut list = match &known {
            None => json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
            Some(known) if known.is_index() && known.digest != *subject => {
                serde_json::from_slice(&known.bytes).unwrap_or_default()
            }
            Some(_) => {
                let message =
                    format!("{}: {name}:{tag} is not a list of referrers, and is left as it is", target.address.name);
                return Err(Error::new(Kind::Invalid, message));
            }
        };
        if !list["manifests"].is_array() {
            list["manifests"] = json!([]);
        }
        let Some(manifests) = list["manifests"].as_array_mut() else { return Ok(()) };
        let there: BTreeSet<Digest> = manifests.iter().filter_map(digest_of).collect();
        let missing: Vec<Value> =
            copied.into_iter().filter(|it| digest_of(it).is_some_and(|digest| !there.contains(&digest))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        manifests.extend(missing);
        let bytes = serde_json::to_vec(&list).unwrap_or_default();
        let media_type = known.as_ref().map_or(OCI_INDEX, |known| &known.media_type);
        target.put_manifest(name, media_type, Bytes::from(bytes), &tag).await.map(drop)
    }
}

/// Whether a manifest has each layer of another one, including annotations: cosign stores the
/// signature itself there, while the layer is the same for everybody who signs.
fn holds_all(manifest: &Manifest, other: &Manifest) -> bool {
    let layers = |manifest: &Manifest| -> Vec<Value> {
        let document: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
        document["layers"].as_array().cloned().unwrap_or_default()
    };
    let (ours, theirs) = (layers(manifest), layers(other));
    !theirs.is_empty() && theirs.iter().all(|layer| ours.contains(layer))
}

/// A descriptor as in a list of referrers (the specification requires the artifact type there).
fn described(mut descriptor: Value, manifest: &Manifest) -> Value {
    if descriptor["artifactType"].is_null() {
        let own: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
        let kind = [&own["artifactType"], &own["config"]["mediaType"]].into_iter().find_map(Value::as_str);
        if let (Some(kind), Some(fields)) = (kind, descriptor.as_object_mut()) {
            fields.insert("artifactType".to_owned(), kind.into());
        }
    }
    if let Some(fields) = descriptor.as_object_mut() {
        fields.insert("mediaType".to_owned(), manifest.media_type.as_str().into());
        fields.insert("size".to_owned(), manifest.bytes.len().into());
    }
    descriptor
}
