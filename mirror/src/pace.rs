//! Whether and when a request to a registry is repeated: one decision table, one gate per registry
//! shared by all its transfers, and the quota that the registry reports.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, header};

use crate::error::{Error, Kind};

/// Limits for retries.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Retries after the first try.
    pub tries: u32,
    /// The delay before the first retry; it doubles each time.
    pub base: Duration,
    pub cap: Duration,
    /// The longest `Retry-After` that is waited for.
    pub patience: Duration,
    /// How long a transfer may make no progress.
    pub stall: Duration,
}

impl Default for RetryPolicy {
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

impl RetryPolicy {
    /// Doubles with each try; `jitter` in 0..1 takes off up to half of it, so that transfers that
    /// failed together do not retry together.
    pub(crate) fn back_off(&self, tries: u32, jitter: f64) -> Duration {
        let whole = self.base.saturating_mul(1 << tries.min(16)).min(self.cap);
        whole.mul_f64(1.0 - jitter / 2.0)
    }
}

/// What a registry reported about the remaining quota: `ratelimit-limit: 100;w=21600`
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
        if self.window < Duration::from_secs(60) { Ok(()) } else { write!(f, " {}", span(self.window)) }
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); a date in the past means now.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    asked_wait(headers.get(header::RETRY_AFTER)?.to_str().ok()?, now)
}

/// The wait that the text of a `Retry-After` asks for; a number that overflows is the longest wait.
pub fn asked_wait(text: &str, now: SystemTime) -> Option<Duration> {
    let value = text.trim();
    if let Some(wait) = whole_seconds(value) {
        return Some(wait);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// A number of seconds, rounded up; one that overflows saturates.
fn whole_seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let more = u64::from(fraction.bytes().any(|byte| byte != b'0'));
    Some(Duration::from_secs(whole.parse::<u64>().unwrap_or(u64::MAX).saturating_add(more)))
}

/// When a registry will serve again, from now: what it says itself, else the window of its quota,
/// which is the latest possible time. Docker Hub writes the time as seconds since 1970
/// (`X-Retry-After`, `X-RateLimit-Reset`), others as seconds from now.
pub(crate) fn gives_again(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let read = |name: &str| {
        let seconds = whole_seconds(headers.get(name)?.to_str().ok()?.trim())?;
        // Nobody means thirty years from now.
        Some(if seconds.as_secs() > 1_000_000_000 { seconds.saturating_sub(since_1970) } else { seconds })
    };
    let said = ["x-retry-after", "x-ratelimit-reset", "ratelimit-reset"].into_iter().find_map(read);
    retry_after(headers, now).or(said)
}

/// `in 6 h, at 18:30 UTC`; without a time of day if it is more than a day away.
pub(crate) fn until(wait: Duration, now: SystemTime) -> String {
    let span = span(wait);
    let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_add(wait).as_secs();
    if wait > Duration::from_secs(86_400) {
        return span;
    }
    // Rounded up to a full minute.
    let minutes = at.div_ceil(60);
    format!("{span}, at {:02}:{:02} UTC", minutes / 60 % 24, minutes % 60)
}

/// `in 6 h 5 min`
fn span(wait: Duration) -> String {
    match (wait.as_secs() / 3600, wait.as_secs() / 60 % 60) {
        (0, 0) => format!("in {} s", wait.as_secs()),
        (0, minutes) => format!("in {minutes} min"),
        (hours, 0) => format!("in {hours} h"),
        (hours, minutes) => format!("in {hours} h {minutes} min"),
    }
}

/// The outcome of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answer {
        status: u16,
        retry_after: Option<Duration>,
        /// The quota of the account or address is used up, rather than the request rate too high.
        quota: bool,
    },
    /// No answer. `known`: this registry has answered before, so it is likely to come back.
    Nothing { known: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The answer is returned to the caller.
    Take,
    Again(Duration),
    /// Give up.
    Stop,
}

/// Retries what may change with time; everything else is a final answer.
pub(crate) fn next(outcome: Outcome, tries: u32, retry: &RetryPolicy, jitter: f64) -> Next {
    let exhausted = tries >= retry.tries;
    let back_off = || if exhausted { Next::Stop } else { Next::Again(retry.back_off(tries, jitter)) };
    match outcome {
        Outcome::Answer { status: 429, retry_after: Some(wait), .. } if exhausted || wait > retry.patience => {
            Next::Stop
        }
        // Never immediately, even if the date is in the past.
        Outcome::Answer { status: 429 | 503, retry_after: Some(wait), .. } if wait <= retry.patience && !exhausted => {
            Next::Again(wait.max(retry.back_off(0, jitter)))
        }
        // There is no time to wait for, and retrying blindly would only prolong it.
        Outcome::Answer { status: 429, quota: true, .. } => Next::Stop,
        Outcome::Answer { status: 408 | 429 | 500 | 502 | 503 | 504, .. } => back_off(),
        Outcome::Answer { .. } => Next::Take,
        Outcome::Nothing { known: true } => back_off(),
        Outcome::Nothing { known: false } => Next::Stop,
    }
}

/// All transfers of one registry wait here while it asks us to, and learn here when it refuses any
/// more requests.
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

    /// Returns whether this is news: the gate was open, or now opens later than known before.
    pub fn close(&self, wait: Duration) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        // A wait that overflows the clock is never reached: patience ends earlier.
        let until = now.checked_add(wait).unwrap_or(now);
        let open = state.closed_until.is_none_or(|known| known <= now);
        if state.closed_until.is_none_or(|known| known < until) {
            state.closed_until = Some(until);
        }
        open
    }

    /// Stops all requests, and returns why: the first reason that was given.
    pub fn stop(&self, error: Error) -> Error {
        self.state().stopped.get_or_insert(error).clone()
    }

    pub fn learn(&self, quota: Quota) {
        self.state().quota = Some(quota);
    }

    pub fn quota(&self) -> Option<Quota> {
        self.state().quota.clone()
    }
}

/// Whether the failure of one transfer concerns all others of the same registry.
pub(crate) fn concerns_all(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::RateLimited
            | Kind::Dns
            | Kind::Unreachable
            | Kind::Tls
            | Kind::TlsName
            | Kind::TlsTime
            | Kind::Proxy
            | Kind::DiskFull
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: RetryPolicy = RetryPolicy {
        tries: 5,
        base: Duration::from_secs(1),
        cap: Duration::from_secs(30),
        patience: Duration::from_secs(600),
        stall: Duration::from_secs(60),
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn answer(status: u16, retry_after: Option<u64>, quota: bool) -> Outcome {
        Outcome::Answer { status, retry_after: retry_after.map(seconds), quota }
    }

    #[test]
    fn every_row_of_the_table() {
        use Next::{Again, Stop, Take};
        let rows = [
            (answer(200, None, false), 0, Take),
            (answer(404, None, false), 0, Take),
            (answer(401, None, false), 0, Take),
            (answer(400, Some(5), false), 0, Take),
            // 429 with a time: that time, within limits.
            (answer(429, Some(7), false), 0, Again(seconds(7))),
            (answer(429, Some(7), true), 4, Again(seconds(7))),
            (answer(429, Some(0), false), 0, Again(seconds(1))),
            (answer(429, Some(601), false), 0, Stop),
            (answer(429, Some(7), false), 5, Stop),
            // 429 without one: back off, unless the quota is used up.
            (answer(429, None, false), 0, Again(seconds(1))),
            (answer(429, None, false), 4, Again(seconds(16))),
            (answer(429, None, false), 5, Stop),
            (answer(429, None, true), 0, Stop),
            // The registry's own failures.
            (answer(500, None, false), 0, Again(seconds(1))),
            (answer(502, None, false), 1, Again(seconds(2))),
            (answer(503, Some(9), false), 1, Again(seconds(9))),
            (answer(503, Some(9000), false), 1, Again(seconds(2))),
            (answer(503, Some(9), false), 5, Stop),
            (answer(504, None, false), 5, Stop),
            (answer(408, None, false), 0, Again(seconds(1))),
            (answer(501, None, false), 0, Take),
            // No answer at all.
            (Outcome::Nothing { known: false }, 0, Stop),
            (Outcome::Nothing { known: true }, 0, Again(seconds(1))),
            (Outcome::Nothing { known: true }, 5, Stop),
        ];
        for (outcome, tries, expected) in rows {
            assert_eq!(next(outcome, tries, &RETRY, 0.0), expected, "{outcome:?} after {tries}");
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
        assert_eq!(read("99999999999999999999999"), Some(seconds(u64::MAX)));
        assert_eq!((read("1.5"), read("2.0")), (Some(seconds(2)), Some(seconds(2))));
        for garbage in ["", "-1", "soon", "1.", ".5", "1e9", "+1", "0x10", "1 2"] {
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

    #[test]
    fn when_it_gives_again_is_told_in_hours_and_by_the_clock() {
        let now = SystemTime::UNIX_EPOCH + seconds(1_700_000_000);
        let read = |name: &'static str, value: &str| {
            let headers: HeaderMap = [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect();
            gives_again(&headers, now)
        };
        assert_eq!(read("x-retry-after", "1700003600"), Some(seconds(3600)));
        assert_eq!(read("x-ratelimit-reset", "1600000000"), Some(seconds(0)));
        assert_eq!(read("ratelimit-reset", "90"), Some(seconds(90)));
        assert_eq!(read("retry-after", "90"), Some(seconds(90)));
        assert_eq!(read("x-ratelimit-reset", "soon"), None);
        // 22:13:20
        assert_eq!(until(seconds(3600), now), "in 1 h, at 23:14 UTC");
        assert_eq!(until(seconds(6 * 3600), now), "in 6 h, at 04:14 UTC");
        assert_eq!(until(seconds(5), now), "in 5 s, at 22:14 UTC");
        assert_eq!(until(seconds(200_000), now), "in 55 h 33 min");
        assert_eq!(until(Duration::MAX, now), format!("in {} h", u64::MAX / 3600));
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
        gate.stop(Error::new(Kind::RateLimited, "no more"));
        assert_eq!(gate.pass().await.unwrap_err().kind(), Kind::RateLimited);
    }
}
