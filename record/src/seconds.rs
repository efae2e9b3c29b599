//! Durations, formatted for people and for a record.

use std::time::Duration;

/// A duration as people read it: `0.3s`, `12.4s`, `3m07s`.
pub fn human_seconds(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round() as u64;
    format!("{}m{:02}s", whole / 60, whole % 60)
}

/// For durations known only in whole seconds, like the times of Kubernetes and Helm.
pub fn whole_seconds(seconds: f64) -> String {
    if seconds < 0.5 { "less than 1s".to_owned() } else { human_seconds(seconds).replace(".0s", "s") }
}

/// `#[serde(with = "…")]` for seconds with a fraction.
pub(crate) mod fraction {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(duration.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// `#[serde(with = "…")]` for whole seconds.
pub(crate) mod whole {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(duration.as_secs())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [(0.04, "0.0s"), (12.44, "12.4s"), (59.96, "1m00s"), (187.0, "3m07s")] {
            assert_eq!(human_seconds(seconds), text);
        }
        for (seconds, text) in [(0.0, "less than 1s"), (1.0, "1s"), (14.0, "14s"), (62.0, "1m02s")] {
            assert_eq!(whole_seconds(seconds), text);
        }
    }
}
