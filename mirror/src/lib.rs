//! Gets images from one registry into another by digest, streaming, and says
//! what is missing there. Speaks the OCI distribution spec; prints nothing.

mod client;
mod copy;
mod lock;

pub use client::Endpoint;
pub use copy::{Finding, Observe, Options, Summary, check, copy, resolve};
pub use lock::{Child, Digest, Lock, LockedImage, Platform, Wanted, WantedImage};

/// What a copy tells while it goes on.
#[derive(Clone, Debug)]
pub enum Event {
    Started { id: String },
    Skipped { id: String },
    Copied { id: String, bytes: u64 },
}

/// What kind of thing went wrong, for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RateLimited,
    Auth,
    NotFound,
    Dns,
    Unreachable,
    Protocol,
    Platform,
    Invalid,
    Lock,
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }
}
