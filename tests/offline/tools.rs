//! The pinned tools: from their projects' servers into the lock and the cache, and from their Go
//! modules if the servers have nothing. A server stands in for the projects', a script that prints
//! a version for each tool, and another one for `go`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::Utf8Path;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::Digest;

use crate::access::{ESTABLISHED, Proxy, server_with_tls};
use crate::bad_input::SmallDisk;
use crate::support::server::{Answer, Request, Server};
use crate::support::{self, copy_configuration, edit, ends, eventually, write_program};

const PLATFORMS: [&str; 4] = ["linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"];

/// Like the tree's, with two tools and a server's addresses, and with Windows line ends.
const TOOLS: &str = r#"platforms: [linux/amd64, linux/arm64, darwin/amd64, darwin/arm64]
tools:
  helm:
    version: [version]
    stamp: x
    archive:
      url: URL/helm-{version}-{os}-{arch}.tar.gz
      member: "{os}-{arch}/helm"
      checksums: {url: "URL/{number}/checksums.txt", form: named}
  kubectl:
    version: [version]
    stamp: x
    archive:
      url: URL/{version}/bin/{os}/{arch}/kubectl
      checksums: {url: "{url}.sha256", form: bare}
"#;

fn hex(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Prints this version, and is large enough to be cut in the middle.
fn script(version: &str, how: &str) -> Vec<u8> {
    let mut text = format!("#!/bin/sh\necho {version}; exit\n# {how}\n");
    while text.len() < 400_000 {
        text.push_str(&format!("# {}\n", fastrand::u128(..)));
    }
    text.into_bytes()
}

fn archive(member: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in [("README.md", &b"read me"[..]), (member, content)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

type Rule = Arc<Mutex<Box<dyn Fn(&Request) -> Option<Answer> + Send>>>;

/// A machine without any tools, and the projects' servers.
struct World {
    folder: tempfile::TempDir,
    /// What is published, by path.
    published: Arc<BTreeMap<String, Vec<u8>>>,
    /// Answers in place of the server.
    rule: Rule,
    server: Server,
    /// The server that really has the archives.
    store: Server,
    versions: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("a tree");
        copy_configuration(&tree);
        let pinned = |tool: &str| {
            let text = std::fs::read_to_string(tree.join("infra/tools").join(tool).join("go.mod")).unwrap();
            let module = if tool == "helm" { "helm.sh/helm/v4 " } else { "k8s.io/kubernetes " };
            let line = text.lines().find_map(|line| line.trim().trim_start_matches("require ").strip_prefix(module));
            line.unwrap().split_whitespace().next().unwrap().to_owned()
        };
        let versions: BTreeMap<String, String> =
            ["helm", "kubectl"].into_iter().map(|tool| (tool.to_owned(), pinned(tool))).collect();
        let mut published = BTreeMap::new();
        let mut list = String::new();
        let (helm, kubectl) = (&versions["helm"], &versions["kubectl"]);
        for platform in PLATFORMS {
            let dashed = platform.replace('/', "-");
            let bytes = archive(&format!("{dashed}/helm"), &script(helm, platform));
            // With the folder where it was created, and the line ends of another system.
            list.push_str(&format!("{}  _dist/helm-{helm}-{dashed}.tar.gz\r\n", hex(&bytes)));
            published.insert(format!("/helm-{helm}-{dashed}.tar.gz"), bytes);
            let (path, bytes) = (format!("/{kubectl}/bin/{platform}/kubectl"), script(kubectl, platform));
            published.insert(format!("{path}.sha256"), hex(&bytes).into_bytes());
            published.insert(path, bytes);
        }
        published.insert(format!("/{}/checksums.txt", helm.trim_start_matches('v')), list.into_bytes());
        let published = Arc::new(published);
        let rule: Rule = Arc::new(Mutex::new(Box::new(|_| None)));
        let (known, ruled) = (published.clone(), rule.clone());
        let store = Server::start(move |request| {
            let ruled = { (ruled.lock().unwrap())(request) };
            ruled.unwrap_or_else(|| match known.get(request.path().trim_start_matches("/store")) {
                Some(bytes) => Answer::file(request, bytes),
                None => Answer::new(404, "<html>"),
            })
        });
        let (known, ruled, to) = (published.clone(), rule.clone(), store.url());
        let server = Server::start(move |request| {
            let ruled = { (ruled.lock().unwrap())(request) };
            ruled.unwrap_or_else(|| match known.get(request.path()) {
                // As GitHub does.
                Some(_) if request.path().ends_with(".tar.gz") => {
                    Answer::new(302, "").with("Location", format!("{to}/store{}?sig=s3cret", request.path()))
                }
                Some(bytes) => Answer::file(request, bytes),
                None => Answer::new(404, "<html>"),
            })
        });
        let world = Self { folder, published, rule, server, store, versions };
        world.serve_at(&world.server.url());
        world
    }

    fn serve_at(&self, url: &str) {
        let text = TOOLS.replace("URL", url).replace('\n', "\r\n");
        std::fs::write(self.path("infra/tools/tools.yaml"), text).unwrap();
    }

    /// The server's answer from now on, instead of what is published.
    fn answers(&self, rule: impl Fn(&Request) -> Option<Answer> + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join("a tree").join(relative)
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("a cache")
    }

    /// The tool, on a machine with no program on its PATH.
    fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = support::xtask(&self.path(""), &[&["--env", "ci"], arguments].concat());
        command.env("AMEIDE_STATE_DIR", self.path("state")).env("AMEIDE_CACHE_DIR", self.cache());
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.env("PATH", self.folder.path().join("bin"));
        command
    }

    /// From now on there is a `go`, which builds a program that prints its stamp.
    fn install_go(&self) {
        let script = "#!/bin/sh\nfor word; do case $word in -ldflags=*) stamp=${word##*=};; esac; done\nwhile [ \"$1\" != -o ]; do shift; done\nprintf '#!/bin/sh\\necho %s\\n' \"$stamp\" >\"$2\"\n/bin/chmod +x \"$2\"\n";
        write_program(&self.folder.path().join("bin/go"), script);
    }

    #[track_caller]
    fn ends(&self, arguments: &[&str], exit: i32, parts: &[&str]) -> String {
        let text = ends(self.xtask(arguments), exit);
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
        text
    }

    /// With every digest in the lock.
    fn resolved() -> Self {
        let world = Self::new();
        world.ends(&["tools", "--update"], 0, &["8 of 8 archives resolved"]);
        world
    }

    fn lock(&self) -> String {
        std::fs::read_to_string(self.path("infra/tools/tools.lock")).unwrap()
    }

    /// How many requests there were for archives, or parts of them.
    fn asked(&self) -> usize {
        self.store.count("GET", ".tar.gz")
            + self.server.seen().iter().filter(|it| it.target.ends_with("/kubectl")).count()
    }

    /// What a tool's link, which people have on their PATH, points to.
    fn linked(&self, tool: &str) -> String {
        let link = self.cache().join("bin").join(tool);
        std::fs::read_link(link).unwrap().strip_prefix(self.cache()).unwrap().to_str().unwrap().to_owned()
    }

    /// The partial downloads in the cache.
    fn parts(&self) -> Vec<PathBuf> {
        let Ok(folders) = std::fs::read_dir(self.cache().join("archives")) else { return Vec::new() };
        let files = folders.flatten().flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten());
        let is_part = |path: &PathBuf| path.extension().is_some_and(|end| end == "part" || end == "new");
        files.map(|file| file.path()).filter(is_part).collect()
    }
}

fn is_archive(request: &Request) -> bool {
    request.path().starts_with("/store/helm")
}

#[test]
fn the_digests_go_into_the_lock_and_the_tools_out_of_their_archives() {
    let world = World::resolved();
    let lock = world.lock();
    for (path, bytes) in
        world.published.iter().filter(|(path, _)| path.ends_with(".tar.gz") || path.ends_with("/kubectl"))
    {
        assert!(lock.contains(&format!("sha256:{}", hex(bytes))), "{path}:\n{lock}");
    }
    assert_eq!((world.asked(), world.server.count("GET", "/checksums.txt")), (0, 1), "the list is asked for once");
    world.ends(&["tools", "--update"], 0, &["is unchanged"]);
    assert_eq!(world.lock(), lock);
    // No program is on PATH, not even Go.
    let said = world.ends(&["tools"], 0, &["[helm] downloaded http://", "[kubectl] downloaded http://"]);
    assert!(!said.contains("Go"), "{said}");
    assert!(world.linked("helm").starts_with("archives/helm-v") && world.linked("kubectl").starts_with("archives/"));
    assert_eq!((world.asked(), world.parts()), (2, Vec::<PathBuf>::new()));
    let helm = ends(Command::new(world.cache().join("bin/helm")), 0);
    assert_eq!(helm.trim(), world.versions["helm"]);
    // The second time nothing is requested.
    let seen = world.server.seen().len();
    world.ends(&["tools"], 0, &["archives/helm-v"]);
    assert_eq!((world.asked(), world.server.seen().len()), (2, seen));
}

#[test]
fn what_is_built_and_what_is_downloaded_are_two_things() {
    let world = World::resolved();
    world.ends(&["tools"], 0, &["archives/helm-v"]);
    world.ends(&["tools", "--from-source"], 8, &["go-missing", "install Go"]);
    world.install_go();
    // Our own folder of links does not count as PATH.
    let path = format!("{}:{}", world.cache().join("bin").display(), world.folder.path().join("bin").display());
    let mut command = world.xtask(&["tools", "--from-source"]);
    let said = {
        command.env("PATH", &path);
        ends(command, 0)
    };
    assert!(said.contains("built helm.sh/helm") && !said.contains("/archives/"), "{said}");
    assert!(world.linked("helm").starts_with("go/helm-"), "{}", world.linked("helm"));
    let asked = world.asked();
    // Somebody wanted it built, and has it now.
    world.ends(&["tools"], 0, &["/go/helm-"]);
    assert_eq!(world.asked(), asked);
    let refused = world.xtask(&["tools", "--from-source", "--update"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    // Without a digest and without the built tool, a link of ours that still prints the version is
    // not used.
    std::fs::write(world.path("infra/tools/tools.lock"), "version: 1\ntools: {}\n").unwrap();
    std::fs::remove_dir_all(world.cache().join("go")).unwrap();
    let link = world.cache().join("bin/helm");
    std::fs::remove_file(&link).unwrap();
    let kept = std::fs::read_dir(world.cache().join("archives")).unwrap().flatten().map(|it| it.path().join("helm"));
    std::os::unix::fs::symlink(kept.into_iter().find(|path| path.is_file()).unwrap(), &link).unwrap();
    let mut command = world.xtask(&["tools"]);
    {
        command.env("PATH", &path);
        ends(command, 0)
    };
    assert!(world.linked("helm").starts_with("go/helm-"), "{}", world.linked("helm"));
}

/// A power failure leaves files with a name and too little in them.
#[test]
fn a_tool_that_is_damaged_in_the_cache_is_had_anew_and_one_that_is_whole_is_not_started() {
    let world = World::resolved();
    world.ends(&["tools"], 0, &[]);
    let helm = world.cache().join(world.linked("helm"));
    let whole = std::fs::read(&helm).unwrap();
    let note = helm.with_extension("size");
    let damage = |content: &[u8]| std::fs::write(&helm, content).unwrap();
    let forget = || std::fs::remove_file(&note).unwrap();
    for (kept, noted, told) in [
        (0, true, "it is empty"),
        (0, false, "it is empty"),
        (1000, true, "it has 1000 of"),
        // As an earlier version of this tool kept it: without a note.
        (5, false, "helm is damaged"),
    ] {
        damage(&whole[..kept]);
        if !noted {
            forget();
        }
        world.ends(&["tools"], 0, &["⚠️  [helm] ", told, "is damaged and not used", "[helm] downloaded http://"]);
        assert_eq!(std::fs::read(&helm).unwrap(), whole, "{told}");
    }
    let asked = world.asked();
    // One without a note that says its version is started once, and then known by its size.
    forget();
    let starts = world.folder.path().join("starts");
    let witness = format!("#!/bin/sh\necho x >>'{}'\necho {}\n", starts.display(), world.versions["helm"]);
    damage(witness.as_bytes());
    for _ in 0..2 {
        world.ends(&["tools"], 0, &["archives/helm-v"]);
    }
    assert_eq!((std::fs::read_to_string(&starts).unwrap().lines().count(), world.asked()), (1, asked));
}

#[test]
fn any_program_on_path_that_has_the_version_is_used_if_the_cache_has_none() {
    let world = World::resolved();
    let place = |folder: &str, version: &str| {
        let folder = world.folder.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        write_program(&folder.join("helm"), &format!("#!/bin/sh\necho {version}\n"));
        folder.display().to_string()
    };
    let path = [place("older", "v0.0.1"), place("right", &world.versions["helm"])].join(":");
    let tools = || {
        let mut command = world.xtask(&["tools"]);
        command.env("PATH", &path);
        ends(command, 0)
    };
    assert!(tools().contains("/right/helm"), "the second helm on PATH has the version");
    assert_eq!(world.store.count("GET", "helm"), 0);
    world.ends(&["tools"], 0, &["[helm] downloaded http://"]);
    assert!(tools().contains("archives/helm-v"), "a look at the cache comes before a start");
}

#[test]
fn without_a_digest_of_this_version_nobody_is_asked() {
    let world = World::new();
    let version = world.versions["helm"].clone();
    let said = world.ends(
        &["tools"],
        8,
        &[
            "go-missing",
            "neither downloaded nor built",
            "tools.lock has no digest",
            "install Go",
            "tools --update",
            "on PATH",
        ],
    );
    assert_eq!(said.matches('❌').count(), 1, "{said}");
    // A digest of another version is as good as none.
    world.ends(&["tools", "--update"], 0, &[]);
    edit(&world.path("infra/tools/tools.lock"), |text| text.replace(&version, "v0.0.1"));
    let before = (world.server.seen().len(), world.store.seen().len());
    world.ends(&["layer", "--list"], 0, &[]);
    world.ends(&["tools"], 8, &["go-missing", &format!("no digest of the archive of {version}")]);
    world.install_go();
    world.ends(
        &["tools"],
        0,
        &["[helm] not downloaded, to be built from its Go module: tools.lock", "built helm.sh/helm"],
    );
    assert!(world.linked("helm").starts_with("go/helm-") && world.linked("kubectl").starts_with("archives/"));
    assert_eq!((world.server.count("GET", "helm-"), world.store.seen().len()), (0, before.1));
    // After another update, it is resolved for this version, and what another platform's file does
    // not have stays.
    world.ends(&["tools", "--update"], 0, &["[helm] linux/amd64: v"]);
    assert!(!world.lock().contains("v0.0.1"));
}

#[test]
fn a_run_that_was_interrupted_or_killed_is_gone_on_with_by_the_next() {
    let world = World::resolved();
    let published = world.published.clone();
    world.answers(move |request| {
        let bytes = published.get(request.path().strip_prefix("/store")?)?;
        is_archive(request).then(|| Answer::file(request, bytes).cut_after(50_000, true))
    });
    for (there, signal, exit) in [(50_000, "INT", Some(130)), (100_000, "KILL", None)] {
        let mut running = world.xtask(&["tools"]);
        running.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut running = running.spawn().unwrap();
        eventually("a piece of the archive", || {
            world.parts().first().is_some_and(|part| part.metadata().is_ok_and(|metadata| metadata.len() == there))
        });
        support::signal(running.id(), signal);
        assert_eq!(running.wait().unwrap().code(), exit);
    }
    // Now the connection is cut in the middle once more.
    let published = world.published.clone();
    world.answers(move |request| {
        let bytes = published.get(request.path().strip_prefix("/store")?)?;
        let cut = is_archive(request) && request.before == 2;
        cut.then(|| Answer::file(request, bytes).cut_after(20_000, false))
    });
    world.ends(&["tools"], 0, &["cut after 120000 bytes", "[helm] downloaded http://"]);
    let ranges: Vec<Option<String>> =
        world.store.seen().iter().map(|request| request.header("range").map(str::to_owned)).collect();
    let range = |from: usize| Some(format!("bytes={from}-"));
    assert_eq!(ranges, [None, range(50_000), range(100_000), range(120_000)]);
}

#[test]
fn a_wrong_digest_is_told_and_not_used_and_what_a_crash_left_is_had_anew() {
    let world = World::resolved();
    world.answers(|request| {
        is_archive(request).then(|| Answer::new(200, archive("linux-amd64/helm", b"#!/bin/sh\necho evil")))
    });
    let said = world.ends(
        &["tools"],
        8,
        &["⚠️  [helm] not downloaded", "do not have the digest sha256:", "go-missing", "which of the two digests"],
    );
    assert!(!said.contains("evil"), "{said}");
    assert_eq!(world.parts(), Vec::<PathBuf>::new());
    world.install_go();
    world.ends(&["tools"], 0, &["do not have the digest", "built helm.sh/helm"]);
    // A partial file of something else, as a crash may leave: starts over.
    std::fs::remove_dir_all(world.cache().join("go")).unwrap();
    world.answers(|_| None);
    let folders = std::fs::read_dir(world.cache().join("archives")).unwrap().flatten();
    let folder = folders.map(|it| it.path()).find(|path| path.to_str().unwrap().contains("/helm-")).unwrap();
    std::fs::write(folder.join("helm.part"), vec![0; 1000]).unwrap();
    world.ends(&["tools"], 0, &["[helm] downloaded http://"]);
    let ranges: Vec<bool> = world.store.seen().iter().map(|request| request.header("range").is_some()).collect();
    assert_eq!(ranges, [false, false, true, false]);
}

#[test]
fn a_web_page_in_place_of_an_archive_is_no_dispute_about_its_digest() {
    let world = World::resolved();
    world.answers(|request| is_archive(request).then(|| Answer::new(200, "\n<!DOCTYPE html><title>Log in</title>")));
    let said = world.ends(&["tools"], 8, &["answered a web page, not the archive", "HTTPS_PROXY", "go-missing"]);
    assert!(!said.contains("digest"), "{said}");
    assert_eq!(world.parts(), Vec::<PathBuf>::new());
}

#[test]
fn a_server_that_has_nothing_or_is_away_leads_to_the_next_way() {
    let world = World::resolved();
    world.answers(|request| is_archive(request).then(|| Answer::new(404, "")));
    world.ends(&["tools"], 8, &["go-missing", "answered 404 Not Found", "neither downloaded nor built"]);
    assert_eq!(world.store.count("GET", ""), 1, "it is not asked again");
    world.answers(|request| {
        (is_archive(request) && request.before == 1).then(|| Answer::new(503, "").with("Retry-After", "1"))
    });
    world.ends(&["tools"], 0, &["answered 503 Service Unavailable; retrying in", "[helm] downloaded"]);
    std::fs::remove_dir_all(world.cache()).unwrap();
    world.install_go();
    world.answers(|request| is_archive(request).then_some(Answer::Never));
    let started = std::time::Instant::now();
    world.ends(&["tools"], 0, &["no answer within 15 s", "built helm.sh/helm"]);
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn two_runs_at_once_download_once() {
    let world = World::resolved();
    world.answers(|request| {
        if is_archive(request) {
            std::thread::sleep(Duration::from_secs(1));
        }
        None
    });
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| world.ends(&["tools"], 0, &["archives/helm-v"]));
        }
    });
    assert_eq!(world.asked(), 2);
}

#[test]
fn an_archive_of_another_version_or_without_the_tool_is_no_tool() {
    let world = World::new();
    let here = xtask::world::tools::archive::here().replace('/', "-");
    let name = format!("helm-{}-{here}.tar.gz", world.versions["helm"]);
    for (member, version, exit, parts) in [
        (format!("{here}/helm"), "v0.0.1", 8, &["tool-version", "it says \"v0.0.1\"", "tools --from-source"][..]),
        ("elsewhere/helm".to_owned(), "v0.0.1", 8, &["go-missing", "holds no "]),
    ] {
        let bytes = archive(&member, &script(version, "other"));
        let list = format!("{}  {name}\n", hex(&bytes));
        world.answers(move |request| match request.path() {
            path if path.ends_with("/checksums.txt") => Some(Answer::new(200, list.clone())),
            path if path.starts_with("/store/helm") => Some(Answer::file(request, &bytes)),
            _ => None,
        });
        world.ends(&["tools", "--update"], 8, &["tool-unresolved"]);
        let said = world.ends(&["tools"], exit, &[]);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in:\n{said}"));
        assert!(!world.cache().join("bin").exists());
    }
}

#[test]
fn what_a_project_does_not_tell_stays_as_it_was_and_is_named() {
    let world = World::resolved();
    let before = world.lock();
    let path = format!("/{}/bin/linux/arm64/kubectl.sha256", world.versions["kubectl"]);
    world.answers(move |request| match request.path() {
        path_of if path_of.ends_with("checksums.txt") => Some(Answer::new(200, "0123  something-else.tar.gz\n")),
        path_of if path_of == path => Some(Answer::Never),
        path_of if path_of.ends_with("darwin/arm64/kubectl.sha256") => Some(Answer::new(200, "a".repeat(64))),
        _ => None,
    });
    world.ends(
        &["tools", "--update"],
        8,
        &[
            "tool-unresolved",
            "5 of 8 archives are not resolved: helm linux/amd64, ",
            "kubectl linux/arm64",
            "no answer within 15 s",
            "checksums.txt: names no helm-v",
            "⚠️  [kubectl] darwin/arm64: v",
            "ask the project why",
        ],
    );
    let digest = format!("sha256:{}", "a".repeat(64));
    assert_eq!(world.lock().matches(&digest).count(), 1);
    let differing = world.lock().lines().zip(before.lines()).filter(|(after, before)| after != before).count();
    assert_eq!(differing, 1, "{before}\n{}", world.lock());
    // If nothing could be fetched, nothing is written.
    let world = World::new();
    let before = world.lock();
    world.serve_at("http://127.0.0.1:1");
    world.ends(&["tools", "--update"], 8, &["8 of 8 archives are not resolved", "http://127.0.0.1:1/"]);
    assert_eq!(world.lock(), before);
    world.ends(&["tools", "--update", "--dry-run"], 8, &[]);
}

#[test]
fn certificates_and_proxies_are_those_of_the_environment() {
    let world = World::new();
    let published = world.published.clone();
    let (server, authority) =
        server_with_tls(world.folder.path(), "files.example", move |request| match published.get(request.path()) {
            Some(bytes) => Answer::file(request, bytes),
            None => Answer::new(404, ""),
        });
    let proxy = Proxy::before(&server.address, ESTABLISHED);
    world.serve_at("https://files.example");
    let run = |arguments: &[&str], variables: &[(&str, &str)], exit: i32| {
        let mut command = world.xtask(arguments);
        command.envs(variables.iter().copied());
        ends(command, exit)
    };
    let (by_proxy, trusted) =
        (("HTTPS_PROXY", format!("http://me:s3cret@{}", proxy.address)), ("SSL_CERT_FILE", authority));
    let both = [(by_proxy.0, by_proxy.1.as_str()), (trusted.0, trusted.1.as_str())];
    run(&["tools", "--update"], &both, 0);
    run(&["tools"], &both, 0);
    assert!(proxy.seen().iter().all(|head| head.starts_with("CONNECT files.example:443 ")), "{:?}", proxy.seen());
    assert!(server.seen().iter().all(|request| request.header("proxy-authorization").is_none()));
    let said = run(&["tools", "--update"], &both[..1], 8);
    assert!(said.contains("signed by an authority") && !said.contains("s3cret"), "{said}");
    // With the other certificates of this machine, if it has any.
    let said = run(&["tools", "--update"], &[both[0], ("SSL_CERT_FILE", "/nowhere/ca.pem")], 8);
    assert!(said.contains("/nowhere/ca.pem"), "{said}");
    let before = proxy.seen().len();
    run(&["tools", "--update"], &[both[0], both[1], ("NO_PROXY", "files.example")], 8);
    assert_eq!(proxy.seen().len(), before);
}

// On systems with a tmpfs.
#[cfg(target_os = "linux")]
#[test]
fn a_small_disk_is_told_before_a_download_begins() {
    let world = World::resolved();
    let before = world.asked();
    std::fs::create_dir_all(world.cache()).unwrap();
    let _mounted = SmallDisk::at(&world.cache());
    world.ends(&["tools"], 8, &["disk-full", "downloading helm", "a cache"]);
    assert_eq!(world.asked(), before);
}

#[test]
fn a_dry_run_says_where_each_tool_would_come_from_and_fetches_none() {
    let world = World::resolved();
    let said = world.ends(&["tools", "--dry-run"], 0, &["[helm] would download v", "[kubectl] would download v"]);
    assert!(!said.contains("export PATH"), "{said}");
    world.ends(&["tools", "--dry-run", "--from-source"], 0, &["[helm] would build v", "infra/tools/helm"]);
    assert_eq!(world.asked(), 0);
    assert!(!world.cache().join("bin").exists() && !world.cache().join("archives").exists());
    let said = world.ends(&["tools", "--output", "json"], 0, &[]);
    let values: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(values[0]["bin"].as_str().unwrap().ends_with("a cache/bin"), "{said}");
    let before = world.asked();
    world.ends(&["tools", "--dry-run"], 0, &["archives/helm-v"]);
    assert_eq!(world.asked(), before);
}

#[test]
fn go_is_missed_only_where_a_tool_has_to_be_built() {
    let world = World::new();
    let doctor = |world: &World| {
        let mut command = world.xtask(&["doctor"]);
        command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
        support::text(&command.output().unwrap())
    };
    let said = doctor(&world);
    assert!(said.contains("Go: not on PATH, and there is no other way to helm, kubectl"), "{said}");
    assert!(said.contains("run cargo xtask --env ci tools --update"), "{said}");
    world.ends(&["tools", "--update"], 0, &[]);
    let said = doctor(&world);
    assert!(said.contains("Go: not on PATH, and not needed"), "{said}");
    world.install_go();
    let said = doctor(&world);
    assert!(said.contains("bin/go"), "{said}");
}

#[test]
fn the_trees_own_list_names_an_archive_of_every_tool_for_every_platform() {
    let tree = xtask::repo::Tree::discover(Utf8Path::from_path(&support::root()).unwrap()).unwrap();
    let archives = xtask::world::tools::archives(&tree).unwrap();
    let tools = xtask::world::tools::pinned(&tree).unwrap();
    assert_eq!(archives.len(), tools.len() * PLATFORMS.len());
    let urls: Vec<&str> = archives.iter().flat_map(|it| [it.url.as_str(), it.checksums.as_str()]).collect();
    assert!(urls.iter().all(|url| url.starts_with("https://") && !url.contains(['{', '}'])), "{urls:?}");
    let of = |tool: &str| archives.iter().find(|it| it.tool == tool && it.platform == "linux/amd64").unwrap().clone();
    let helm = of("helm");
    assert_eq!(helm.url, format!("https://get.helm.sh/helm-{}-linux-amd64.tar.gz", helm.version));
    assert_eq!(helm.checksums, format!("{}.sha256sum", helm.url));
    assert_eq!(helm.member.as_deref(), Some("linux-amd64/helm"));
    let kubectl = of("kubectl");
    assert_eq!(kubectl.url, format!("https://dl.k8s.io/release/{}/bin/linux/amd64/kubectl", kubectl.version));
    let helmfile = of("helmfile");
    let number = helmfile.version.trim_start_matches('v');
    assert_eq!(helmfile.name(), format!("helmfile_{number}_linux_amd64.tar.gz"));
    assert!(helmfile.checksums.ends_with(&format!("/{}/helmfile_{number}_checksums.txt", helmfile.version)));
    assert_eq!(of("k3d").name(), "k3d-linux-amd64");
    xtask::world::tools::lock::Lock::read(&tree).unwrap();
}
