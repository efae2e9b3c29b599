//! Gets images from one registry into another by digest, streaming, and says
//! what is missing there. Speaks the OCI distribution spec; prints nothing.

mod auth;
mod blob;
mod copy;
mod credentials;
mod lock;
mod manifest;
mod no_proxy;
mod pace;
mod proxy;
mod referrers;
mod registry;
mod resolve;
mod transport;

use std::time::Duration;

pub use copy::{Finding, Observe, Options, Summary, check, copy};
pub use credentials::{Account, Credentials};
pub use lock::{Child, Digest, Lock, LockedImage, Mode, Platform, Wanted, WantedImage};
pub use no_proxy::NoProxy;
pub use pace::{Quota, Retry};
pub use proxy::Proxies;
pub use registry::answers;
pub use resolve::resolve;
pub use transport::{Connector, Endpoint};

/// What a copy tells while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Started {
        id: String,
    },
    /// The target has it, as the lock says.
    Skipped {
        id: String,
    },
    /// What of this image has to be moved, in bytes; what another image brings counts there.
    Planned {
        id: String,
        bytes: u64,
    },
    /// That many more bytes of it arrived.
    Moved {
        id: String,
        bytes: u64,
    },
    /// That many bytes of it need not be moved: the target has them.
    Spared {
        id: String,
        bytes: u64,
    },
    /// Bytes that have to be sent again, after a cut that no range could mend.
    Lost {
        id: String,
        bytes: u64,
    },
    /// It can be pulled from the target; the bytes that were moved for it.
    Copied {
        id: String,
        bytes: u64,
    },
    Failed {
        id: String,
        reason: String,
    },
    /// A registry asked for patience, or has to be asked again.
    Waiting {
        registry: String,
        wait: Duration,
        reason: String,
    },
}

/// What kind of thing went wrong, for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RateLimited,
    Auth,
    NotFound,
    Dns,
    Unreachable,
    Tls,
    /// A proxy that is mistyped, or that leads nowhere.
    Proxy,
    Protocol,
    Platform,
    Invalid,
    /// Something before the registry, mostly a reverse proxy, takes no body of this size.
    BodyLimit,
    DiskFull,
    Lock,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    /// The image concerned, and every other one that could not be copied, with the reason.
    images: Vec<(String, String)>,
    /// Another try may do: the cause lies in one connection, not in the registry's answer.
    passing: bool,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), images: Vec::new(), passing: false }
    }

    pub(crate) fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The images that could not be copied, each with its reason.
    pub fn images(&self) -> &[(String, String)] {
        &self.images
    }
}
