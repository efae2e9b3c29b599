//! How often and when a registry is asked again: one decision table, one gate per
//! registry that all its transfers share, and the quota that it tells of.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, header};

use crate::{Error, Kind};

/// Bounds on asking again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Tries after the first one.
    pub tries: u32,
    /// Before the first of them; it doubles each time.
    pub base: Duration,
    pub cap: Duration,
    /// The longest `Retry-After` that is waited for.
    pub patience: Duration,
    /// How long a transfer may stand still.
    pub stall: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 5,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(30),
            patience: Duration::from_secs(600),
            stall: Duration::from_secs(60),
        }
    }
}

impl Retry {
    /// Doubles with each try; `jitter` in 0..1 takes up to half of it off, so that
    /// transfers that failed together do not come back together.
    pub(crate) fn back_off(&self, tries: u32, jitter: f64) -> Duration {
        let whole = self.base.saturating_mul(1 << tries.min(16)).min(self.cap);
        whole.mul_f64(1.0 - jitter / 2.0)
    }
}

/// What a registry said of how much it still gives: `ratelimit-limit: 100;w=21600`
/// (<https://docs.docker.com/docker-hub/usage/pulls/>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    pub registry: String,
    pub limit: u64,
    pub remaining: u64,
    pub window: Duration,
}

impl Quota {
    pub(crate) fn of(registry: &str, headers: &HeaderMap) -> Option<Self> {
        let read = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?;
            let (count, rest) = value.split_once(';').unwrap_or((value, ""));
            let window = rest.trim().strip_prefix("w=").and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
            Some((count.trim().parse::<u64>().ok()?, Duration::from_secs(window)))
        };
        let (remaining, window) = read("ratelimit-remaining")?;
        let (limit, _) = read("ratelimit-limit")?;
        Some(Self { registry: registry.to_owned(), limit, remaining, window })
    }
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} pulls left at {}", self.remaining, self.limit, self.registry)?;
        let minutes = self.window.as_secs() / 60;
        match (minutes / 60, minutes % 60) {
            (0, 0) => Ok(()),
            (0, minutes) => write!(f, " in {minutes} min"),
            (hours, 0) => write!(f, " in {hours} h"),
            (hours, minutes) => write!(f, " in {hours} h {minutes} min"),
        }
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); a date that is past is now.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// What came of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Answer {
        status: u16,
        retry_after: Option<Duration>,
        /// The account's or address's quota is used up, not just the pace too high.
        quota: bool,
    },
    /// No answer. `known`: this registry has answered before, so it is likely to come back.
    Nothing { known: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is the caller's to read.
    Take,
    Again(Duration),
    /// Ask no more.
    Stop,
}

/// Asked again: what a later time can change. Everything else is an answer.
pub(crate) fn next(came: Came, tries: u32, retry: &Retry, jitter: f64) -> Next {
    let exhausted = tries >= retry.tries;
    let back_off = || if exhausted { Next::Stop } else { Next::Again(retry.back_off(tries, jitter)) };
    match came {
        Came::Answer { status: 429, retry_after: Some(wait), .. } if exhausted || wait > retry.patience => Next::Stop,
        // Never at once, whatever a past date says.
        Came::Answer { status: 429 | 503, retry_after: Some(wait), .. } if wait <= retry.patience && !exhausted => {
            Next::Again(wait.max(retry.back_off(0, jitter)))
        }
        // Nothing says when; trying blindly only prolongs it.
        Came::Answer { status: 429, quota: true, .. } => Next::Stop,
        Came::Answer { status: 408 | 429 | 500 | 502 | 503 | 504, .. } => back_off(),
        Came::Answer { .. } => Next::Take,
        Came::Nothing { known: true } => back_off(),
        Came::Nothing { known: false } => Next::Stop,
    }
}

/// All transfers of one registry wait here while it wants patience, and learn here
/// that it gives no more.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed_until: Option<Instant>,
    stopped: Option<Error>,
    quota: Option<Quota>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn pass(&self) -> Result<(), Error> {
        loop {
            let until = {
                let state = self.state();
                if let Some(error) = &state.stopped {
                    return Err(error.clone());
                }
                state.closed_until.filter(|until| *until > Instant::now())
            };
            let Some(until) = until else { return Ok(()) };
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Whether this is news: the gate was open, or opens later than was known.
    pub fn close(&self, wait: Duration) -> bool {
        let mut state = self.state();
        let (now, until) = (Instant::now(), Instant::now() + wait);
        let open = state.closed_until.is_none_or(|known| known <= now);
        if state.closed_until.is_none_or(|known| known < until) {
            state.closed_until = Some(until);
        }
        open
    }

    pub fn stop(&self, error: &Error) {
        let mut state = self.state();
        state.stopped.get_or_insert_with(|| error.clone());
    }

    pub fn learn(&self, quota: Quota) {
        self.state().quota = Some(quota);
    }

    pub fn quota(&self) -> Option<Quota> {
        self.state().quota.clone()
    }
}

/// What the failure of one transfer means for the others of the same registry.
pub(crate) fn concerns_all(kind: Kind) -> bool {
    matches!(kind, Kind::RateLimited | Kind::Dns | Kind::Unreachable | Kind::Tls | Kind::DiskFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry = Retry {
        tries: 5,
        base: Duration::from_secs(1),
        cap: Duration::from_secs(30),
        patience: Duration::from_secs(600),
        stall: Duration::from_secs(60),
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn answer(status: u16, retry_after: Option<u64>, quota: bool) -> Came {
        Came::Answer { status, retry_after: retry_after.map(seconds), quota }
    }

    #[test]
    fn every_row_of_the_table() {
        use Next::{Again, Stop, Take};
        let rows = [
            (answer(200, None, false), 0, Take),
            (answer(404, None, false), 0, Take),
            (answer(401, None, false), 0, Take),
            (answer(400, Some(5), false), 0, Take),
            // 429 with a time: that time, within bounds.
            (answer(429, Some(7), false), 0, Again(seconds(7))),
            (answer(429, Some(7), true), 4, Again(seconds(7))),
            (answer(429, Some(0), false), 0, Again(seconds(1))),
            (answer(429, Some(601), false), 0, Stop),
            (answer(429, Some(7), false), 5, Stop),
            // 429 without one: back off, unless the quota is gone.
            (answer(429, None, false), 0, Again(seconds(1))),
            (answer(429, None, false), 4, Again(seconds(16))),
            (answer(429, None, false), 5, Stop),
            (answer(429, None, true), 0, Stop),
            // The registry's own trouble.
            (answer(500, None, false), 0, Again(seconds(1))),
            (answer(502, None, false), 1, Again(seconds(2))),
            (answer(503, Some(9), false), 1, Again(seconds(9))),
            (answer(503, Some(9000), false), 1, Again(seconds(2))),
            (answer(503, Some(9), false), 5, Stop),
            (answer(504, None, false), 5, Stop),
            (answer(408, None, false), 0, Again(seconds(1))),
            (answer(501, None, false), 0, Take),
            // No answer at all.
            (Came::Nothing { known: false }, 0, Stop),
            (Came::Nothing { known: true }, 0, Again(seconds(1))),
            (Came::Nothing { known: true }, 5, Stop),
        ];
        for (came, tries, expected) in rows {
            assert_eq!(next(came, tries, &RETRY, 0.0), expected, "{came:?} after {tries}");
        }
    }

    #[test]
    fn backing_off_doubles_up_to_the_cap_and_jitter_takes_at_most_half() {
        assert_eq!(RETRY.back_off(3, 0.0), seconds(8));
        assert_eq!(RETRY.back_off(3, 1.0), seconds(4));
        assert_eq!(RETRY.back_off(60, 0.0), seconds(30));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_anything_else_is_nothing() {
        let now = SystemTime::UNIX_EPOCH + seconds(1_000_000_000);
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("12"), Some(seconds(12)));
        assert_eq!(read(&httpdate::fmt_http_date(now + seconds(30))), Some(seconds(30)));
        assert_eq!(read(&httpdate::fmt_http_date(now - seconds(30))), Some(seconds(0)));
        assert_eq!(read("18446744073709551615"), Some(seconds(u64::MAX)));
        for garbage in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(read(garbage), None, "{garbage}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_quota_needs_both_of_its_headers() {
        let headers = |pairs: &[(&'static str, &str)]| {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        let both = headers(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "87;w=21600")]);
        let quota = Quota::of("docker.io", &both).unwrap();
        assert_eq!(quota.to_string(), "87 of 100 pulls left at docker.io in 6 h");
        let plain = headers(&[("ratelimit-limit", "100"), ("ratelimit-remaining", "0")]);
        assert_eq!(Quota::of("x", &plain).unwrap().to_string(), "0 of 100 pulls left at x");
        assert_eq!(Quota::of("x", &headers(&[("ratelimit-remaining", "0")])), None);
        assert_eq!(Quota::of("x", &headers(&[("ratelimit-limit", "a"), ("ratelimit-remaining", "0")])), None);
    }

    #[tokio::test]
    async fn a_closed_gate_holds_all_and_a_stopped_one_refuses_all() {
        let gate = Gate::default();
        gate.pass().await.unwrap();
        assert!(gate.close(Duration::from_millis(50)));
        assert!(!gate.close(Duration::from_millis(10)));
        let started = Instant::now();
        gate.pass().await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(50));
        gate.stop(&Error::new(Kind::RateLimited, "no more"));
        assert_eq!(gate.pass().await.unwrap_err().kind(), Kind::RateLimited);
    }
}
