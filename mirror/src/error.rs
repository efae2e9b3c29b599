//! What can go wrong with a registry, by kind, and the same of several images as one.

use std::time::Duration;

/// What kind of thing went wrong, for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RateLimited,
    /// An account is wrong, or there is none.
    Auth,
    /// Registries do not tell one from the other: no such repository, or no right to it.
    Denied,
    NotFound,
    Dns,
    Unreachable,
    /// Nobody here trusts who made its certificate, or TLS fails otherwise.
    Tls,
    /// Its certificate is for another name.
    TlsName,
    /// Its certificate is past its end or before its beginning, or this machine's clock is wrong.
    TlsTime,
    /// A proxy that cannot be reached, or leads nowhere.
    Proxy,
    Protocol,
    Platform,
    Invalid,
    /// Something before the registry, mostly a reverse proxy, takes no body of this size.
    BodyLimit,
    DiskFull,
    /// A file, a name, an address or a proxy that is not written as it should be.
    Usage,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// The image concerned, and every other one that could not be copied, with the reason.
    pub(crate) images: Vec<(String, String)>,
    /// Another try may do: the cause lies in one connection, not in the registry's answer.
    pub(crate) passing: bool,
    /// What a registry answered.
    pub(crate) status: Option<u16>,
    /// When it gives again, from the answer on.
    pub(crate) gives_again: Option<Duration>,
    /// It is the registry's with all its images, and the message names no single address.
    pub(crate) whole: bool,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            images: Vec::new(),
            passing: false,
            status: None,
            gives_again: None,
            whole: false,
        }
    }

    pub(crate) fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    /// All that could not be done, as one: the first one's kind, each reason of a whole
    /// registry once, with the images that it concerns.
    pub(crate) fn of_images(failed: Vec<(String, Error)>) -> Option<Self> {
        let (_, first) = failed.first()?;
        let mut error = first.clone();
        if first.whole {
            let same = failed.iter().filter(|(_, other)| other.message == first.message);
            let ids: Vec<&str> = same.map(|(id, _)| id.as_str()).collect();
            error.message = format!("{}; missing: {}", first.message, ids.join(", "));
        }
        error.images = failed.into_iter().map(|(id, error)| (id, error.message)).collect();
        Some(error)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The images that could not be copied, each with its reason.
    pub fn images(&self) -> &[(String, String)] {
        &self.images
    }

    /// The same by reason: each reason once, with the images that it concerns; without
    /// those that the error's own message names already.
    pub fn other_images(&self) -> Vec<(Vec<&str>, &str)> {
        let mut reasons: Vec<(Vec<&str>, &str)> = Vec::new();
        for (id, reason) in &self.images {
            if self.whole && self.message.starts_with(reason.as_str()) {
                continue;
            }
            match reasons.iter_mut().find(|(_, known)| known == reason) {
                Some((ids, _)) => ids.push(id),
                None => reasons.push((vec![id], reason)),
            }
        }
        reasons
    }
}
