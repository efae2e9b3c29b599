//! What can go wrong with a registry, by kind, and the errors of several images combined into one.

use std::time::Duration;

/// What kind of thing went wrong, for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RateLimited,
    /// An account is wrong or missing.
    Auth,
    /// The repository does not exist, or access is denied: registries do not distinguish the two.
    Denied,
    NotFound,
    Dns,
    Unreachable,
    /// The certificate's issuer is not trusted, or TLS fails in another way.
    Tls,
    /// The certificate is for another name.
    TlsName,
    /// The certificate has expired or is not valid yet, or this machine's clock is wrong.
    TlsTime,
    /// The proxy cannot be reached, or does not connect to the target.
    Proxy,
    Protocol,
    Platform,
    Invalid,
    /// Something in front of the registry, usually a reverse proxy, does not accept a body of this
    /// size.
    BodyLimit,
    DiskFull,
    /// A malformed file, name, address or proxy.
    Usage,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// Every image that could not be copied, including the one this error is about, with the
    /// reason.
    pub(crate) images: Vec<(String, String)>,
    /// A retry may help: the cause is in one connection, not in the registry's answer.
    pub(crate) passing: bool,
    /// The HTTP status that the registry answered.
    pub(crate) status: Option<u16>,
    /// When it will serve again, counted from the answer.
    pub(crate) gives_again: Option<Duration>,
    /// It concerns the whole registry with all its images, and the message names no single address.
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

    /// Whether a success was announced, and its body was not received.
    pub(crate) fn is_cut(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    pub(crate) fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    /// Everything that failed, as one error: of the first one's kind, with each reason that
    /// concerns a whole registry given once, with its images.
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

    /// The same grouped by reason: each reason once, with its images, except those that the error's
    /// own message already names.
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
