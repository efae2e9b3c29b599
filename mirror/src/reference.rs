//! The names of registries, repositories and images, by the grammar that all tools share
//! (<https://pkg.go.dev/github.com/distribution/reference>).

use http::uri::Authority;

use crate::digest::Digest;

/// Docker Hub has several names; images, accounts and limits use this one.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// Whether a host is Docker Hub.
pub(crate) fn is_docker_hub(host: &str) -> bool {
    matches!(host, DOCKER_HUB | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com")
}

/// A parsed image name: `docker.io`, `temporalio/server`, `1.29.0`; with a tag, a digest, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// Registry and repository are required, with a tag or a digest. Docker's short forms are not
    /// accepted, except that `docker.io/redis` is `docker.io/library/redis`.
    pub fn parse(image: &str) -> Result<Self, String> {
        let expected = "expected registry/repository:tag";
        let (name, digest) = match image.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest).map_err(|error| error.to_string())?)),
            None => (image, None),
        };
        if name.contains("://") {
            return Err(format!("{expected}, without a scheme"));
        }
        let (host, rest) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            Some(_) => return Err(format!("names no registry: {DOCKER_HUB}/{image}?")),
            None => return Err(format!("names no registry: {DOCKER_HUB}/library/{image}?")),
        };
        let host = host.to_ascii_lowercase();
        if authority(&host).is_none() {
            return Err(format!("{host:?} is not a registry name: {expected}"));
        }
        let (repository, tag) = match rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((repository, tag)) => (repository, Some(tag)),
            None if digest.is_some() => (rest, None),
            None => return Err(format!("has no tag: {expected}")),
        };
        if !is_repository(repository) {
            return Err(format!("{repository:?} is not a repository name (lower case letters, digits, . _ - /)"));
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let good =
            |tag: &str| tag.starts_with(word) && tag.len() <= 128 && tag.chars().all(|c| word(c) || ".-".contains(c));
        if let Some(tag) = tag.filter(|tag| !good(tag)) {
            return Err(format!("{tag:?} is not a tag"));
        }
        let hub = is_docker_hub(&host);
        let repository =
            if hub && !repository.contains('/') { format!("library/{repository}") } else { repository.to_owned() };
        let registry = if hub { DOCKER_HUB.to_owned() } else { host };
        Ok(Self { registry, repository, tag: tag.map(str::to_owned), digest })
    }

    /// How it is addressed in its manifest's URL: by the digest, if it has one.
    pub fn digest_or_tag(&self) -> &str {
        self.digest.as_ref().map(Digest::as_str).or(self.tag.as_deref()).unwrap_or_default()
    }
}

/// A registry's host, with an optional valid port.
pub(crate) fn authority(text: &str) -> Option<Authority> {
    let authority = Authority::try_from(text).ok()?;
    // That parser accepts `http:`.
    (text == authority.host() || authority.port_u16().is_some()).then_some(authority)
}

/// OCI distribution spec, "Pulling manifests", `<name>`.
pub(crate) fn is_repository(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_component)
}

/// A path component of a repository's name: lower-case letters and digits, with separators only in
/// between.
pub(crate) fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain) && text.ends_with(plain) && text.chars().all(|c| plain(c) || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_registry_repository_and_tag_or_digest() {
        let parsed = |image: &str| {
            let found = Reference::parse(image)?;
            Ok::<_, String>(format!("{} {} {}", found.registry, found.repository, found.digest_or_tag()))
        };
        for (image, expected) in [
            ("docker.io/x/y:1", "docker.io x/y 1"),
            ("docker.io/redis:7", "docker.io library/redis 7"),
            ("index.docker.io/redis:7", "docker.io library/redis 7"),
            ("registry-1.docker.io/library/redis:7", "docker.io library/redis 7"),
            ("Docker.io/x/y:1", "docker.io x/y 1"),
            ("quay.io/redis:7", "quay.io redis 7"),
            ("localhost/a:1", "localhost a 1"),
            ("localhost:5000/a/b:1", "localhost:5000 a/b 1"),
            ("[::1]:5000/a:1", "[::1]:5000 a 1"),
            ("r.example/a__b/c-d:V1.2_x-y", "r.example a__b/c-d V1.2_x-y"),
        ] {
            assert_eq!(parsed(image).as_deref(), Ok(expected), "{image}");
        }
        for (image, expected) in [
            ("temporalio/server:1.29.0", "docker.io/temporalio/server:1.29.0?"),
            ("redis:7", "docker.io/library/redis:7?"),
            ("redis", "docker.io/library/redis?"),
            ("", "names no registry"),
            ("docker.io/redis", "has no tag"),
            ("localhost:5000/a", "has no tag"),
            ("docker.io/library/Redis:7", "not a repository name"),
            ("docker.io/a//b:1", "not a repository name"),
            ("docker.io/a/../b:1", "not a repository name"),
            ("docker.io/a:b/c:", "not a repository name"),
            ("docker.io/a:-x", "is not a tag"),
            ("https://docker.io/a:1", "without a scheme"),
            ("user:secret@docker.io/a:1", "is not a digest"),
            ("docker.io/a:1@sha256:abc", "is not a digest"),
            ("docker.io:port/a:1", "not a registry name"),
        ] {
            let error = parsed(image).unwrap_err();
            assert!(error.contains(expected), "{image}: {error}");
        }
        let digest = Digest::of(b"x");
        let full = format!("docker.io/a:1@{digest}");
        assert_eq!(parsed(&full), Ok(format!("docker.io library/a {digest}")));
        assert_eq!(Reference::parse(&full).unwrap().tag.as_deref(), Some("1"));
        assert_eq!(parsed(&format!("localhost:5000/a@{digest}")), Ok(format!("localhost:5000 a {digest}")));
        assert!(parsed(&format!("docker.io/a:1@{digest}@{digest}")).is_err());
    }
}
