//! The form of a table, and how a message is looked up in one.

use run_record::Code;

/// Parts, in lower case, that must all occur in the text.
pub(super) type Parts = &'static [&'static str];

/// A text with one of these is that blocker; without a code, it is known to be harmless.
pub(super) struct Row {
    pub(super) code: Option<Code>,
    pub(super) any: &'static [Parts],
}

pub(super) const fn row(code: Code, any: &'static [Parts]) -> Row {
    Row { code: Some(code), any }
}

pub(super) const fn harmless(any: &'static [Parts]) -> Row {
    Row { code: None, any }
}

/// The rows for these reasons of a source: the first match, else `rest`.
pub(super) struct Reason {
    pub(super) of: &'static [&'static str],
    pub(super) texts: &'static [&'static [Row]],
    pub(super) rest: Option<Code>,
}

/// Like [`Reason`], for a source whose messages are facts about the cluster.
pub(super) struct State {
    pub(super) reason: Reason,
    /// What is final if it has this reason: a code, with the texts for which it is (if there are
    /// none, all).
    pub(super) finals: &'static [(Code, &'static [Parts])],
}

/// Whether the text, in lower case, has all parts of one of these.
pub(super) fn has(lower: &str, any: &[Parts]) -> bool {
    any.iter().any(|parts| parts.iter().all(|part| lower.contains(part)))
}

/// `Some` if a row matches, with its code.
pub(super) fn in_rows(rows: &[Row], lower: &str) -> Option<Option<Code>> {
    rows.iter().find(|row| has(lower, row.any)).map(|row| row.code)
}

pub(super) fn in_reason(reason: &Reason, lower: &str) -> Option<Code> {
    reason.texts.iter().find_map(|rows| in_rows(rows, lower)).unwrap_or(reason.rest)
}

pub(super) fn for_reason<'a>(table: &'a [Reason], reason: &str) -> Option<&'a Reason> {
    table.iter().find(|row| row.of.iter().any(|of| matches_reason(of, reason)))
}

/// `OutOf*` matches every reason with that prefix.
pub(super) fn matches_reason(of: &str, reason: &str) -> bool {
    of.strip_suffix('*').map_or(of == reason, |prefix| reason.starts_with(prefix))
}
