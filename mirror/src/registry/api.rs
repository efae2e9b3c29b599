//! The requests to a registry: the endpoints of the OCI distribution spec that a copy needs.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;

use super::address::next_page;
use super::{Call, Need, Registry, Scope};
use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::manifest::{self, Manifest};
use crate::transport::full;

/// Larger manifests are rejected, as registries do (distribution: 4 MiB).
const MANIFEST_LIMIT: usize = 4 << 20;

impl Registry {
    /// Whether anything answers here, with any status.
    pub async fn answers(&self) -> Result<(), Error> {
        let url = self.address.root();
        let request = self.request(Method::GET, &url, HeaderMap::new(), full(Bytes::new()), None)?;
        let answer = self.exchange(request).await;
        answer.map(drop).map_err(|error| self.address.error(error.kind, &url, &error.message))
    }

    /// Whether an address serves us, which may be outside this registry.
    pub async fn ping(&self, url: &str) -> Result<(), Error> {
        let (scope, headers, body) = (Scope::nothing(), HeaderMap::new(), Bytes::new());
        let call = Call { method: Method::GET, url, headers, body, scope: Some(&scope), need: Need::Required };
        let response = self.send(call).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.refused(url, response).await) }
    }

    fn accepting_manifests() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(manifest::TYPES));
        headers
    }

    /// `None`: there is no such manifest.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Option<Manifest>, Error> {
        let url = self.address.url(repository, &format!("manifests/{reference}"));
        let scope = self.pull(repository);
        let call = Call {
            method: Method::GET,
            url: &url,
            headers: Self::accepting_manifests(),
            body: Bytes::new(),
            scope: Some(&scope),
            need: Need::Required,
        };
        let answer = match self.send_whole(call, MANIFEST_LIMIT).await? {
            Ok(answer) => answer,
            Err(refusal) if refusal.status() == StatusCode::NOT_FOUND => return Ok(None),
            Err(refusal) => return Err(self.refused(&url, refusal).await),
        };
        let content_type = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let bytes = answer.into_body();
        if reference.starts_with("sha256:") && reference != Digest::of(&bytes).as_str() {
            return Err(self.address.error(
                Kind::Invalid,
                &url,
                &format!("its bytes have the digest {}", Digest::of(&bytes)),
            ));
        }
        let manifest = Manifest::parse(bytes, &content_type);
        manifest.map(Some).map_err(|error| self.address.error(error.kind, &url, &error.message))
    }

    /// Like `manifest`, but it must exist; one that was read before is not requested again.
    pub async fn required_manifest(&self, repository: &str, reference: &str) -> Result<Manifest, Error> {
        if let Some(manifest) = self.kept.get(reference) {
            return Ok(manifest);
        }
        let url = self.address.url(repository, &format!("manifests/{reference}"));
        let found = self.manifest(repository, reference).await?;
        let found = found.ok_or_else(|| self.address.error(Kind::NotFound, &url, "there is no such manifest"))?;
        self.kept.put(&found);
        Ok(found)
    }

    /// The digest of a reference, by one HEAD, which does not count against any quota. If HEAD is
    /// refused, by the registry or where it leads to, by a GET, whose refusal comes with a reason.
    pub async fn digest_of(&self, repository: &str, reference: &str) -> Result<Option<Option<Digest>>, Error> {
        match self.digest_by_head(repository, reference, Need::Required).await {
            Err(error) if matches!(error.status, Some(400..=406 | 412 | 451 | 501)) => {
                Ok(self.manifest(repository, reference).await?.map(|manifest| Some(manifest.digest)))
            }
            done => done,
        }
    }

    /// Like `digest_of`, by HEAD only.
    pub async fn digest_by_head(
        &self,
        repository: &str,
        reference: &str,
        need: Need,
    ) -> Result<Option<Option<Digest>>, Error> {
        let url = self.address.url(repository, &format!("manifests/{reference}"));
        let response = self.head(repository, &url, Self::accepting_manifests(), need).await?;
        match response.status() {
            StatusCode::OK => {
                let said = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
                Ok(Some(said.and_then(|said| Digest::parse(said).ok())))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(&url, response).await),
        }
    }

    /// Whether it has exactly this manifest.
    pub async fn has_manifest(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let found = self.digest_of(repository, digest.as_str()).await?;
        // If the answer has no digest, it was still requested by digest.
        Ok(found.is_some_and(|said| said.is_none_or(|said| said == *digest)))
    }

    /// If the registry does not say, the blob counts as missing: the upload will show.
    pub async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let url = self.address.url(repository, &format!("blobs/{digest}"));
        match self.head(repository, &url, HeaderMap::new(), Need::Required).await {
            Ok(response) if response.status() == StatusCode::OK => Ok(true),
            Ok(response) if response.status().is_client_error() => Ok(false),
            Ok(response) => Err(self.refused(&url, response).await),
            Err(error) if error.kind != Kind::RateLimited && matches!(error.status, Some(400..=499)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn head(
        &self,
        repository: &str,
        url: &str,
        headers: HeaderMap,
        need: Need,
    ) -> Result<Response<Incoming>, Error> {
        let scope = self.pull(repository);
        self.send(Call { method: Method::HEAD, url, headers, body: Bytes::new(), scope: Some(&scope), need }).await
    }

    /// A small blob, whole.
    pub async fn small_blob(&self, repository: &str, digest: &Digest) -> Result<Option<Bytes>, Error> {
        let url = self.address.url(repository, &format!("blobs/{digest}"));
        let scope = self.pull(repository);
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let call = Call { method: Method::GET, url: &url, headers, body, scope: Some(&scope), need: Need::Required };
        match self.send_whole(call, MANIFEST_LIMIT).await? {
            Ok(answer) => {
                let bytes = answer.into_body();
                let found = Digest::of(&bytes);
                if found != *digest {
                    let text = format!("its bytes have the digest {found}");
                    return Err(self.address.error(Kind::Invalid, &url, &text));
                }
                Ok(Some(bytes))
            }
            Err(refusal) if refusal.status() == StatusCode::NOT_FOUND => Ok(None),
            Err(refusal) => Err(self.refused(&url, refusal).await),
        }
    }

    /// One page of a list, and the URL of the next one (`Link: <…>; rel="next"`, RFC 8288). `None`:
    /// the registry does not support such lists.
    pub async fn page(&self, repository: &str, url: &str) -> Result<Option<(Bytes, Option<String>)>, Error> {
        self.address.keep_tls(&self.address.root(), url)?;
        let scope = self.pull(repository);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(manifest::OCI_INDEX));
        let call =
            Call { method: Method::GET, url, headers, body: Bytes::new(), scope: Some(&scope), need: Need::Optional };
        match self.send_whole(call, MANIFEST_LIMIT).await? {
            Ok(answer) => {
                let next =
                    answer.headers().get_all(header::LINK).iter().find_map(|link| next_page(link.to_str().ok()?));
                let next = next.map(|next| self.address.lead(url, &next)).transpose()?;
                Ok(Some((answer.into_body(), next)))
            }
            // Distribution 2.8 answers 404 to unknown endpoints, others 400, 405 or 501.
            Err(refusal) if matches!(refusal.status().as_u16(), 400 | 404 | 405 | 406 | 501) => Ok(None),
            Err(refusal) => Err(self.refused(url, refusal).await),
        }
    }

    /// Pushes a manifest; returns whether the registry recorded its subject (`OCI-Subject`, OCI
    /// distribution spec 1.1, "Pushing Manifests with Subject").
    pub async fn put_manifest(
        &self,
        repository: &str,
        media_type: &str,
        bytes: Bytes,
        reference: &str,
    ) -> Result<bool, Error> {
        let url = self.address.url(repository, &format!("manifests/{reference}"));
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_str(media_type)
            .map_err(|_| self.address.error(Kind::Invalid, &url, "has an unusable media type"))?;
        headers.insert(header::CONTENT_TYPE, media_type);
        let scope = self.push(repository, None);
        let call =
            Call { method: Method::PUT, url: &url, headers, body: bytes, scope: Some(&scope), need: Need::Required };
        let response = self.send(call).await?;
        if !response.status().is_success() {
            return Err(self.refused(&url, response).await);
        }
        Ok(response.headers().contains_key("oci-subject"))
    }
}
