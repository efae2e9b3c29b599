//! A record: one JSON object per event, with its time; written during the run, and read back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Event;
use crate::event::NAMES;

/// A line of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub time: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

impl Line {
    /// Without the trailing newline.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

/// What could be read from a record.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub lines: Vec<Line>,
    /// Events of a name that this version does not know.
    pub unknown: usize,
    /// Lines that are not an event, or that have a known name and lack required fields.
    pub unreadable: usize,
}

/// A run writes hundreds of lines. If a record has more than these, the middle is left out: the
/// beginning says what the run was, the end how it went.
pub(crate) const FIRST_LINES: usize = 15_000;
pub(crate) const LAST_LINES: usize = 5_000;

pub fn read(text: &str) -> Record {
    #[derive(Deserialize)]
    struct Named {
        event: String,
    }
    let all: Vec<&str> = text.lines().collect();
    let (first, rest) = all.split_at(all.len().min(FIRST_LINES));
    let last = &rest[rest.len().saturating_sub(LAST_LINES)..];
    let mut record = Record::default();
    for line in first.iter().chain(last).filter(|line| !line.is_empty()) {
        if let Ok(line) = serde_json::from_str(line) {
            record.lines.push(line);
            continue;
        }
        match serde_json::from_str::<Named>(line) {
            Ok(named) if !NAMES.contains(&named.event.as_str()) => record.unknown += 1,
            _ => record.unreadable += 1,
        }
    }
    // The last line may be cut off if the run was killed or is still going on.
    let cut = all.last().is_some_and(|line| !text.ends_with('\n') && serde_json::from_str::<Named>(line).is_err());
    record.unreadable -= usize::from(cut);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let lines: Vec<Line> = crate::event::one_of_each("x\n\"y\"")
            .into_iter()
            .map(|event| Line { time: "2026-11-24T03:40:00.123456789Z".parse().unwrap(), event })
            .collect();
        let text: String = lines.iter().map(|line| line.to_json().unwrap() + "\n").collect();
        let record = read(&text);
        assert_eq!((record.lines, record.unknown, record.unreadable), (lines, 0, 0));
    }

    #[test]
    fn what_is_not_understood_is_counted_and_loses_nothing_else() {
        let line = |rest: &str| format!("{{\"time\":\"2026-11-24T03:40:00Z\",{rest}}}\n");
        let note = line(r#""event":"note","resource":"r","text":"t""#);
        let known_but_broken = line(r#""event":"finished","resource":"r","step":"s","outcome":"exploded","seconds":1"#);
        let negative = line(r#""event":"end","exit":0,"seconds":-1"#);
        let of_another_version = line(r#""event":"moon-landing","crew":3"#);
        let text = [note.as_str(), &known_but_broken, &of_another_version, "no json\n", &negative, &note];
        let record = read(&text.concat());
        assert_eq!((record.lines.len(), record.unknown, record.unreadable), (2, 1, 3));
        for cut in ["{\"time\":\"2026-11-2", "{"] {
            let record = read(&(note.clone() + cut));
            assert_eq!((record.lines.len(), record.unknown, record.unreadable), (1, 0, 0), "{cut}");
        }
        assert_eq!(read("").lines.len(), 0);
    }
}
