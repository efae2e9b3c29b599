//! A request that the API server did not answer: which one it was, the proxy it went through, and
//! the interrupt that ended it.

use image_mirror::Proxy;
use run_record::Failure;

/// The proxy used for the server.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    pub proxy: Proxy,
    /// Where it is configured: a variable, or the kubeconfig.
    pub from: String,
}

impl Via {
    /// For display: without an account.
    pub fn address(&self) -> String {
        self.proxy.address()
    }
}

/// Says which request was not answered, and through which proxy.
#[derive(Debug, thiserror::Error)]
#[error("{request}")]
pub(crate) struct Unanswered {
    pub request: String,
    pub via: Option<Via>,
    #[source]
    pub cause: kube::Error,
}

/// The proxy that an error came through, if it was the proxy that failed.
pub(crate) fn proxy_in(error: &kube::Error) -> Option<&Via> {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    let mut via = None;
    let mut reached = true;
    while let Some(cause) = next {
        if let Some(unanswered) = cause.downcast_ref::<Unanswered>() {
            via = unanswered.via.as_ref();
        }
        let text = cause.to_string();
        let at_the_proxy =
            ["tunnel error", "SOCKS", "tcp connect error", "dns error", "refused", "deadline", "timed out"];
        reached &= !at_the_proxy.iter().any(|words| text.contains(words));
        next = cause.source();
    }
    via.filter(|_| !reached)
}

/// The failure that an error contains: an interrupt while waiting for the server.
pub(crate) fn interrupted(error: &kube::Error) -> Option<&Failure> {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = next {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return Some(failure);
        }
        next = cause.source();
    }
    None
}
