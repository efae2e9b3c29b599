//! `cargo xtask mirror` against real registries: which account it uses, and what an interrupt or a
//! kill leaves. The library itself is tested in `mirror/tests`.

// The library's own tests use the rest of both.
#[allow(dead_code)]
#[path = "../../mirror/tests/registries/proxy.rs"]
mod proxy;
#[allow(dead_code)]
#[path = "../../mirror/tests/registries/registry.rs"]
mod registry;

use std::process::Command;
use std::time::{Duration, Instant};

use duct::unix::HandleExt;
use serde_json::json;
use xtask::lab::UPSTREAM_ADDRESS;

use crate::support::cluster::{self, beside, ended, kills_of, turn_with_whatever_there_is, unheard};
use crate::support::{eventually, text, write_program};
use proxy::{Do, Proxy};
use registry::{Registry, http};

/// From the lab, which is available whatever this machine can reach.
fn xtask(arguments: &[&str]) -> Command {
    cluster::xtask(&[&["--lab"], arguments].concat())
}

/// Docker's own configuration, with a helper; nothing secret is printed or recorded.
#[test]
fn the_command_takes_its_account_from_docker_and_keeps_it_to_itself() {
    let _turn = turn_with_whatever_there_is();
    let target = Registry::start();
    let gate =
        Proxy::before(&target.address, |seen| match seen.header("authorization") == Some("Basic Ym9iOnQwa2Vu") {
            true => Do::Pass,
            false => Do::Answer(401, vec![("www-authenticate", "Basic realm=\"x\"".to_owned())], String::new()),
        });
    let folder = tempfile::tempdir().unwrap();
    let helper = folder.path().join("docker-credential-test");
    let run = |answer: &str| {
        write_program(&helper, &format!("#!/bin/sh\n{answer}\n"));
        let config = json!({"credHelpers": {gate.address.clone(): "test"}});
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let mut command = xtask(&["--output", "json", "mirror", "busybox", "--to", &gate.address]);
        let output = command.env("PATH", path).env("DOCKER_CONFIG", folder.path()).output().unwrap();
        let said = text(&output);
        assert!(!said.contains("t0ken") && !said.contains("Ym9iOnQwa2Vu"), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = run(r#"read server; echo '{"ServerURL":"x","Username":"bob","Secret":"t0ken"}'"#);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"event\":\"images\""), "{said}");
    for (answer, expected) in [
        ("echo boom >&2; exit 1", "line 1): exit status: 1: boom"),
        ("echo 'credentials not found in native keychain'; exit 1", "there is none for it"),
        (r#"echo '{"Username":"bob","Secret":""}'"#, "is empty"),
        ("exec sleep 60", "no answer within 20 s"),
    ] {
        let (code, said) = run(answer);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("registry-auth") && said.contains(expected), "{said}");
    }
    for wrong in ["user:t0ken@127.0.0.1:5", "http://127.0.0.1:5", "127.0.0.1:5/Team"] {
        let output = xtask(&["mirror", "--to", wrong]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("--to: "), "{said}");
        assert!(!said.contains("t0ken"), "{said}");
    }
}

/// Ctrl-C in the middle is reported as such, and no tag points to an incomplete image.
#[test]
fn an_interrupted_mirror_ends_at_once_and_leaves_nothing_half_done() {
    let _turn = turn_with_whatever_there_is();
    let target = Registry::start();
    let slow = Proxy::before(UPSTREAM_ADDRESS, |seen| match seen.is("GET", "/blobs/") {
        true => Do::Hang(Duration::from_secs(30)),
        false => Do::Pass,
    });
    let mut command = xtask(&["mirror", "redis", "--to", &target.address]);
    command.env("AMEIDE_LAB_UPSTREAM", &slow.address);
    let child = beside(&command);
    eventually("it begins", || slow.count("GET", "/blobs/") > 0);
    child.send_signal(libc::SIGINT).unwrap();
    let (code, said) = ended(&child);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    let tags = http("GET", &target.address, "/v2/third-party/redis/tags/list", &[], b"");
    assert_eq!(tags.status, 404, "{}", String::from_utf8_lossy(&tags.body));
}

/// The real images, killed at random moments: what was complete is not transferred again.
#[test]
fn a_killed_mirror_goes_on_where_it_was() {
    let _turn = turn_with_whatever_there_is();
    let run = |address: &str| xtask(&["--output", "json", "mirror", "--to", address]);
    let bytes = |output: &std::process::Output| -> u64 {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["event"] == "images").map(|line| line["bytes"].as_u64().unwrap()).sum()
    };
    let (whole, took) = {
        let target = Registry::start();
        let started = Instant::now();
        let moved = bytes(&run(&target.address).output().unwrap());
        assert_eq!(bytes(&run(&target.address).output().unwrap()), 0);
        (moved, started.elapsed())
    };
    let seed = std::process::id().into();
    println!("{whole} bytes in {took:?}; seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..kills_of(8) {
        let target = Registry::start();
        let child = unheard(&run(&target.address));
        std::thread::sleep(took.mul_f64(random.f64()));
        child.kill().unwrap();
        // The size of every blob that a repository has.
        let list = "cd /var/lib/registry/docker/registry/v2 2>/dev/null && ls -d repositories/*/*/_layers/sha256/* repositories/*/*/*/_layers/sha256/* 2>/dev/null | sed 's|.*/||' | sort -u | while read d; do stat -c %s blobs/sha256/$(echo $d | cut -c1-2)/$d/data; done; true";
        let complete: u64 =
            target.docker("exec", &["sh", "-c", list]).lines().filter_map(|line| line.parse::<u64>().ok()).sum();
        let rest = bytes(&run(&target.address).output().unwrap());
        println!("round {round}: {complete} bytes complete when killed, {rest} moved after it");
        // The registry may have completed some blobs after we looked.
        assert!(complete + rest <= whole, "{}", complete + rest);
    }
}
