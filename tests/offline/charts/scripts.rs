//! The charts' scripts, run by the shell as in their pods, with stand-ins for the programs they
//! call.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::support::root;

/// A folder of stand-ins, first on PATH, and their log.
struct Stage {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { folder: tempfile::tempdir().unwrap(), environment: Vec::new() };
        std::fs::write(stage.log(), "").unwrap();
        // Waiting is not what is tested here.
        stage.program("sleep", ":");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// A program that logs its arguments and its input, then runs `body`, in which `$call` counts
    /// its calls from 1.
    fn program(&self, name: &str, body: &str) {
        let folder = self.folder.path().display();
        let text = format!(
            "#!/bin/sh\ncall=$(($(cat '{folder}/{name}.calls' 2>/dev/null || echo 0) + 1))\n\
             echo $call > '{folder}/{name}.calls'\n\
             {{ echo \"{name} $*\"; [ -t 0 ] || cat; }} >> '{folder}/log'\n{body}\n"
        );
        let path = self.path("bin").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn env(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Runs a script of the charts. Paths in `moved` are redirected into this folder, which is
    /// itself in `/tmp`: if that is moved too, it comes first.
    fn run(&self, script: &str, moved: &[&str]) -> (Output, String) {
        let mut text = std::fs::read_to_string(root().join("infra/kubernetes/charts").join(script)).unwrap();
        for path in moved {
            text = text.replace(path, &format!("{}{path}", self.folder.path().display()));
        }
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("/bin/sh");
        shell.args(["-euc", &text]).env("PATH", path).stdin(Stdio::null());
        shell.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let output = shell.output().unwrap();
        (output, std::fs::read_to_string(self.log()).unwrap())
    }
}

/// What a database can answer to a query, as psql prints it.
const ANSWERS: &[(&str, &str)] = &[
    ("t", "echo t"),
    ("f", "echo f"),
    ("nothing", ":"),
    ("permission denied", "echo 'ERROR:  permission denied for table namespaces' >&2; exit 3"),
    ("too many clients", "echo 'psql: error: FATAL:  sorry, too many clients already' >&2; exit 2"),
    ("no connection", "echo 'psql: error: could not connect to server: Connection refused' >&2; exit 2"),
    ("a timeout", "echo 'psql: error: timeout expired' >&2; exit 2"),
    ("killed", "kill -KILL $$"),
    ("terminated after its answer", "echo f; kill -TERM $$"),
    ("f, then an error", "echo f; echo 'server closed the connection unexpectedly' >&2; exit 2"),
    ("garbage", "echo 'relation does not exist'"),
    ("f among others", "echo f; echo t"),
    ("two lines of f", "echo f; echo f"),
    ("a notice before f", "echo 'NOTICE: something'; echo f"),
    ("false", "echo false"),
    ("0", "echo 0"),
];

fn prepare(first: &str, second: &str, third: &str) -> (Output, String) {
    let mut stage = Stage::new();
    stage.program("pg_isready", ":");
    stage.program("psql", &format!("case $call in\n1) {first} ;;\n2) {second} ;;\n*) {third} ;;\nesac"));
    stage.env("DEFAULT_DATABASE", "temporal");
    stage.env("VISIBILITY_DATABASE", "temporal_visibility");
    stage.env("PGHOST", "database");
    stage.env("PGPORT", "5432");
    stage.run("temporal/files/schema-prepare.sh", &[])
}

#[test]
fn a_database_is_dropped_only_where_both_were_seen_to_hold_nothing() {
    let mut dropped = 0;
    for (one, first) in ANSWERS {
        for (other, second) in ANSWERS {
            let (output, log) = prepare(first, second, ":");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let unused = (*one, *other) == ("f", "f");
            assert_eq!(log.contains("DROP"), unused, "{one}, {other}: {said}\n{log}");
            assert_eq!(output.status.success(), unused || *one == "t", "{one}, {other}: {said}");
            if !output.status.success() {
                assert!(said.to_lowercase().contains("nothing was dropped"), "{one}, {other}: {said}");
            }
            dropped += usize::from(log.contains("DROP"));
        }
    }
    assert_eq!(dropped, 1);
}

#[test]
fn a_drop_that_fails_ends_the_hook_and_names_the_database() {
    for (what, answer) in ANSWERS.iter().filter(|(_, answer)| answer.contains("exit") || answer.contains("kill")) {
        let (output, log) = prepare("echo f", "echo f", answer);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("nothing of it was dropped"), "{what}: {said}");
        assert_eq!(log.matches("--dbname=temporal_visibility").count(), 1, "looked at, and no more: {what}: {log}");
    }
    // What is dropped is first locked and checked again, in one transaction.
    let (_, log) = prepare("echo f", "echo f", ":");
    let last = log.rsplit("psql ").next().unwrap();
    let places = ["BEGIN;", "ACCESS EXCLUSIVE", "pg_temp.holds_data() THEN", "is begun anew", "DROP SCHEMA", "COMMIT;"];
    let places: Vec<usize> = places.iter().map(|text| last.rfind(text).expect(text)).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn a_database_that_does_not_answer_is_waited_for_and_left_alone() {
    let mut stage = Stage::new();
    stage.program("pg_isready", "exit 2");
    stage.program("psql", "echo f");
    for (name, value) in [("DEFAULT_DATABASE", "a"), ("VISIBILITY_DATABASE", "b"), ("PGHOST", "h"), ("PGPORT", "1")] {
        stage.env(name, value);
    }
    let (output, log) = stage.run("temporal/files/schema-prepare.sh", &[]);
    assert!(!output.status.success() && !log.contains("psql"), "{log}");
    assert_eq!(log.matches("pg_isready").count(), 60);
}

fn init(arrange: impl Fn(&Stage)) -> (Stage, Output, String) {
    let mut stage = Stage::new();
    stage.program("initdb", "for word; do case $word in --pgdata=*) mkdir -p \"${word#*=}\"; echo 15 > \"${word#*=}/PG_VERSION\" ;; esac; done");
    stage.program("pg_ctl", ":");
    stage.program("psql", ":");
    let data = stage.path("volume/pgdata").display().to_string();
    std::fs::create_dir_all(stage.path("volume")).unwrap();
    std::fs::create_dir_all(stage.path("tmp")).unwrap();
    stage.env("PGDATA", data);
    stage.env("POSTGRES_PASSWORD", "secret");
    arrange(&stage);
    let (output, log) = stage.run("postgres/files/init.sh", &["/tmp"]);
    (stage, output, log)
}

#[test]
fn a_data_directory_is_made_only_where_the_volume_was_seen_to_have_none() {
    let (stage, output, log) = init(|_| {});
    assert!(
        output.status.success() && log.contains("initdb") && stage.path("volume/pgdata/PG_VERSION").exists(),
        "{log}"
    );
    // An earlier run was cut short.
    let (stage, output, log) = init(|stage| std::fs::create_dir_all(stage.path("volume/pgdata.new/base")).unwrap());
    assert!(output.status.success() && log.contains("initdb") && !stage.path("volume/pgdata/base").exists(), "{log}");
    let there = |stage: &Stage| {
        std::fs::create_dir_all(stage.path("volume/pgdata")).unwrap();
        std::fs::write(stage.path("volume/pgdata/base"), "rows").unwrap();
    };
    let (_, output, log) = init(|stage| {
        there(stage);
        std::fs::write(stage.path("volume/pgdata/PG_VERSION"), "15").unwrap();
    });
    assert!(output.status.success() && !log.contains("initdb"), "{log}");
    // Data whose version cannot be read, and a volume that cannot be listed.
    let (stage, output, log) = init(there);
    assert!(!output.status.success() && !log.contains("initdb") && !log.contains("pg_ctl"), "{log}");
    assert_eq!(std::fs::read_to_string(stage.path("volume/pgdata/base")).unwrap(), "rows");
    assert!(!stage.path("volume/pgdata.new").exists());
    let (_, output, log) = init(|stage| stage.program("ls", "echo 'ls: Input/output error' >&2; exit 2"));
    assert!(!output.status.success() && !log.contains("initdb"), "{log}");
}

#[test]
fn a_migration_whose_file_cannot_be_read_is_not_applied() {
    for body in ["exit 1", "kill -KILL $$"] {
        let mut stage = Stage::new();
        for folder in ["migrations", "secret"] {
            std::fs::create_dir_all(stage.path(folder)).unwrap();
        }
        for key in ["host", "port", "database", "username", "password"] {
            std::fs::write(stage.path("secret").join(key), key).unwrap();
        }
        std::fs::write(stage.path("migrations/V001__one.sql"), "SELECT 1;").unwrap();
        stage.program("sha256sum", body);
        stage.program("psql", "case $* in *version=*) echo applied ;; esac");
        stage.env("SECRET", "platform");
        let charts = root().join("infra/kubernetes/charts/db-migrations/files");
        for script in ["migrate.sh", "test.sh"] {
            let parts = ["connect.sh", script].map(|name| std::fs::read_to_string(charts.join(name)).unwrap());
            std::fs::write(stage.path("script"), parts.concat()).unwrap();
            let (output, log) = stage.run(stage.path("script").to_str().unwrap(), &["/migrations", "/secret"]);
            assert!(!output.status.success() && !log.contains("checksum="), "{script}: {log}");
        }
    }
}

#[test]
fn a_smoke_test_whose_lists_cannot_be_read_fails() {
    let stage = Stage::new();
    for program in ["nc", "nslookup"] {
        stage.program(program, "echo 'HTTPS server'");
    }
    std::fs::create_dir_all(stage.path("tmp")).unwrap();
    std::fs::create_dir_all(stage.path("checks")).unwrap();
    let moved = ["/tmp", "/checks"];
    assert!(!stage.run("platform-smoke/files/test.sh", &moved).0.status.success());
    for list in ["names", "ports", "secrets"] {
        std::fs::write(stage.path("checks").join(list), "").unwrap();
    }
    assert!(stage.run("platform-smoke/files/test.sh", &moved).0.status.success());
}

/// A volume with three older backups, an incomplete one, and a folder that is no backup.
fn backup(chart: &str, arrange: impl Fn(&Stage)) -> (Stage, Output, String) {
    let mut stage = Stage::new();
    for folder in ["20260101T000000Z", "20260102T000000Z", "20260103T000000Z", "20260104T000000Z.part", "lost+found"] {
        std::fs::create_dir_all(stage.path("backup").join(folder)).unwrap();
    }
    let secret = stage.path("secrets/platform");
    std::fs::create_dir_all(&secret).unwrap();
    for key in ["username", "password"] {
        std::fs::write(secret.join(key), key).unwrap();
    }
    stage.program("pg_dump", "for word; do case $word in --file=*) echo dump > \"${word#*=}\" ;; esac; done");
    stage.program("pg_restore", ":");
    stage.program("mc", "case $1 in ls) echo '[2026-01-01 00:00:00 UTC]     0B platform/' ;; esac");
    stage.env("DATABASES", "platform/platform");
    stage.env("KEEP", "2");
    arrange(&stage);
    let (output, log) = stage.run(&format!("{chart}/files/backup.sh"), &["/backup", "/secrets"]);
    (stage, output, log)
}

fn kept(stage: &Stage) -> Vec<String> {
    let entries = std::fs::read_dir(stage.path("backup")).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_oldest_backups_go_once_a_new_one_is_complete() {
    for chart in ["postgres", "minio"] {
        let (stage, output, _) = backup(chart, |_| {});
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let kept = kept(&stage);
        assert_eq!((kept.len(), &kept[0][..], &kept[2][..]), (3, "20260103T000000Z", "lost+found"), "{chart}");
        assert!(kept[1].ends_with('Z'), "{kept:?}");
    }
}

#[test]
fn a_backup_that_fails_is_none_and_takes_no_older_one_along() {
    let failing = ["exit 1", "kill -KILL $$"];
    for (chart, program, bodies) in [
        ("postgres", "pg_dump", &failing[..]),
        ("postgres", "pg_restore", &failing[..]),
        ("minio", "mc", &["exit 1", "case $1 in mirror) exit 1 ;; *) echo '[x] 0B platform/' ;; esac"][..]),
        ("minio", "mv", &failing[..]),
        ("postgres", "mv", &failing[..]),
        ("postgres", "date", &failing[..]),
        ("minio", "date", &failing[..]),
    ] {
        for body in bodies {
            let (stage, output, log) = backup(chart, |stage| stage.program(program, body));
            let kept = kept(&stage);
            assert!(!output.status.success(), "{chart} {program} {body}: {log}");
            let complete: Vec<&String> = kept.iter().filter(|name| name.ends_with('Z')).collect();
            assert_eq!(complete, ["20260101T000000Z", "20260102T000000Z", "20260103T000000Z"], "{chart} {program}");
        }
    }
}

#[test]
fn a_restore_without_the_name_of_a_complete_backup_touches_nothing() {
    for chart in ["postgres", "minio"] {
        for name in ["", "latest", "20260101T000000Z", ".", "lost+found", "20260103T000000Z.part"] {
            let (mut stage, _, _) = backup(chart, |_| {});
            std::fs::create_dir(stage.path("backup/20260103T000000Z.part")).unwrap();
            std::fs::write(stage.log(), "").unwrap();
            stage.program("psql", ":");
            stage.program("pg_restore", "echo 'could not read from input file' >&2; exit 1");
            stage.env("BACKUP", name);
            let (output, log) = stage.run(&format!("{chart}/files/restore.sh"), &["/tmp", "/backup", "/secrets"]);
            assert!(!output.status.success(), "{chart} {name:?}: {log}");
            assert!(!log.contains("psql") && !log.contains("mc "), "{chart} {name:?}: {log}");
        }
    }
    // A dump that cannot be read completely replaces nothing.
    let (mut stage, _, _) = backup("postgres", |_| {});
    stage.program("psql", ":");
    stage.program("pg_restore", "[ \"$call\" -lt 3 ] || { echo 'end of file' >&2; exit 1; }");
    stage.env("DATABASES", "platform/platform platform/other");
    stage.env("BACKUP", "20260103T000000Z");
    let (output, log) = stage.run("postgres/files/restore.sh", &["/tmp", "/backup", "/secrets"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("nothing was restored") && !log.contains("psql"), "{said}{log}");
}
