//! Durations in flags.

use std::time::Duration;

use jiff::SignedDuration;

use crate::files::bounds;

const EXPECTED: &str = "expected a number of seconds, or a time such as 90s, 5m or 1h30m";

/// A number of seconds, or what [`jiff`] reads as a duration: `90`, `90s`, `5m`, `1h30m`.
///
/// # Errors
/// Text that is neither, is negative, or is longer than a year.
pub fn parse(text: &str) -> Result<Duration, String> {
    let time = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let time: SignedDuration = text.parse().map_err(|_| EXPECTED.to_owned())?;
            Duration::try_from(time).map_err(|_| EXPECTED.to_owned())?
        }
    };
    if time <= bounds::YEAR { Ok(time) } else { Err("longer than a year".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_or_refused() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "m",
            "5 parsecs",
            "-1s",
            "1d",
            "99999999999999999999h",
            "18446744073709551615",
            "5124095576030431h",
            "367h24h",
            "9000h",
            "é",
            "5é",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
