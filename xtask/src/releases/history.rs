//! `cargo xtask releases history`: the revisions of releases that Helm keeps: the status of each,
//! when, by which run and whose, and why.
//!
//! Helm carries a revision's labels over to the next one, even if somebody upgrades by hand, and a
//! rollback takes those of its target. So labels alone identify the run only if they differ from
//! those before; otherwise the run's record does, if this machine has it; and if nothing does, no
//! run is named.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use run_record::{Event, Failure, human_seconds};
use serde::Serialize;

use super::named::{named, there};
use crate::cluster::lock::Holder;
use crate::files::bounds;
use crate::run::Run;
use crate::run::context::Context;
use crate::world::helm_storage::{self, ChartMetadata, Revision, Status, Told};
use crate::world::kubernetes::server_time;

/// The maximum length of a label's value, in characters (`validation.LabelValueMaxLength`).
const LABEL: usize = 63;

/// How much of a run's record is read from its beginning and from its end, in bytes.
const RECORD: u64 = 4 << 20;

/// Who runs this, as a label value: `anna_at_laptop`.
pub fn by_label() -> String {
    let holder = Holder::this_process("");
    label_value(&format!("{}_at_{}", holder.user, holder.host))
}

/// Converts a text to a label value: invalid characters become `_`, and a text that is too long is
/// cut.
fn label_value(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let text: String = text.chars().map(plain).collect();
    let ends = |c: char| !c.is_ascii_alphanumeric();
    let start = text.trim_start_matches(ends);
    start[..start.len().min(LABEL)].trim_end_matches(ends).to_owned()
}

/// Which run made a revision, as far as known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    ByRun {
        run: String,
        by: Option<String>,
    },
    /// Its label says so, but may be carried over from the previous revision.
    Perhaps {
        run: String,
        by: Option<String>,
    },
    /// Helm by hand, or another program; possibly with labels of an earlier revision.
    Unknown {
        inherited: bool,
    },
}

/// What a run's record says about releases.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    /// Namespace, release and revision of what came up while it worked on a layer.
    made: BTreeSet<(String, String, u32)>,
    /// By namespace and release.
    why: BTreeMap<(String, String), String>,
    /// Whether it ended regularly, with an end event.
    ended: bool,
    /// When its last line was written, by this machine's clock.
    until: Option<Timestamp>,
}

/// The beginning of Helm's description for a revision made by `helm rollback` or
/// `--rollback-on-failure`: `Rollback to 1`, `Rollback "web" failed: …`.
const ROLLBACK: &str = "Rollback ";

/// The decision: `earlier` are the revisions before it that Helm still has, newest first; `record`
/// is that of the run in its label, if this machine has it.
fn made(revision: &Revision, earlier: &[&Revision], description: &str, record: Option<&Recorded>) -> Made {
    let Some(run) = revision.run.clone().filter(|run| !run.is_empty()) else {
        return Made::Unknown { inherited: false };
    };
    // Its labels are those of the rollback's target.
    if description.starts_with(ROLLBACK) {
        return Made::Unknown { inherited: true };
    }
    let by = revision.by.clone().filter(|by| !by.is_empty());
    let is_its = |(namespace, release, _): &&(String, String, u32)| {
        *namespace == revision.namespace && *release == revision.release
    };
    let named: Vec<u32> =
        record.into_iter().flat_map(|record| record.made.iter().filter(is_its)).map(|(.., number)| *number).collect();
    // The description can be lost, for example when a revision is marked failed: a rollback has the
    // label of any earlier revision, even of one that is gone. Run names start with their time.
    let before = earlier.first().filter(|before| before.revision.checked_add(1) == Some(revision.revision));
    let is_new = |before: &&Revision| {
        earlier.iter().all(|earlier| earlier.run.as_ref() != Some(&run))
            && before.run.as_ref().is_none_or(|earlier| *earlier < run)
    };
    let anew = revision.revision == 1 || before.is_some_and(is_new);
    if anew || named.contains(&revision.revision) {
        return Made::ByRun { run, by };
    }
    // If a run's record names another revision of this release, it names all that the run made.
    if record.is_some_and(|record| record.ended) && !named.is_empty() {
        return Made::Unknown { inherited: true };
    }
    Made::Perhaps { run, by }
}

/// The description of a rollback that a run has Helm make; it starts like Helm's own.
pub(crate) fn rollback_words(to: u32, why: &str, run: &str) -> String {
    format!("{ROLLBACK}to {to} ({why}, run {run})")
}

/// The run that had Helm make this rollback. Unlike a label, a description is never handed on.
fn rolled_back_by(description: &str) -> Option<&str> {
    description.strip_prefix(ROLLBACK)?.strip_suffix(')')?.rsplit_once(", run ").map(|(_, run)| run)
}

/// How long after it has recorded a failed upgrade Helm begins to roll it back by itself
/// (`--rollback-on-failure`), at most: nobody is as fast by hand.
const AT_ONCE: SignedDuration = SignedDuration::from_secs(15);

/// How long after the last line of its record a run that was killed may have made another revision of
/// a release, at most. Nobody else upgrades it that soon, on this or any other machine.
const AFTER_ITS_LAST_LINE: SignedDuration = SignedDuration::from_secs(60);

/// The run of this machine that certainly made a revision that Helm has not finished, which need not
/// be the one in its label.
///
/// # Errors
/// Errors from reading.
pub(super) async fn author(run: &Run, client: &Client, revision: &Revision) -> Result<Option<String>, Failure> {
    // Only a rollback has a run that is not in its label.
    let is_labelled = revision.run.as_ref().is_some_and(|id| is_recorded(run, id));
    if !is_labelled && revision.status != Status::PendingRollback {
        return Ok(None);
    }
    let mut earlier = helm_storage::history(client, &revision.namespace, &revision.release).await?;
    earlier.retain(|other| other.revision < revision.revision);
    sort(&mut earlier);
    let told = helm_storage::told(client, vec![revision.clone()]).await?.pop();
    let description = told.and_then(|(_, told)| Some(told.ok()?.info.description)).unwrap_or_default();
    let author = author_of(revision, &earlier, &description, &run.id, &|id| record(run, id));
    Ok(author.filter(|id| is_recorded(run, id)))
}

/// `earlier`: newest first. `own`: this run.
fn author_of(
    revision: &Revision,
    earlier: &[Revision],
    description: &str,
    own: &str,
    record: &impl Fn(&str) -> Option<Recorded>,
) -> Option<String> {
    if let Some(run) = rolled_back_by(description) {
        return Some(run.to_owned());
    }
    if description.starts_with(ROLLBACK) {
        let (before, rest) = earlier.split_first()?;
        let passed = revision.created?.duration_since(before.written?);
        let is_helms_own = before.status == Status::Failed
            && before.revision.checked_add(1) == Some(revision.revision)
            && passed.abs() <= AT_ONCE;
        return if is_helms_own { author_of(before, rest, "", own, record) } else { None };
    }
    let id = revision.run.as_deref()?;
    let recorded = record(id);
    match made(revision, &earlier.iter().collect::<Vec<_>>(), description, recorded.as_ref()) {
        Made::ByRun { run, .. } => Some(run),
        // Its Helm may have tried several times.
        Made::Perhaps { run, .. } if run == own || is_another_try(revision, earlier, recorded.as_ref()) => Some(run),
        _ => None,
    }
}

/// Whether the run that had failed with this release before has made this revision too, before it was
/// killed.
fn is_another_try(revision: &Revision, earlier: &[Revision], recorded: Option<&Recorded>) -> bool {
    let Some(until) = recorded.filter(|recorded| !recorded.ended).and_then(|recorded| recorded.until) else {
        return false;
    };
    let is_its_failure = |one: &Revision| one.run == revision.run && one.status == Status::Failed;
    let after_its_failure = match earlier {
        [before, ..] if is_its_failure(before) => true,
        // Helm has rolled that one back, to what has the label of another run.
        [back, before, ..] => is_its_failure(before) && back.run != revision.run,
        _ => false,
    };
    let in_time = revision.created.is_some_and(|created| created.duration_since(until) <= AFTER_ITS_LAST_LINE);
    after_its_failure && in_time
}

/// A revision as shown.
#[derive(Clone, Debug, Serialize)]
struct Row {
    namespace: String,
    release: String,
    revision: u32,
    status: Status,
    created: Option<Timestamp>,
    age_seconds: i64,
    /// The run that made it; `None` if unknown.
    run: Option<String>,
    by: Option<String>,
    /// False if run and `by` may be carried over from an earlier revision.
    certain: bool,
    /// Whether the labels are those of an earlier revision.
    inherited: bool,
    /// The reason that the run gave.
    reason: Option<String>,
    /// Helm's own description.
    description: String,
    chart: Option<String>,
    chart_version: Option<String>,
    app_version: Option<String>,
    /// Why the Secret cannot be decoded as a release.
    unreadable: Option<String>,
}

/// Shows the revisions of the releases that these words name, or of all.
///
/// # Errors
/// `usage` for a word that names nothing; errors from reading.
pub async fn show(context: &Context, client: &Client, words: &[String]) -> Result<(), Failure> {
    let wanted: BTreeSet<(String, String)> = match words {
        [] => there(&context.run, &context.repo, client).await?.into_iter().collect(),
        words => {
            let releases = named(context, client, words).await?;
            releases.into_iter().map(|release| (release.namespace, release.name)).collect()
        }
    };
    let namespaces: BTreeSet<&String> = wanted.iter().map(|(namespace, _)| namespace).collect();
    let mut revisions: Vec<Revision> = Vec::new();
    for namespace in namespaces {
        let found = helm_storage::metadata(client, Some(namespace), "owner=helm").await?;
        revisions.extend(found.into_iter().map(|(revision, _)| revision));
    }
    revisions.retain(|revision| wanted.contains(&(revision.namespace.clone(), revision.release.clone())));
    sort(&mut revisions);
    for (namespace, name) in &wanted {
        if !revisions.iter().any(|found| found.namespace == *namespace && found.release == *name) {
            context.run.reporter.note(name, format!("not installed in {namespace}: it has no revisions"));
        }
    }
    let now = if revisions.is_empty() { Timestamp::now() } else { server_time(client).await? };
    let runs: BTreeSet<String> = revisions.iter().filter_map(|revision| revision.run.clone()).collect();
    let records: BTreeMap<String, Recorded> =
        runs.into_iter().filter_map(|run| Some((run.clone(), record(&context.run, &run)?))).collect();
    let told = helm_storage::told(client, revisions).await?;
    let rows = rows(&told, &records, now);
    let text = table(&rows);
    if context.run.json {
        context.run.reporter.data(&serde_json::to_string(&rows).unwrap_or_default());
        return Ok(());
    }
    context.run.reporter.data(if rows.is_empty() { "there is no release" } else { &text });
    Ok(())
}

/// By release, newest revision first.
fn sort(revisions: &mut [Revision]) {
    revisions
        .sort_by(|a, b| (&a.namespace, &a.release).cmp(&(&b.namespace, &b.release)).then(b.revision.cmp(&a.revision)));
}

/// Whether this machine has a record of the run of this name, which anybody can set as a label.
pub(super) fn is_recorded(run: &Run, id: &str) -> bool {
    let plain = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    plain && run.state.runs().join(id).is_dir()
}

/// What this machine's record of a run says; `None` if there is none, or it cannot be read.
fn record(run: &Run, id: &str) -> Option<Recorded> {
    if !is_recorded(run, id) {
        return None;
    }
    let (mut text, end, _) = bounds::ends(&run.state.runs().join(id).join("record.jsonl"), RECORD, RECORD).ok()?;
    text.extend(end);
    Some(read(&String::from_utf8_lossy(&text)))
}

pub(crate) fn read(text: &str) -> Recorded {
    let mut recorded = Recorded::default();
    for line in run_record::readers::json::read(text).lines {
        recorded.until = recorded.until.max(Some(line.time));
        match line.event {
            Event::Release(release) => {
                if let Ok(number) = release.revision.parse() {
                    recorded.made.insert((release.namespace, release.name, number));
                }
            }
            Event::ReleaseSyncing { release, namespace, why, .. } => {
                recorded.why.insert((namespace, release), why);
            }
            Event::RunEnded { .. } => recorded.ended = true,
            _ => {}
        }
    }
    recorded
}

/// For sorted revisions.
fn rows(told: &[(Revision, Result<Told, String>)], records: &BTreeMap<String, Recorded>, now: Timestamp) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, (revision, told_of_it)) in told.iter().enumerate() {
        let is_earlier = |(other, _): &&(Revision, Result<Told, String>)| {
            other.namespace == revision.namespace && other.release == revision.release
        };
        let earlier: Vec<&Revision> =
            told[index + 1..].iter().take_while(is_earlier).map(|(earlier, _)| earlier).collect();
        let (stored, unreadable) = match told_of_it {
            Ok(told) => (told.clone(), None),
            Err(error) => (Told::default(), Some(error.clone())),
        };
        let record = revision.run.as_ref().and_then(|run| records.get(run));
        let made = made(revision, &earlier, &stored.info.description, record);
        let reason = match &made {
            Made::ByRun { .. } => record
                .and_then(|record| record.why.get(&(revision.namespace.clone(), revision.release.clone())).cloned()),
            _ => None,
        };
        let (run, by, certain, inherited) = match made {
            Made::ByRun { run, by } => (Some(run), by, true, false),
            Made::Perhaps { run, by } => (Some(run), by, false, false),
            Made::Unknown { inherited } => (None, None, true, inherited),
        };
        let ChartMetadata { name, version, app_version } = stored.chart.metadata;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        rows.push(Row {
            namespace: revision.namespace.clone(),
            release: revision.release.clone(),
            revision: revision.revision,
            // The label can be wrong where the stored release is not.
            status: if unreadable.is_none() { stored.info.status } else { revision.status },
            created: revision.created,
            age_seconds: now.duration_since(revision.created.unwrap_or(now)).as_secs().max(0),
            run,
            by,
            certain,
            inherited,
            reason,
            description: stored.info.description,
            chart: some(name),
            chart_version: some(version),
            app_version: some(app_version),
            unreadable,
        });
    }
    rows
}

impl Row {
    /// The run, and who ran it.
    fn who(&self) -> String {
        match (&self.run, &self.by) {
            (Some(run), Some(by)) if self.certain => format!("{run} {by}"),
            (Some(run), None) if self.certain => run.clone(),
            (Some(run), _) => format!("{run}? or by hand"),
            (None, _) if self.inherited => "by hand, or Helm's own rollback".to_owned(),
            (None, _) => "no run is stamped".to_owned(),
        }
    }

    fn why(&self) -> String {
        match (&self.unreadable, &self.reason) {
            (Some(error), _) => format!("its Secret cannot be read as a release: {error}"),
            (None, Some(reason)) if matches!(self.status, Status::Deployed | Status::Superseded) => reason.clone(),
            (None, Some(reason)) => format!("{reason}; {}", self.description),
            (None, None) => self.description.clone(),
        }
    }

    fn chart(&self) -> String {
        let name = self.chart.as_deref().unwrap_or("-");
        let version = self.chart_version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        let app = self.app_version.as_ref().map(|version| format!(" (app {version})")).unwrap_or_default();
        format!("{name}{version}{app}")
    }
}

/// The rows as a table, each column as wide as necessary; the last one unpadded.
fn table(rows: &[Row]) -> String {
    const HEAD: [&str; 7] = ["RELEASE", "REVISION", "STATUS", "AGE", "RUN", "CHART", "WHY"];
    let cells = rows.iter().map(|row| {
        [
            format!("{}/{}", row.namespace, row.release),
            row.revision.to_string(),
            row.status.as_str().to_owned(),
            human_seconds(row.age_seconds as f64),
            row.who(),
            row.chart(),
            crate::run::foreign::line(&row.why()),
        ]
    });
    let head = (!rows.is_empty()).then(|| HEAD.map(str::to_owned));
    let all: Vec<[String; 7]> = head.into_iter().chain(cells).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::helm_storage::{Chart, Info};

    fn revision(number: u32, run: Option<&str>) -> Revision {
        let by = run.map(|_| "anna_at_laptop".to_owned());
        Revision { run: run.map(str::to_owned), by, ..Revision::named("shop", "web", number) }
    }

    fn by_run(run: &str) -> Made {
        Made::ByRun { run: run.to_owned(), by: Some("anna_at_laptop".to_owned()) }
    }

    #[test]
    fn whose_a_revision_is_is_claimed_only_where_it_is_known() {
        let perhaps = |run: &str| Made::Perhaps { run: run.to_owned(), by: Some("anna_at_laptop".to_owned()) };
        let by_hand = Made::Unknown { inherited: true };
        let recorded = |revisions: &[u32], ended| Recorded {
            made: revisions.iter().map(|number| ("shop".to_owned(), "web".to_owned(), *number)).collect(),
            ended,
            ..Recorded::default()
        };
        let (names_it, names_another) = (recorded(&[3], false), recorded(&[2], true));
        let (killed, of_no_use) = (recorded(&[2], false), recorded(&[], true));
        let upgraded = "Upgrade complete";
        let no_label = Made::Unknown { inherited: false };
        for (what, run, earlier, description, record, expected) in [
            ("without a label", None, &[(2, "r1")][..], upgraded, None, no_label),
            ("another label than before", Some("r2"), &[(2, "r1"), (1, "r0")], upgraded, None, by_run("r2")),
            ("the label of the one before", Some("r1"), &[(2, "r1")], upgraded, None, perhaps("r1")),
            ("the one before is gone", Some("r2"), &[(1, "r1")], upgraded, None, perhaps("r2")),
            ("all before are gone", Some("r1"), &[], upgraded, None, perhaps("r1")),
            ("the label of an earlier one", Some("r1"), &[(2, "r2"), (1, "r1")], "marked failed", None, perhaps("r1")),
            ("the label of one that is gone", Some("r1"), &[(2, "r2")], "marked failed", None, perhaps("r1")),
            ("its record names it", Some("r1"), &[(2, "r1")], upgraded, Some(&names_it), by_run("r1")),
            ("its record names another", Some("r1"), &[(2, "r1")], upgraded, Some(&names_another), by_hand.clone()),
            ("its run was killed", Some("r1"), &[(2, "r1")], upgraded, Some(&killed), perhaps("r1")),
            ("its record names none", Some("r1"), &[(2, "r1")], upgraded, Some(&of_no_use), perhaps("r1")),
            ("a rollback", Some("r1"), &[(2, "r2")], "Rollback to 1", Some(&names_it), by_hand.clone()),
            ("one that failed", Some("r1"), &[(2, "r2")], "Rollback \"web\" failed: conflict", None, by_hand.clone()),
        ] {
            let earlier: Vec<Revision> = earlier.iter().map(|(number, run)| revision(*number, Some(run))).collect();
            let found = made(&revision(3, run), &earlier.iter().collect::<Vec<_>>(), description, record);
            assert_eq!(found, expected, "{what}");
        }
        assert_eq!(made(&revision(1, Some("r1")), &[], "Install complete", None), by_run("r1"));
    }

    #[test]
    fn a_run_has_left_only_what_is_certainly_its_own() {
        let at = |second: i64| Some(Timestamp::from_second(second).unwrap());
        let failed = |number: u32, run: &str, written: i64| Revision {
            status: Status::Failed,
            written: at(written),
            ..revision(number, Some(run))
        };
        let deployed = |number: u32, run: &str| revision(number, Some(run));
        let words = rollback_words(1, "xtask", "r3");
        let preparing = "Preparing upgrade";
        for (what, run, earlier, description, expected) in [
            ("its own label", "r2", vec![deployed(2, "r1")], preparing, Some("r2")),
            ("one that Helm handed on to somebody elsewhere", "r1", vec![deployed(2, "r1")], preparing, None),
            ("this run tried a second time", "own", vec![failed(2, "own", 0)], preparing, Some("own")),
            (
                "its rollback, labelled as the target is",
                "r1",
                vec![deployed(2, "r2"), deployed(1, "r1")],
                words.as_str(),
                Some("r3"),
            ),
            ("a rollback by hand", "r1", vec![deployed(2, "r2"), deployed(1, "r1")], "Rollback to 1", None),
            (
                "Helm's own, of what its run had failed with",
                "r1",
                vec![failed(2, "r2", 99), deployed(1, "r1")],
                "Rollback to 1",
                Some("r2"),
            ),
            ("one by hand after that", "r1", vec![failed(2, "r2", 80), deployed(1, "r1")], "Rollback to 1", None),
            (
                "Helm's own, of an upgrade by hand",
                "r1",
                vec![failed(2, "r1", 99), deployed(1, "r1")],
                "Rollback to 1",
                None,
            ),
        ] {
            let revision = Revision { created: at(100), ..revision(3, Some(run)) };
            let found = author_of(&revision, &earlier, description, "own", &|_| None);
            assert_eq!(found.as_deref(), expected, "{what}");
        }
        assert_eq!(author_of(&revision(1, None), &[], preparing, "own", &|_| None), None);

        let killed = |until: i64, ended: bool| Recorded { until: at(until), ended, ..Recorded::default() };
        let tried = vec![failed(2, "r2", 50), deployed(1, "r1")];
        let rolled_back = vec![deployed(3, "r1"), failed(2, "r2", 50), deployed(1, "r1")];
        for (what, earlier, record, expected) in [
            ("a run was killed in its second try", &tried, killed(90, false), Some("r2")),
            ("the first was rolled back", &rolled_back, killed(90, false), Some("r2")),
            ("it was killed long before", &tried, killed(30, false), None),
            ("it has ended", &tried, killed(90, true), None),
            ("it had come up", &vec![deployed(2, "r2"), deployed(1, "r1")], killed(90, false), None),
        ] {
            let number = earlier[0].revision + 1;
            let revision = Revision { created: at(100), ..revision(number, Some("r2")) };
            let found = author_of(&revision, earlier, preparing, "own", &|_| Some(record.clone()));
            assert_eq!(found.as_deref(), expected, "{what}");
        }
    }

    #[test]
    fn a_record_tells_what_its_run_made_and_why() {
        let time = r#""time":"2026-11-24T03:40:00Z""#;
        let text = format!(
            "{{{time},\"event\":\"release-syncing\",\"layer\":\"l\",\"release\":\"web\",\"namespace\":\"shop\",\"why\":\"charts/web changed\"}}\n\
             {{{time},\"event\":\"release\",\"layer\":\"l\",\"name\":\"web\",\"namespace\":\"shop\",\"revision\":\"4\",\"status\":\"deployed\",\"started\":\"2026-11-24T03:40:00Z\"}}\n\
             {{{time},\"event\":\"note\",\"resource\":\"web\",\"text\":\"syncing: a note is for people\"}}\n\
             no json\n{{{time},\"event\":\"end\",\"exit\":0,\"seconds\":1}}\n"
        );
        let recorded = read(&text);
        assert_eq!(recorded.made, BTreeSet::from([("shop".to_owned(), "web".to_owned(), 4)]));
        assert_eq!(recorded.why[&("shop".to_owned(), "web".to_owned())], "charts/web changed");
        assert!(recorded.ended && !read(&text[..text.rfind("{").unwrap()]).ended);
    }

    #[test]
    fn a_reason_is_told_of_the_run_that_gave_it_alone() {
        let told = |status, description: &str| {
            let info = Info { status, description: description.to_owned(), ..Info::default() };
            let metadata = ChartMetadata { name: "web".into(), version: "0.1.0".into(), app_version: String::new() };
            Ok(Told { info, chart: Chart { metadata } })
        };
        let mut revisions = vec![revision(2, Some("r1")), revision(1, Some("r0")), revision(3, Some("r1"))];
        sort(&mut revisions);
        let told: Vec<_> = revisions
            .into_iter()
            .map(|revision| {
                let description = if revision.revision == 3 { "Rollback to 2" } else { "Upgrade complete" };
                (revision, told(Status::Superseded, description))
            })
            .collect();
        let why = BTreeMap::from([(("shop".to_owned(), "web".to_owned()), "charts/web changed".to_owned())]);
        let records = BTreeMap::from([("r1".to_owned(), Recorded { why, ..Recorded::default() })]);
        let rows = rows(&told, &records, Timestamp::UNIX_EPOCH);
        let shown: Vec<(u32, String, String)> = rows.iter().map(|row| (row.revision, row.who(), row.why())).collect();
        let row = |number, who: &str, why: &str| (number, who.to_owned(), why.to_owned());
        assert_eq!(
            shown,
            [
                row(3, "by hand, or Helm's own rollback", "Rollback to 2"),
                row(2, "r1 anna_at_laptop", "charts/web changed"),
                row(1, "r0 anna_at_laptop", "Upgrade complete"),
            ]
        );
        assert_eq!(rows[0].chart(), "web 0.1.0");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn whoever_it_is_is_a_valid_value_of_a_label() {
        for (text, label) in [
            ("anna_at_laptop", "anna_at_laptop"),
            ("uid 1000_at_host.example", "uid_1000_at_host.example"),
            ("Jürgen_at_x", "J_rgen_at_x"),
            ("-.anna_at_host-", "anna_at_host"),
            ("", ""),
            ("___", ""),
        ] {
            assert_eq!(label_value(text), label, "{text}");
        }
        let long = label_value(&format!("a{}_at_b", "-".repeat(70)));
        assert_eq!(long, "a", "an end that may not be one is left out");
        assert_eq!(label_value(&"x".repeat(200)).len(), LABEL);
        let own = by_label();
        assert!(!own.is_empty() && label_value(&own) == own, "{own}");
    }
}
