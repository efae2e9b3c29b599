//! The report of real runs, in a real browser: Chromium is controlled through its DevTools pipe, so
//! that bars are clicked as a person would.
//!
//! `UPDATE_SCREENSHOTS=1` writes the pictures that docs/report.md shows.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use xshell::cmd;

use crate::support::{self, root, shell, text};

/// A run's folder as this tool left it, in a temporary state folder.
pub fn state_with(run: &str) -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("k3d-ameide-ci/runs").join(run);
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    let shell = shell();
    cmd!(shell, "cp -r tests/runs/{run} {folder}").quiet().run().unwrap();
    state
}

fn report(state: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = support::xtask(&root(), &[&["--env", "ci", "report"], arguments].concat());
    let output = command.env("AMEIDE_STATE_DIR", state).output().unwrap();
    (output.status.code().unwrap(), text(&output))
}

/// The page of a run, written next to its record.
fn page(state: &tempfile::TempDir, run: &str) -> PathBuf {
    let (code, said) = report(state.path(), &[run]);
    assert_eq!(code, 0, "{said}");
    PathBuf::from(said.trim())
}

#[test]
fn a_page_stands_alone() {
    for run in ["good", "failed"] {
        let state = state_with(run);
        let html = std::fs::read_to_string(page(&state, run)).unwrap();
        for outside in ["<script", "<link", "<iframe", "src=", "href=", "url(", "@import"] {
            assert!(!html.contains(outside), "{run}: {outside}");
        }
        assert!(html.contains("default-src 'none'"), "and the browser holds it to that");
    }
}

#[test]
fn a_page_shows_no_secret_of_a_log() {
    let state = state_with("failed");
    let log = state.path().join("k3d-ameide-ci/runs/failed/45-data-plane-ext.log");
    // The page begins in the middle of a secret.
    let secrets = ["https://bob:hunter2pw@charts.example/i", "password=s3cr3tvalue", "Bearer abcdEFGH12345678"];
    let cut = format!("https://{}:{}@charts.example/i\n", "bob", "hunter2pw".repeat(30_000));
    std::fs::write(log, cut + &secrets.join("\n")).unwrap();
    let (code, said) = report(state.path(), &["failed", "--to", "-"]);
    assert!(code == 0 && said.contains("https://***@charts.example/i"), "{said}");
    assert!(said.contains(" bytes before this left out)"));
    for secret in ["hunter2pw", "s3cr3tvalue", "abcdEFGH12345678"] {
        assert!(!said.contains(secret), "{secret}");
    }
}

#[test]
fn without_a_name_it_is_the_last_run_that_did_something() {
    let state = state_with("good");
    // This call itself is a run too, but one that did nothing.
    for _ in 0..2 {
        let (code, said) = report(state.path(), &[]);
        assert!(code == 0 && said.contains("/good/report.html"), "{said}");
    }
    let (code, said) = report(state.path(), &["--list"]);
    assert!(code == 0 && said.lines().any(|line| line.starts_with("good ") && line.contains("done in")), "{said}");
    let (code, said) = report(state.path(), &["../good"]);
    assert!(code == 2 && said.contains("no run \"../good\""), "{said}");
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(report(empty.path(), &[]).0, 2);
}

#[test]
fn for_programs_everything_is_json_and_a_dry_run_writes_nothing() {
    let state = state_with("good");
    let (code, said) = report(state.path(), &["good", "--dry-run"]);
    let path = state.path().join("k3d-ameide-ci/runs/good/report.html");
    assert!(code == 0 && said.contains("would write ") && said.contains("/good/report.html"), "{said}");
    assert!(!path.exists());
    for (arguments, field) in [(&["--list"][..], "/0/run"), (&["good"], "/written"), (&["good", "--to", "-"], "/page")]
    {
        let (code, said) = report(state.path(), &[arguments, &["--output", "json"]].concat());
        let values: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert!(code == 0 && values[0].pointer(field).is_some_and(Value::is_string), "{said}");
    }
    assert!(path.exists());
}

#[test]
fn markdown_goes_to_standard_output_for_a_pull_request() {
    let state = state_with("failed");
    let (code, said) = report(state.path(), &["failed", "--format", "markdown", "--to", "-"]);
    assert!(code == 0 && said.starts_with("## ❌ layer · ci: image-not-found (exit 5) after "), "{said}");
    assert!(said.contains("| ✅ | &emsp;**45-data-plane-ext** preflight | `"), "{said}");
    let minio = said.lines().find(|line| line.contains("**minio** revision 8, failed")).unwrap();
    assert!(minio.contains("⚠️ `image-not-found` pod/minio-") && minio.contains("it ended the run"), "{minio}");
}

#[test]
fn a_browser_shows_the_pages_and_a_click_opens_a_log() {
    let mut browser = Browser::start();
    let (good, failed) = (state_with("good"), state_with("failed"));
    let (good, failed) = (page(&good, "good"), page(&failed, "failed"));

    browser.open(&good, 1280, "light");
    assert_eq!(browser.eval("document.querySelector('.badge').className"), "badge done");
    assert_eq!(browser.eval("document.querySelectorAll('.checks .pass').length"), 12);
    assert_eq!(browser.eval("document.querySelectorAll('details[open]').length"), 0, "nothing failed: nothing is open");
    assert!(browser.eval("document.querySelectorAll('details.pod').length").as_u64() > Some(8));
    // The sync of the last layer: its bar is the one to click.
    let sync = "[...document.querySelectorAll('details')].find(d => \
                d.querySelector('b').textContent === '45-data-plane-ext' && d.textContent.includes('helmfile sync'))";
    assert_eq!(browser.eval(&format!("{sync}.open")), false);
    browser.click(&format!("{sync}.querySelector('.bar')"));
    assert_eq!(browser.eval(&format!("{sync}.open")), true, "a click on the bar opens it");
    let log = browser.eval(&format!("{sync}.querySelector('pre').innerText"));
    assert!(log.as_str().unwrap().contains("Upgrading release=minio"), "{log}");
    assert!(browser.eval(&format!("{sync}.querySelector('pre').getBoundingClientRect().height")).as_f64() > Some(40.0));
    browser.click(&format!("{sync}.querySelector('.bar')"));
    browser.picture("report-good");
    browser.open(&good, 1280, "dark");
    browser.picture("report-good-dark");

    browser.open(&failed, 1280, "light");
    let blocker = browser.eval("document.querySelector('.blocker').innerText");
    for part in ["image-not-found", "evidence", "third-party/absent:1", "cargo xtask --env ci mirror"] {
        assert!(blocker.as_str().unwrap().contains(part), "{part} is not in {blocker}");
    }
    assert_eq!(browser.eval("document.querySelector('.badge').className"), "badge failed");
    assert!(browser.eval("document.querySelectorAll('details.failed-row[open] pre').length").as_u64() > Some(0));
    // A blocker is on the row that it blocked.
    let blocked = browser.eval("document.querySelector('details.release.failed-row[open] .blocked').innerText");
    for part in ["image-not-found", "pod/minio-", "Failed to pull image", "since ", "it ended the run after"] {
        assert!(blocked.as_str().unwrap().contains(part), "{part} is not in {blocked}");
    }
    let mark = browser.eval("document.querySelector('details.release .block.ended').getBoundingClientRect().width");
    assert!(mark.as_f64() > Some(4.0), "{mark}");
    browser.picture("report-failed");

    // On a phone nothing is wider than the screen, and bars are still bars.
    for (path, name) in [(&failed, "report-failed-phone"), (&good, "report-good-phone")] {
        browser.open(path, 390, "light");
        assert_eq!(browser.eval("document.documentElement.scrollWidth"), 390, "{name}");
        assert!(browser.eval("document.querySelector('.track').getBoundingClientRect().width").as_f64() > Some(300.0));
        browser.picture(name);
    }
    assert_eq!(browser.complaints, Vec::<String>::new(), "nothing was asked for, and nothing refused");
}

/// Chromium, controlled through file descriptors 3 and 4: JSON messages, each terminated by a NUL.
struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    session: String,
    next: u64,
    /// Console messages, and requests that failed.
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let (to, from) = (profile.path().join("to"), profile.path().join("from"));
        assert!(Command::new("mkfifo").args([&to, &from]).status().unwrap().success());
        let mut command = Command::new("sh");
        // Our own page needs no sandbox, and root cannot have one.
        command.args(["-c", "exec \"$0\" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run --user-data-dir=\"$1/profile\" --remote-debugging-pipe about:blank 3<\"$1/to\" 4>\"$1/from\""]);
        command.arg(program()).arg(profile.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let to = File::options().write(true).open(to).unwrap();
        let from = BufReader::new(File::open(from).unwrap());
        let mut browser =
            Self { child, to, from, session: String::new(), next: 0, complaints: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Log", "Network", "Runtime"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    fn receive(&mut self) -> Value {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).unwrap();
        assert_eq!(message.pop(), Some(0), "the browser ended");
        let message: Value = serde_json::from_slice(&message).unwrap();
        match message["method"].as_str() {
            Some("Log.entryAdded") => self.complaints.push(message["params"]["entry"]["text"].to_string()),
            Some("Runtime.exceptionThrown" | "Network.loadingFailed") => self.complaints.push(message.to_string()),
            Some("Network.requestWillBeSent") => {
                let url = message["params"]["request"]["url"].as_str().unwrap_or_default().to_owned();
                if !url.starts_with("file://") {
                    self.complaints.push(url);
                }
            }
            _ => {}
        }
        message
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.receive();
            if answer["id"] == self.next {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    fn open(&mut self, path: &Path, width: u32, scheme: &str) {
        let phone = width < 600;
        let scale = if phone { 2 } else { 1 };
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": scale, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
        self.call("Page.navigate", json!({"url": format!("file://{}", path.display())}));
        while self.receive()["method"] != "Page.loadEventFired" {}
    }

    #[track_caller]
    fn eval(&mut self, expression: &str) -> Value {
        let result = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    fn click(&mut self, element: &str) {
        let place = format!(
            "(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        let place = self.eval(&place);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// The top of the page as a picture, which must have something on it.
    fn picture(&mut self, name: &str) {
        self.eval("window.scrollTo(0, 0)");
        let (width, height) = (self.eval("innerWidth"), self.eval("Math.min(document.body.scrollHeight, 1600)"));
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let parameters = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture =
            STANDARD.decode(self.call("Page.captureScreenshot", parameters)["data"].as_str().unwrap()).unwrap();
        // A blank page of this size compresses to a few kilobytes.
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{name}: {} bytes", picture.len());
        let shown = std::fs::read_to_string(root().join("docs/report.md")).unwrap().contains(&format!("{name}.png"));
        if shown && std::env::var_os("UPDATE_SCREENSHOTS").is_some() {
            let folder = root().join("docs/pictures");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The browser, installed first if it is missing on Debian and this is root.
fn program() -> String {
    let of_macos = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome";
    let names = ["chromium", "chromium-browser", "google-chrome", of_macos];
    let find = || {
        let found =
            names.iter().find(|name| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok());
        found.map(|name| (*name).to_owned())
    };
    find().unwrap_or_else(|| {
        let packages = ["chromium", "fonts-dejavu-core"];
        assert!(support::apt_install(&packages), "no browser: apt-get install chromium, as root");
        find().unwrap()
    })
}
