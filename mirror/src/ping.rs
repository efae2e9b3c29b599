//! Checks of a registry that copy nothing: whether it is there, whether it serves us, and how long
//! it asks us to wait. None of them waits and retries.

use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;

use crate::endpoint::Endpoint;
use crate::error::{Error, Kind};
use crate::options::Options;
use crate::pace::{Quota, RetryPolicy};
use crate::proxy::Proxies;
use crate::reference::Reference;
use crate::registry::{Need, Registry};
use crate::sources::{Sources, target};

/// Whether a registry answers at all, with any status: one GET of `/v2/`, without an account.
///
/// # Errors
/// Why it does not.
pub async fn answers(endpoint: &Endpoint, proxies: &Proxies) -> Result<(), Error> {
    let options = Options { proxies: proxies.clone(), ..Options::to(endpoint.clone()) };
    // There are no events to report.
    let (events, _) = unbounded_channel();
    Registry::new(&endpoint.host, endpoint, &options, events)?.answers().await
}

/// Whether the target serves us, with an account if it asks for one: `/v2/` (OCI distribution spec,
/// "Determining Support"), or the URL that its operator names. If that is on another host, no
/// account is sent.
///
/// # Errors
/// Why it does not; a refused account is `Kind::Auth` or `Kind::Denied`.
pub async fn ping(options: &Options, url: Option<&str>) -> Result<(), Error> {
    let (events, _) = unbounded_channel();
    let target = target(&once(options), &events)?;
    let url = url.map_or_else(|| target.address.root(), str::to_owned);
    target.ping(&url).await
}

/// How a registry currently limits us, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// How long it asks us to wait; `None`: it would serve us, or does not say.
    pub wait: Option<Duration>,
    pub quota: Option<Quota>,
}

/// Asks the registry for an image by one HEAD, which does not count against any quota.
///
/// # Errors
/// `Kind::Usage` for an invalid image name; else the registry's error, unless it is a rate limit.
pub async fn limit(image: &str, options: &Options) -> Result<Limit, Error> {
    let reference =
        Reference::parse(image).map_err(|reason| Error::new(Kind::Usage, format!("image {image:?} {reason}")))?;
    let (options, (events, _)) = (once(options), unbounded_channel());
    let registry = Sources::new(&options, &events).get(&reference.registry)?;
    let asked = registry.digest_by_head(&reference.repository, reference.digest_or_tag(), Need::Required).await;
    let wait = match asked {
        Ok(_) => None,
        Err(error) if error.kind() == Kind::RateLimited => error.gives_again,
        Err(error) => return Err(error),
    };
    Ok(Limit { wait, quota: registry.gate.quota() })
}

fn once(options: &Options) -> Options {
    Options { retry: RetryPolicy { tries: 0, ..options.retry }, ..options.clone() }
}
