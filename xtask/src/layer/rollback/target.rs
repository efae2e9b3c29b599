//! To which revisions a layer's releases go back together: a function from the histories that Helm
//! keeps to a move for each release. There are no looks or actions here.
//!
//! Revisions carry the label of a run, but not always of the one that made them. `helm rollback`
//! takes the labels of its target revision, which fits, because the content is that revision's. A
//! manual `helm upgrade` takes those of the previous revision, which does not fit, and is detected
//! by its content and its position.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::releases::{came_up, history};
use crate::world::helm_storage::Status;

/// A revision, with what the decision needs.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    pub revision: u32,
    pub status: Status,
    pub run: Option<String>,
    pub created: Option<Timestamp>,
    pub description: String,
    /// The target if it is a rollback, even a failed one.
    pub back_to: Option<u32>,
    /// The digest of manifest and hooks.
    pub content: String,
}

impl Past {
    fn came_up(&self) -> bool {
        came_up(self.status, &self.description)
    }

    /// A rollback that did not finish: it says nothing about what is deployed.
    fn is_broken_rollback(&self) -> bool {
        self.back_to.is_some() && !self.came_up()
    }

    /// A rollback by somebody else: by Helm itself after a failure, or by a person.
    fn is_others_rollback(&self) -> bool {
        self.back_to.is_some() && !self.description.contains(BY_US)
    }
}

/// In the description of a rollback made here; no failure overwrites it, since a broken rollback is
/// skipped in any case.
const BY_US: &str = "(xtask, run ";

/// The description of a rollback made here.
pub(crate) fn description(to: u32, run: &str) -> String {
    history::rollback_words(to, "xtask", run)
}

/// The revision named in Helm's description, for a Helm that records it nowhere else.
pub(crate) fn named_in(description: &str) -> Option<u32> {
    description.strip_prefix("Rollback to ")?.split(' ').next()?.parse().ok()
}

/// A release of the layer, with all revisions of it that Helm keeps; none if it is not installed.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub release: String,
    pub past: Vec<Past>,
}

/// Who made a content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Maker {
    Run(String),
    /// Somebody by hand: the revision of the release with this index.
    Hand(usize, u32),
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(run) => write!(f, "run {run}"),
            Self::Hand(_, revision) => write!(f, "revision {revision}, made by hand"),
        }
    }
}

/// What happens to one release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    Back {
        from: u32,
        to: u32,
    },
    /// Its newest revision already has that content.
    There {
        revision: u32,
    },
    /// It was installed later, and is left as it is: nothing is uninstalled.
    NotYetThere,
    /// Nothing of it exists that could go back.
    NotInstalled,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub to: Maker,
    /// In the order of the histories.
    pub moves: Vec<Move>,
}

/// Why there is nothing to go back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NothingInstalled,
    /// There is no good run before the one whose content is deployed.
    NothingBefore {
        now: Maker,
    },
    /// Helm keeps only this many revisions, and the one needed is no longer among them.
    NotKept {
        release: String,
        to: Maker,
    },
    NoSuchRun {
        known: Vec<String>,
    },
    /// This release did not come up in the requested run.
    NotGood {
        release: String,
        to: Maker,
    },
}

/// What a release held after a run.
enum Held {
    /// The content that this revision made, which may itself no longer be kept.
    Content(u32),
    /// A rollback was interrupted: it is unknown what was deployed.
    Unclear,
    NotThere,
    NotKept,
}

/// A release with each content that it had: the revision that made it, and who did.
struct Told<'a> {
    release: &'a str,
    past: Vec<&'a Past>,
    makers: BTreeMap<u32, Maker>,
}

impl<'a> Told<'a> {
    fn of(index: usize, history: &'a History) -> Self {
        let mut past: Vec<&Past> = history.past.iter().collect();
        past.sort_by_key(|past| past.revision);
        let mut told = Self { release: &history.release, past, makers: BTreeMap::new() };
        let (mut first, mut before): (BTreeMap<&str, &Past>, Option<Maker>) = Default::default();
        let mut makers = BTreeMap::new();
        for past in told.past.iter().filter(|past| told.made(past.revision) == past.revision) {
            let hand = Maker::Hand(index, past.revision);
            let maker = match past.run.as_deref() {
                None => hand,
                Some(run) => {
                    let ours = Maker::Run(run.to_owned());
                    let inherited = first.get(run).is_some_and(|known| {
                        before.as_ref() != Some(&ours) || (known.came_up() && known.content != past.content)
                    });
                    if inherited {
                        hand
                    } else {
                        first.insert(run, past);
                        ours
                    }
                }
            };
            before = Some(maker.clone());
            makers.insert(past.revision, maker);
        }
        // The revision that made a content may be gone while rollbacks to it still exist.
        for past in &told.past {
            let made = told.made(past.revision);
            let maker = past.run.clone().map_or(Maker::Hand(index, made), Maker::Run);
            makers.entry(made).or_insert(maker);
        }
        told.makers = makers;
        told
    }

    fn find(&self, revision: u32) -> Option<&'a Past> {
        self.past.iter().find(|past| past.revision == revision).copied()
    }

    /// The revision that made this revision's content.
    fn made(&self, mut revision: u32) -> u32 {
        while let Some(before) = self.find(revision).and_then(|past| past.back_to).filter(|before| *before < revision) {
            revision = before;
        }
        revision
    }

    /// The revision that first brought the content, if later ones brought nothing new.
    fn origin(&self, revision: u32) -> u32 {
        let mut made = self.made(revision);
        while let Some(own) = self.find(made).filter(|own| own.came_up())
            && let Some(before) = self.past.iter().rev().find(|past| past.revision < made)
            && before.came_up()
            && before.content == own.content
        {
            made = self.made(before.revision);
        }
        made
    }

    fn newest(&self) -> Option<&'a Past> {
        self.past.last().copied()
    }

    /// Whose content is deployed, or was meant to be: for an upgrade that failed and that Helm
    /// rolled back by itself it is still that upgrade's, whose run is the one to undo.
    fn position(&self) -> Option<&Maker> {
        let mut whole = self.past.iter().rev().filter(|past| !past.is_broken_rollback());
        let newest = whole.next().or(self.past.last())?;
        let failed = whole.next().filter(|before| {
            newest.is_others_rollback() && !before.came_up() && self.made(before.revision) != self.made(newest.revision)
        });
        self.makers.get(&self.origin(failed.unwrap_or(newest).revision))
    }

    /// What was deployed before this maker brought anything, or is deployed if it brought nothing.
    fn before(&self, maker: &Maker) -> Option<&'a Past> {
        let own = |(made, by): (&u32, &Maker)| (by == maker && self.find(*made).is_some()).then_some(*made);
        let first = self.makers.iter().find_map(own);
        let earlier = |past: &&&Past| first.is_none_or(|first| past.revision < first) && !past.is_broken_rollback();
        self.past.iter().rev().find(earlier).copied()
    }

    /// A revision with this content that came up: the one that made it, else the newest.
    fn good(&self, made: u32) -> Option<&'a Past> {
        let carries = |past: &&&Past| self.made(past.revision) == made && past.came_up();
        self.find(made).filter(|past| past.came_up()).or(self.past.iter().rev().find(carries).copied())
    }

    /// What was deployed after this maker's run; `order` gives its position.
    fn held(&self, maker: &Maker, start: Option<Timestamp>, order: &[Maker]) -> Held {
        if let Some((made, _)) = self.makers.iter().rev().find(|(_, by)| *by == maker) {
            return Held::Content(*made);
        }
        let place = |maker: &Maker| order.iter().position(|known| known == maker);
        let before = |past: &&&Past| {
            let made = self.made(past.revision);
            let own = made == past.revision;
            let later = own && self.makers.get(&made).and_then(place) > place(maker);
            !later && past.created <= start
        };
        match self.past.iter().rev().find(before) {
            Some(past) if past.is_broken_rollback() => Held::Unclear,
            Some(past) => Held::Content(self.made(past.revision)),
            // Helm counts from 1, and deletes the oldest first.
            None if self.past.first().is_some_and(|past| past.revision > 1) => Held::NotKept,
            None => Held::NotThere,
        }
    }
}

/// When a run began, from what is kept of it: the first revision that it made, or its own name.
fn began(maker: &Maker, told: &[Told<'_>]) -> Option<Timestamp> {
    let of = |told: &Told<'_>| {
        let own = told.makers.iter().filter(|(_, by)| *by == maker).filter_map(|(made, _)| told.find(*made)?.created);
        own.min()
    };
    let by_name = || match maker {
        Maker::Run(run) => {
            let (date, rest) = run.split_once('-')?;
            let time = format!("{date}{}", rest.split('-').next()?);
            let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", time).ok()?;
            Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
        }
        Maker::Hand(..) => None,
    };
    told.iter().filter_map(of).min().or_else(by_name)
}

/// The layer's target: the newest good run before the one whose content is deployed, with nothing
/// newer than what was deployed before that; or the requested one.
pub(crate) fn decide(histories: &[History], asked: Option<&Maker>) -> Result<Decision, Refusal> {
    let told: Vec<Told<'_>> = histories.iter().enumerate().map(|(index, history)| Told::of(index, history)).collect();
    let mut order: Vec<Maker> = told.iter().flat_map(|told| told.makers.values().cloned()).collect();
    order.sort_by_cached_key(|maker| (began(maker, &told), maker.clone()));
    order.dedup();
    let place = |maker: &Maker| order.iter().position(|known| known == maker);
    let Some(now) = told.iter().filter_map(|told| place(told.position()?)).max() else {
        return Err(Refusal::NothingInstalled);
    };
    let there = |told: &&Told<'_>| told.newest().is_some_and(|newest| newest.status != Status::Uninstalled);
    // Whether this run is good, or which release keeps it from being a target.
    let judge = |maker: &Maker| -> Result<bool, Refusal> {
        let start = began(maker, &told);
        let (mut some, mut lost) = (false, None);
        for told in told.iter().filter(there) {
            match told.held(maker, start, &order) {
                Held::Content(made) if told.good(made).is_some() => some = true,
                Held::Content(_) | Held::Unclear => {
                    return Err(Refusal::NotGood { release: told.release.to_owned(), to: maker.clone() });
                }
                Held::NotKept => lost = Some(told.release.to_owned()),
                Held::NotThere => {}
            }
        }
        match lost {
            Some(release) => Err(Refusal::NotKept { release, to: maker.clone() }),
            None => Ok(some),
        }
    };
    let moves_to = |to: &Maker| -> Vec<Move> {
        let start = began(to, &told);
        let of = |told: &Told<'_>| {
            let Some(newest) = told.newest().filter(|_| there(&told)) else { return Move::NotInstalled };
            let Held::Content(made) = told.held(to, start, &order) else { return Move::NotYetThere };
            let Some(good) = told.good(made) else { return Move::NotYetThere };
            let same = told.made(newest.revision) == made || newest.content == good.content;
            match newest.status == Status::Deployed && same {
                true => Move::There { revision: newest.revision },
                false => Move::Back { from: newest.revision, to: good.revision },
            }
        };
        told.iter().map(of).collect()
    };
    let to = match asked {
        Some(wanted) => {
            if !order.contains(wanted) {
                let run = |maker: &Maker| match maker {
                    Maker::Run(run) => Some(run.clone()),
                    Maker::Hand(..) => None,
                };
                return Err(Refusal::NoSuchRun { known: order.iter().filter_map(run).collect() });
            }
            judge(wanted)?;
            wanted.clone()
        }
        None => {
            // What a rollback has undone is no target: nothing newer than what was deployed before
            // the run being undone.
            let before: Vec<Option<&Past>> = told.iter().map(|told| told.before(&order[now])).collect();
            let maker =
                |(told, past): (&Told<'_>, &Option<&Past>)| told.makers.get(&told.origin((*past)?.revision)).cloned();
            let bound = told.iter().zip(&before).filter_map(maker).filter_map(|maker| place(&maker)).max();
            let was_there = |maker: &Maker| {
                let start = began(maker, &told);
                told.iter().zip(&before).all(|(told, before)| match told.held(maker, start, &order) {
                    Held::Content(made) => {
                        before.is_some_and(|past| told.good(made).is_some_and(|good| good.content == past.content))
                    }
                    _ => before.is_none(),
                })
            };
            // If a good run brought nothing new, its content is the one being undone.
            let is_good = judge(&order[now]) == Ok(true);
            let is_same = |maker: &Maker| !moves_to(maker).iter().any(|found| matches!(found, Move::Back { .. }));
            let mut found = None;
            for (index, maker) in order[..now].iter().enumerate().rev() {
                if Some(index) > bound && !was_there(maker) {
                    continue;
                }
                match judge(maker) {
                    Ok(true) if is_good && is_same(maker) => {}
                    Ok(true) => {
                        found = Some(maker.clone());
                        break;
                    }
                    Ok(false) | Err(Refusal::NotGood { .. }) => {}
                    // Earlier ones are even less likely to be kept.
                    Err(refusal) => return Err(refusal),
                }
            }
            found.ok_or_else(|| Refusal::NothingBefore { now: order[now].clone() })?
        }
    };
    Ok(Decision { moves: moves_to(&to), to })
}

/// What an interrupted rollback was about to do, for the next one: if only the tests were missing,
/// its revisions alone do not distinguish it from a finished one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    pub to: Maker,
    /// The newest revision of each release when it began.
    pub newest: BTreeMap<String, u32>,
}

impl Intent {
    pub fn of(histories: &[History], to: &Maker) -> Self {
        let newest =
            |history: &History| Some((history.release.clone(), history.past.iter().map(|p| p.revision).max()?));
        Self { to: to.clone(), newest: histories.iter().filter_map(newest).collect() }
    }

    /// Whether only rollbacks have come since: otherwise somebody has gone on from there.
    pub fn still_holds(&self, histories: &[History]) -> bool {
        let holds = |history: &History| {
            let known = self.newest.get(&history.release);
            match known {
                None => history.past.is_empty(),
                Some(known) => {
                    history.past.iter().any(|past| past.revision >= *known)
                        && history.past.iter().all(|past| past.revision <= *known || past.back_to.is_some())
                }
            }
        };
        histories.iter().all(holds)
    }
}

/// Who made this revision's content, in words.
pub(crate) fn maker_of(histories: &[History], index: usize, revision: u32) -> Option<String> {
    let told = Told::of(index, histories.get(index)?);
    told.makers.get(&told.made(revision)).map(Maker::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Deployed, Failed, PendingRollback, PendingUpgrade, Superseded, Uninstalled};

    /// A revision that a run made in that minute; each run has its own content.
    fn made(revision: u32, run: &str, minute: i64, status: Status) -> Past {
        let words = match status {
            Deployed | Superseded if revision == 1 => "Install complete",
            Deployed | Superseded => "Upgrade complete",
            _ => "Upgrade \"x\" failed: timeout",
        };
        Past {
            revision,
            status,
            run: (!run.is_empty()).then(|| run.to_owned()),
            created: Timestamp::from_second(minute * 60).ok(),
            description: words.to_owned(),
            back_to: None,
            content: run.to_owned(),
        }
    }

    fn back(revision: u32, to: u32, run: &str, minute: i64, status: Status, ours: bool) -> Past {
        let words = match status {
            Failed => "Rollback \"x\" failed: timeout".to_owned(),
            _ if ours => description(to, "20261127-100000-7"),
            _ => format!("Rollback to {to}"),
        };
        Past { description: words, back_to: Some(to), ..made(revision, run, minute, status) }
    }

    /// By hand: with the label of the previous revision, and other content.
    fn hand(revision: u32, label: &str, minute: i64, status: Status) -> Past {
        Past { content: format!("by hand {revision}"), ..made(revision, label, minute, status) }
    }

    fn layer(releases: &[&[Past]]) -> Vec<History> {
        let history = |(past, name): (&&[Past], &str)| History { release: name.to_owned(), past: past.to_vec() };
        releases.iter().zip(["x", "y", "z"]).map(history).collect()
    }

    fn run(name: &str) -> Maker {
        Maker::Run(name.to_owned())
    }

    fn to(maker: &str, moves: &[Move]) -> Result<Decision, Refusal> {
        Ok(Decision { to: run(maker), moves: moves.to_vec() })
    }

    fn go(from: u32, to: u32) -> Move {
        Move::Back { from, to }
    }

    fn stay(revision: u32) -> Move {
        Move::There { revision }
    }

    #[test]
    fn every_row_of_where_a_layer_goes_back_to() {
        let old = |revision, run, minute| made(revision, run, minute, Superseded);
        let now = |revision, run, minute| made(revision, run, minute, Deployed);
        let bad = |revision, run, minute| made(revision, run, minute, Failed);
        let rows: Vec<(&str, Vec<History>, Result<Decision, Refusal>)> = vec![
            ("two good runs", layer(&[&[old(1, "a", 0), now(2, "b", 10)]]), to("a", &[go(2, 1)])),
            ("the newest failed", layer(&[&[now(1, "a", 0), bad(2, "b", 10)]]), to("a", &[go(2, 1)])),
            (
                "the newest is pending, as a dry run sees it",
                layer(&[&[now(1, "a", 0), made(2, "b", 10, PendingUpgrade)]]),
                to("a", &[go(2, 1)]),
            ),
            (
                "several failed in a row",
                layer(&[&[now(1, "a", 0), bad(2, "b", 10), bad(3, "c", 20)]]),
                to("a", &[go(3, 1)]),
            ),
            (
                "a good run that brought nothing new",
                layer(&[&[old(1, "a", 0), old(2, "b", 10), Past { content: "b".into(), ..now(3, "c", 20) }]]),
                to("a", &[go(3, 1)]),
            ),
            (
                "nothing has ever been different",
                layer(&[&[old(1, "a", 0), Past { content: "a".into(), ..now(2, "b", 20) }]]),
                Err(Refusal::NothingBefore { now: run("a") }),
            ),
            (
                "a run that failed in one release is good in none",
                layer(&[
                    &[old(1, "a", 0), old(2, "b", 10), now(3, "c", 20)],
                    &[now(1, "a", 1), bad(2, "b", 11), bad(3, "c", 21)],
                ]),
                to("a", &[go(3, 1), go(3, 1)]),
            ),
            (
                "a run that synced one release leaves the other as it was",
                layer(&[&[old(1, "a", 0), now(2, "b", 10)], &[now(1, "a", 1)]]),
                to("a", &[go(2, 1), stay(1)]),
            ),
            (
                "each at the newest of that run or earlier",
                layer(&[
                    &[old(1, "a", 0), old(2, "c", 20), now(3, "d", 30)],
                    &[old(1, "a", 1), old(2, "b", 10), now(3, "d", 31)],
                ]),
                to("c", &[go(3, 2), go(3, 2)]),
            ),
            (
                "what failed in a run before is not good in one that left it alone",
                layer(&[&[old(1, "a", 0), old(2, "c", 20), now(3, "d", 30)], &[now(1, "a", 1), bad(2, "b", 10)]]),
                to("a", &[go(3, 1), go(2, 1)]),
            ),
            (
                "a release that came later is left",
                layer(&[&[old(1, "a", 0), now(2, "b", 10)], &[now(1, "b", 11)]]),
                to("a", &[go(2, 1), Move::NotYetThere]),
            ),
            (
                "one that is not installed, one that is uninstalled with its history",
                layer(&[&[old(1, "a", 0), now(2, "b", 10)], &[], &[made(1, "b", 11, Uninstalled)]]),
                to("a", &[go(2, 1), Move::NotInstalled, Move::NotInstalled]),
            ),
            (
                "a second rollback goes further back",
                layer(&[&[old(1, "a", 0), old(2, "b", 10), old(3, "c", 20), back(4, 2, "b", 30, Deployed, true)]]),
                to("a", &[go(4, 1)]),
            ),
            (
                "a third has nothing left",
                layer(&[&[
                    old(1, "a", 0),
                    old(2, "b", 10),
                    back(3, 1, "a", 20, Superseded, true),
                    back(4, 1, "a", 30, Deployed, true),
                ]]),
                Err(Refusal::NothingBefore { now: run("a") }),
            ),
            (
                "also from a failed run and back",
                layer(&[&[old(1, "a", 0), old(2, "b", 10), bad(3, "c", 20), back(4, 2, "b", 30, Deployed, true)]]),
                to("a", &[go(4, 1)]),
            ),
            (
                "a run after a rollback goes back to what that brought",
                layer(&[&[old(1, "a", 0), old(2, "b", 10), back(3, 1, "a", 20, Superseded, true), now(4, "c", 30)]]),
                to("a", &[go(4, 1)]),
            ),
            (
                "a failed run after a rollback, which Helm has taken back by itself",
                layer(&[&[
                    old(1, "a", 0),
                    old(2, "b", 10),
                    back(3, 1, "a", 20, Superseded, true),
                    bad(4, "c", 30),
                    back(5, 3, "a", 31, Deployed, false),
                ]]),
                to("a", &[stay(5)]),
            ),
            (
                "the same beside a release that a later run has synced and not changed",
                layer(&[
                    &[
                        old(11, "before", 0),
                        old(12, "a", 10),
                        old(13, "b", 20),
                        back(14, 12, "a", 30, Superseded, true),
                        bad(15, "c", 40),
                        back(16, 14, "a", 41, Deployed, false),
                    ],
                    &[old(6, "before", 1), Past { content: "before".into(), ..now(7, "b", 21) }],
                ]),
                to("a", &[stay(16), stay(7)]),
            ),
            (
                "the same where the failed run itself has synced it",
                layer(&[
                    &[
                        old(1, "a", 0),
                        old(2, "b", 10),
                        back(3, 1, "a", 20, Superseded, true),
                        bad(4, "c", 30),
                        back(5, 3, "a", 31, Deployed, false),
                    ],
                    &[old(1, "a", 1), Past { content: "a".into(), ..now(2, "c", 29) }],
                ]),
                to("a", &[stay(5), stay(2)]),
            ),
            (
                "a failed run after a rollback, which nobody has taken back",
                layer(&[&[old(1, "a", 0), old(2, "b", 10), back(3, 1, "a", 20, Deployed, true), bad(4, "c", 30)]]),
                to("a", &[go(4, 1)]),
            ),
            (
                "two good runs after a rollback, the newer one gone back from",
                layer(&[&[
                    old(1, "a", 0),
                    old(2, "b", 10),
                    back(3, 1, "a", 20, Superseded, true),
                    old(4, "c", 30),
                    old(5, "d", 40),
                    back(6, 4, "c", 50, Deployed, true),
                ]]),
                to("a", &[go(6, 1)]),
            ),
            (
                "further back from a failed run that has left one release as it was",
                layer(&[
                    &[old(1, "a", 0), old(2, "b", 10), bad(3, "c", 20), back(4, 2, "b", 30, Deployed, true)],
                    &[old(1, "a", 1), Past { content: "a".into(), ..now(2, "c", 19) }],
                ]),
                to("a", &[go(4, 1), stay(2)]),
            ),
            (
                "a run that brought nothing new is named where it is the newest before",
                layer(&[&[old(1, "a", 0), Past { content: "a".into(), ..old(2, "b", 10) }, bad(3, "c", 20)]]),
                to("b", &[go(3, 2)]),
            ),
            (
                "what a run left at a rollback's content is that content",
                layer(&[
                    &[old(1, "a", 0), bad(2, "b", 10), back(3, 1, "a", 15, Deployed, false)],
                    &[old(1, "a", 1), old(2, "c", 20), now(3, "d", 30)],
                ]),
                to("c", &[stay(3), go(3, 2)]),
            ),
            (
                "killed between two releases, the same target again",
                layer(&[
                    &[old(1, "a", 0), old(2, "b", 10), back(3, 1, "a", 20, Deployed, true)],
                    &[old(1, "a", 1), now(2, "b", 11)],
                ]),
                to("a", &[stay(3), go(2, 1)]),
            ),
            (
                "killed within the last one, whose rollback was marked failed",
                layer(&[
                    &[old(1, "a", 0), old(2, "b", 10), old(3, "c", 20), back(4, 2, "b", 30, Deployed, true)],
                    &[old(1, "a", 1), old(2, "b", 11), now(3, "c", 21), back(4, 2, "b", 31, Failed, true)],
                ]),
                to("b", &[stay(4), go(4, 2)]),
            ),
            (
                "the same, seen before the repair",
                layer(&[&[
                    old(1, "a", 0),
                    old(2, "b", 10),
                    now(3, "c", 20),
                    back(4, 2, "b", 31, PendingRollback, true),
                ]]),
                to("b", &[go(4, 2)]),
            ),
            (
                "a rollback of Helm's own after a failure is where one goes back to",
                layer(&[&[old(1, "a", 0), old(2, "b", 10), bad(3, "c", 20), back(4, 2, "b", 21, Deployed, false)]]),
                to("b", &[stay(4)]),
            ),
            (
                "the same beside a release that came up",
                layer(&[
                    &[old(1, "a", 0), old(2, "b", 10), now(3, "c", 22)],
                    &[old(1, "a", 1), old(2, "b", 11), bad(3, "c", 20), back(4, 2, "b", 21, Deployed, false)],
                ]),
                to("b", &[go(3, 2), stay(4)]),
            ),
            (
                "a rollback by hand of what came up is the content that is there",
                layer(&[&[old(1, "a", 0), old(2, "b", 10), old(3, "c", 20), back(4, 2, "b", 30, Deployed, false)]]),
                to("a", &[go(4, 1)]),
            ),
            (
                "an upgrade by hand is nobody's run, though it has a run's label",
                layer(&[&[old(1, "a", 0), hand(2, "a", 10, Deployed)]]),
                to("a", &[go(2, 1)]),
            ),
            (
                "the same without a label, failed",
                layer(&[&[now(1, "a", 0), hand(2, "", 10, Failed)]]),
                to("a", &[go(2, 1)]),
            ),
            (
                "one by hand after a rollback has the label of an older run",
                layer(&[&[
                    old(1, "a", 0),
                    old(2, "b", 10),
                    back(3, 1, "a", 20, Superseded, true),
                    hand(4, "a", 30, Deployed),
                ]]),
                to("a", &[go(4, 1)]),
            ),
            (
                "a run that tried twice is one run",
                layer(&[&[old(1, "a", 0), bad(2, "b", 10), now(3, "b", 12)]]),
                to("a", &[go(3, 1)]),
            ),
            (
                "a superseded revision that had failed is not good",
                layer(&[&[
                    old(1, "a", 0),
                    Past { description: "Upgrade \"x\" failed".into(), ..old(2, "b", 10) },
                    now(3, "c", 20),
                ]]),
                to("a", &[go(3, 1)]),
            ),
            (
                "one that its run described in its own words is",
                layer(&[&[Past { description: "of Monday".into(), ..old(1, "a", 0) }, now(2, "b", 10)]]),
                to("a", &[go(2, 1)]),
            ),
            (
                "the first run has nothing before it",
                layer(&[&[now(1, "a", 0)], &[now(1, "a", 1)]]),
                Err(Refusal::NothingBefore { now: run("a") }),
            ),
            (
                "only failures before it",
                layer(&[&[bad(1, "a", 0), now(2, "b", 10)]]),
                Err(Refusal::NothingBefore { now: run("b") }),
            ),
            (
                "a revision that Helm has dropped",
                layer(&[&[old(1, "a", 0), old(2, "b", 10), now(3, "c", 20)], &[now(7, "c", 21)]]),
                Err(Refusal::NotKept { release: "y".into(), to: run("b") }),
            ),
            (
                "a content whose own revision is dropped, by a rollback that carries it",
                layer(&[&[
                    back(7, 2, "20261127-100000-1", 20, Superseded, true),
                    made(8, "20261127-110000-1", 30_000_000, Deployed),
                ]]),
                to("20261127-100000-1", &[go(8, 7)]),
            ),
            ("nothing is installed", layer(&[&[], &[]]), Err(Refusal::NothingInstalled)),
        ];
        for (name, histories, expected) in rows {
            assert_eq!(decide(&histories, None), expected, "{name}");
        }
    }

    #[test]
    fn a_run_that_is_named_is_gone_to_or_refused_by_its_reason() {
        let past = [
            made(3, "a", 0, Superseded),
            made(4, "b", 10, Superseded),
            made(5, "c", 20, Failed),
            made(6, "d", 30, Deployed),
        ];
        let histories = layer(&[&past, &[made(2, "b", 11, Superseded), made(3, "d", 31, Deployed)]]);
        let not_good = Refusal::NotGood { release: "x".into(), to: run("c") };
        let known = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        for (asked, expected) in [
            ("b", to("b", &[go(6, 4), go(3, 2)])),
            ("a", Err(Refusal::NotKept { release: "y".into(), to: run("a") })),
            ("c", Err(not_good)),
            ("d", to("d", &[stay(6), stay(3)])),
            ("e", Err(Refusal::NoSuchRun { known })),
        ] {
            assert_eq!(decide(&histories, Some(&run(asked))), expected, "{asked}");
        }
    }

    #[test]
    fn going_back_again_and_again_never_comes_back() {
        let mut past = vec![
            made(1, "a", 0, Superseded),
            made(2, "b", 10, Superseded),
            made(3, "c", 20, Superseded),
            made(4, "d", 30, Failed),
        ];
        let mut seen = Vec::new();
        while let Ok(decision) = decide(&layer(&[&past]), None) {
            let Move::Back { to, .. } = decision.moves[0] else { panic!("{decision:?}") };
            let run = past.iter().find(|past| past.revision == to).unwrap().run.clone().unwrap();
            seen.push(run.clone());
            let next = past.len() as u32 + 1;
            if let Some(last) = past.last_mut().filter(|last| last.status == Deployed) {
                last.status = Superseded;
            }
            past.push(back(next, to, &run, i64::from(next) * 10, Deployed, true));
        }
        assert_eq!(seen, ["c", "b", "a"]);
    }

    #[test]
    fn a_rollback_that_was_stopped_is_gone_on_with_until_somebody_goes_on_from_there() {
        let before =
            layer(&[&[made(1, "a", 0, Superseded), made(2, "b", 10, Superseded), made(3, "c", 20, Deployed)], &[]]);
        let intent = Intent::of(&before, &run("b"));
        let then = |more: &[Past]| layer(&[&[&before[0].past[..], more].concat(), &[]]);
        let done = back(4, 2, "b", 30, Deployed, true);
        for (name, now, holds) in [
            ("at once", then(&[]), true),
            ("rolled back, and stopped in its tests", then(std::slice::from_ref(&done)), true),
            ("half way", then(&[back(4, 2, "b", 30, Failed, true)]), true),
            ("another run has come", then(&[done.clone(), made(5, "d", 40, Deployed)]), false),
            ("uninstalled meanwhile", layer(&[&[made(1, "d", 40, Deployed)], &[]]), false),
            ("another release is there", layer(&[&before[0].past, &[made(1, "d", 40, Deployed)]]), false),
        ] {
            assert_eq!(intent.still_holds(&now), holds, "{name}");
            if holds {
                assert_eq!(decide(&now, Some(&intent.to)).unwrap().to, run("b"), "{name}");
            }
        }
        let decision = decide(&then(&[done]), Some(&intent.to)).unwrap();
        assert_eq!(decision.moves, [stay(4), Move::NotInstalled]);
    }

    #[test]
    fn the_words_of_a_rollback_name_its_revision() {
        for (words, found) in [
            ("Rollback to 3", Some(3)),
            (&description(12, "r"), Some(12)),
            ("Rollback \"x\" failed: timeout", None),
            ("Upgrade complete", None),
        ] {
            assert_eq!(named_in(words), found, "{words}");
            assert!(words != description(12, "r") || words.contains(BY_US), "{words}");
        }
    }
}
