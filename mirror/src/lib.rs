//! Copies images from one registry to another by digest, streaming, and reports what is missing
//! there. Speaks the OCI distribution spec; prints nothing. Also fetches single files by URL, with
//! the same proxies, certificates and retries.

mod archive;
mod auth;
mod blob;
mod check;
mod copy;
mod credentials;
mod digest;
mod endpoint;
mod error;
mod fetch;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod lock;
mod manifest;
mod no_proxy;
mod observe;
mod options;
mod pace;
mod ping;
mod post;
mod proxy;
mod reference;
mod referrers;
mod registry;
mod resolve;
mod sources;
mod target;
mod transport;
mod trust;
pub mod yaml;

pub use archive::archive;
pub use check::{Finding, check};
pub use copy::{Summary, copy};
pub use credentials::{AuthConfig, Credential, Credentials};
pub use digest::Digest;
pub use endpoint::Endpoint;
pub use error::{Error, Kind};
pub use fetch::{FetchEvent, Fetcher};
pub use lock::{Child, ImageList, ImagesLock, ListedImage, LockedImage, Mode, Platform, Role, is_platform};
pub use manifest::ManifestCache;
pub use no_proxy::NoProxy;
pub use observe::{MirrorEvent, Observe};
pub use options::Options;
pub use pace::{Quota, RetryPolicy, asked_wait};
pub use ping::{Limit, answers, limit, ping};
pub use post::{Posted, post};
pub use proxy::{Proxies, Proxy, percent_decoded};
pub use resolve::resolve;

#[cfg(test)]
#[path = "../../tests/support/schema.rs"]
mod schema;
