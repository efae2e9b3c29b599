//! The proxies between this machine and the registries.

use image_mirror::Proxies;
use run_record::Failure;

/// The proxies that the environment names.
///
/// # Errors
/// `usage` for a malformed one.
pub fn named() -> Result<Proxies, Failure> {
    Proxies::from_env().map_err(|error| {
        Failure::usage(error.to_string()).remedy("correct the variable; NO_PROXY names what is reached without it")
    })
}
