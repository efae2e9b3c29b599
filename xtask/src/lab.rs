//! The lab: what a machine without internet lacks, built from pinned Go modules and Debian
//! packages. `tests/lab/lab.yaml` lists its parts, `docs/lab.md` says what each replaces.
//! Everything else (k3d, Docker, Helm …) is the real thing.
//!
//! Each part is cached by content: an interrupted build continues where it stopped, and a second
//! one has nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use image_mirror::{Endpoint, ManifestCache};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::files::{self, digest};
use crate::mirror::{self, Origin, StandIn};
use crate::repo::{Repo, Tree, read_yaml};
use crate::run::Run;
use crate::run::context::Context;
use crate::run::wait;
use crate::world::docker::{self, Container, Kind, Looked, docker_output};
use crate::world::engine;
use crate::world::go::{Program, require_go};
use crate::world::process::{self, Job};
use crate::world::registry;
use run_record::{Code, Failure, Step, StepKind};

/// `tests/lab/lab.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LabFile {
    binaries: BTreeMap<String, Binary>,
    images: BTreeMap<String, Image>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Binary {
    /// A folder below `tests/lab/go`.
    module: String,
    package: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    /// The folder of the Dockerfile, below `tests/lab`.
    context: String,
    /// Copied into the build context as `bin/NAME`.
    #[serde(default)]
    binaries: Vec<String>,
    /// Other images of the lab, copied into the context as `archives/NAME.tar`.
    #[serde(default)]
    archives: Vec<String>,
    /// Folders from a Go module, copied into the context.
    #[serde(default)]
    files: Vec<ModuleFiles>,
    /// The name under which the lab's upstream registry serves it.
    upstream: Option<String>,
    role: Option<Role>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleFiles {
    module: String,
    go: String,
    path: String,
    to: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Node,
    Tools,
    Registry,
    Loadbalancer,
}

/// A lab that is built, with its upstream registry running.
#[derive(Clone, Debug)]
pub struct Lab {
    pub node: String,
    pub tools: String,
    pub registry: String,
    pub loadbalancer: String,
    /// The lock with what the images of `images.yaml` resolve to in the lab's upstream.
    pub lock: Utf8PathBuf,
}

/// The container that replaces Docker Hub and quay.io.
pub const UPSTREAM_CONTAINER: &str = "ameide-lab-upstream";
pub const UPSTREAM_ADDRESS: &str = "127.0.0.1:5555";

impl Lab {
    pub(crate) fn origin(&self) -> Origin {
        served(self.lock.clone())
    }
}

/// Where a cluster's images come from: the lab that it was created with, or public registries.
pub(crate) fn origin(repo: &Repo, lab: Option<&Lab>) -> Origin {
    lab.map_or_else(|| Origin::public(repo), Lab::origin)
}

/// Like [`Lab::origin`], for a lab that need not be built yet.
pub(crate) fn known_origin() -> Result<Origin, Failure> {
    lock_file().map(served)
}

fn served(lock: Utf8PathBuf) -> Origin {
    Origin { lock, stand_in: Some(StandIn { address: upstream_address(), hosts: &UPSTREAM_HOSTS }) }
}

/// The address for images of the lab's upstream: itself, or what `AMEIDE_LAB_UPSTREAM` puts in
/// front of it (host:port, plain HTTP), to limit or cut connections as public registries do.
fn upstream_address() -> String {
    let set = std::env::var("AMEIDE_LAB_UPSTREAM").ok().filter(|address| !address.is_empty());
    set.unwrap_or_else(|| UPSTREAM_ADDRESS.to_owned())
}

/// The registries that the lab's upstream replaces when a run uses the lab.
const UPSTREAM_HOSTS: [&str; 2] = ["docker.io", "quay.io"];

const SUITE: &str = "bookworm";

/// The lock with what the lab's upstream serves.
fn lock_file() -> Result<Utf8PathBuf, Failure> {
    Ok(files::cache_dir()?.join("lab/images.lock"))
}

/// Builds the missing parts of the lab and starts its upstream registry.
pub async fn ensure(context: &Context) -> Result<Lab, Failure> {
    // Runs on other clusters may need it too, and its containers and images have one name each.
    let told = || context.run.reporter.waiting("lab", "another run is building or starting it");
    let _turn = wait::turn(&files::cache_dir()?.join("lab/lock"), told).await?;
    let builder = Builder::new(&context.run, &context.repo).await?;
    let mut upstream = BTreeMap::new();
    for (name, image) in &builder.sources.file.images {
        let tag = builder.ensure_image(name).await?;
        if let Some(reference) = &image.upstream {
            upstream.insert(reference.clone(), tag);
        }
    }
    let tag = |role: Role| builder.sources.tag(builder.sources.name_of(role)?);
    let lab = Lab {
        node: tag(Role::Node)?,
        tools: tag(Role::Tools)?,
        registry: tag(Role::Registry)?,
        loadbalancer: tag(Role::Loadbalancer)?,
        lock: lock_file()?,
    };
    start_upstream(&lab.registry).await?;
    serve(context, &builder, &lab, &upstream).await?;
    Ok(lab)
}

/// The image that a node has to have now, whether or not it is built.
///
/// # Errors
/// `usage` for files of the lab that cannot be read.
pub(crate) fn node_image(tree: &Tree) -> Result<String, Failure> {
    let sources = Sources::read(tree)?;
    sources.tag(sources.name_of(Role::Node)?)
}

/// What the lab is built from.
struct Sources {
    file: LabFile,
    folder: Utf8PathBuf,
}

impl Sources {
    fn read(tree: &Tree) -> Result<Self, Failure> {
        let folder = tree.path("tests/lab");
        Ok(Self { file: read_yaml(&folder.join("lab.yaml"))?, folder })
    }

    fn name_of(&self, role: Role) -> Result<&str, Failure> {
        let found = self.file.images.iter().find(|(_, image)| image.role == Some(role));
        found
            .map(|(name, _)| name.as_str())
            .ok_or_else(|| Failure::usage(format!("tests/lab/lab.yaml: no image has the role {role:?}")))
    }

    fn image(&self, name: &str) -> Result<&Image, Failure> {
        self.file.images.get(name).ok_or_else(|| Failure::usage(format!("tests/lab/lab.yaml: no image {name:?}")))
    }

    fn program(&self, name: &str) -> Result<Program, Failure> {
        let binary = self
            .file
            .binaries
            .get(name)
            .ok_or_else(|| Failure::usage(format!("tests/lab/lab.yaml: no binary {name:?}")))?;
        Ok(Program {
            name: name.to_owned(),
            module: self.folder.join("go").join(&binary.module),
            package: binary.package.clone(),
            stamp: None,
        })
    }

    fn dockerfile_uses_base(&self, image: &Image) -> bool {
        std::fs::read_to_string(self.folder.join(&image.context).join("Dockerfile"))
            .is_ok_and(|text| text.contains("${BASE}"))
    }

    /// A digest of everything that goes into the image.
    fn key(&self, name: &str) -> Result<String, Failure> {
        let image = self.image(name)?;
        let mut hash = Sha256::new();
        let folder = self.folder.join(&image.context);
        digest::update(&mut hash, &folder, &digest::files_below(&folder)?)?;
        if self.dockerfile_uses_base(image) {
            hash.update(base_key());
        }
        for binary in &image.binaries {
            hash.update(self.program(binary)?.key()?);
        }
        for archive in &image.archives {
            hash.update(self.key(archive)?);
        }
        for files in &image.files {
            let sums = self.folder.join("go").join(&files.module).join("go.sum");
            hash.update(format!("{files:?}"));
            hash.update(std::fs::read(&sums).unwrap_or_default());
        }
        Ok(digest::short(hash))
    }

    fn tag(&self, name: &str) -> Result<String, Failure> {
        Ok(format!("ameide-lab/{name}:{}", self.key(name)?))
    }
}

struct Builder<'a> {
    run: &'a Run,
    sources: Sources,
    cache: Utf8PathBuf,
    /// The images that existed at the start, listed once.
    there: BTreeSet<String>,
}

impl<'a> Builder<'a> {
    async fn new(run: &'a Run, repo: &Repo) -> Result<Self, Failure> {
        let sources = Sources::read(&repo.tree)?;
        let cache = files::cache_dir()?.join("lab");
        let there = engine::image_tags("ameide-lab/*").await?;
        Ok(Self { run, sources, cache, there })
    }

    async fn ensure_image(&self, name: &str) -> Result<String, Failure> {
        let tag = self.sources.tag(name)?;
        if self.there.contains(&tag) || image_exists(&tag).await? {
            return Ok(tag);
        }
        let image = self.sources.image(name)?;
        for archive in &image.archives {
            Box::pin(self.ensure_image(archive)).await?;
        }
        let base = if self.sources.dockerfile_uses_base(image) { Some(self.ensure_base().await?) } else { None };
        let stage = self.stage(image).await?;
        let reporter = &self.run.reporter;
        let log = self.run.log(&format!("lab-{name}"));
        let text = format!("building the image {name}");
        let step = reporter.step(Step::new(StepKind::ImageBuild, "lab", text).logging_to(&log));
        let mut command = docker::docker(["build", "--network", "host", "-t", &tag]);
        if let Some(base) = base {
            command.arg("--build-arg").arg(format!("BASE={base}"));
        }
        // The classic builder, because Debian's package has no buildx.
        command.arg(stage.path()).env("DOCKER_BUILDKIT", "0");
        let ended = Job { command, log: &log, inherit: None }
            .run_to_end(|line| reporter.progress(&format!("[lab] {name}: {line}")))
            .await?;
        if !ended.status.success() {
            return Err(Failure::new(Code::LabBuildFailed, format!("building the lab's image {name} failed"))
                .evidence(ended.tail.last().cloned().unwrap_or_default())
                .log(log));
        }
        step.done_as(format!("built the image {name}"));
        Ok(tag)
    }

    /// The build context: the image's folder with binaries, archives and files added.
    async fn stage(&self, image: &Image) -> Result<tempfile::TempDir, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Code::DiskFull, format!("cannot lay out a build context in {}: {error}", self.cache))
        };
        let stage = tempfile::tempdir_in(&self.cache).map_err(failed)?;
        let target =
            Utf8Path::from_path(stage.path()).ok_or_else(|| Failure::usage("the cache folder's name is not UTF-8"))?;
        copy_folder(&self.sources.folder.join(&image.context), target).map_err(failed)?;
        for binary in &image.binaries {
            let built = self.sources.program(binary)?.build(&files::cache_dir()?, &self.run.reporter).await?;
            std::fs::create_dir_all(target.join("bin")).map_err(failed)?;
            std::fs::copy(&built, target.join("bin").join(binary)).map_err(failed)?;
        }
        for archive in &image.archives {
            std::fs::create_dir_all(target.join("archives")).map_err(failed)?;
            let path = target.join("archives").join(format!("{archive}.tar"));
            // Saved under a fixed name that the node can rely on, whatever the content's key.
            let stable = format!("ameide-lab/{archive}:lab");
            docker_output(["tag", &self.sources.tag(archive)?, &stable]).await?;
            docker_output(["save", "-o", path.as_str(), &stable]).await?;
        }
        for files in &image.files {
            let folder = go_module_folder(&self.sources.folder.join("go").join(&files.module), &files.go).await?;
            copy_folder(&folder.join(&files.path), &target.join(&files.to)).map_err(failed)?;
        }
        Ok(stage)
    }

    /// A minimal Debian, built on this machine: the base of the lab's images.
    async fn ensure_base(&self) -> Result<String, Failure> {
        let tag = format!("ameide-lab/base:{}", base_key());
        if image_exists(&tag).await? {
            return Ok(tag);
        }
        let reporter = &self.run.reporter;
        if which::which("debootstrap").is_err() && !std::path::Path::new("/usr/sbin/debootstrap").exists() {
            let mut command = process::command("apt-get");
            command
                .args(["install", "-y", "--no-install-recommends", "debootstrap"])
                .env("DEBIAN_FRONTEND", "noninteractive");
            self.job("apt", command, "debootstrap is needed: apt-get install debootstrap").await?;
        }
        files::require_free(&self.cache, 2 << 30, "the lab's base image")?;
        let step = Step::new(StepKind::ImageBuild, "lab", "building the base image (debootstrap)");
        let step = reporter.step(step.logging_to(&self.run.log("lab-base")));
        let folder =
            tempfile::tempdir_in(&self.cache).map_err(|error| Failure::usage(format!("{}: {error}", self.cache)))?;
        let root = folder.path().join("root");
        let mut command = process::command("debootstrap");
        command.args(["--variant=minbase", "--include=ca-certificates", SUITE]).arg(&root);
        command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        self.job("lab-base", command, "debootstrap works only for root on a Debian-like machine").await?;
        let archive = folder.path().join("root.tar");
        let mut command = process::command("tar");
        command.arg("-C").arg(&root).arg("--exclude=./var/cache/apt/archives/*.deb").arg("-cf").arg(&archive).arg(".");
        self.job("lab-base", command, "is the disk full?").await?;
        let mut command = docker::docker(["import"]);
        command.arg(&archive).arg(&tag);
        self.job("lab-base", command, "is the disk full?").await?;
        step.done_as("built the base image (debootstrap)");
        Ok(tag)
    }

    async fn job(&self, log: &str, command: tokio::process::Command, remedy: &str) -> Result<(), Failure> {
        let shown = command.as_std().get_program().to_string_lossy().into_owned();
        let log = self.run.log(log);
        let ended = Job { command, log: &log, inherit: None }
            .run_to_end(|line| self.run.reporter.progress(&format!("[lab] {line}")))
            .await?;
        if ended.status.success() {
            return Ok(());
        }
        Err(Failure::new(Code::LabBuildFailed, format!("`{shown}` failed while the lab was built"))
            .evidence(ended.tail.last().cloned().unwrap_or_default())
            .remedy(remedy)
            .log(log))
    }
}

fn base_key() -> String {
    let mut hash = Sha256::new();
    hash.update(format!("debootstrap minbase ca-certificates {SUITE} 1 {}", std::env::consts::ARCH));
    digest::short(hash)
}

async fn image_exists(tag: &str) -> Result<bool, Failure> {
    Ok(docker::look::<docker::Image>(Kind::Image, tag).await?.found().is_some())
}

async fn go_module_folder(module: &Utf8Path, go: &str) -> Result<Utf8PathBuf, Failure> {
    let mut command = process::command(require_go()?);
    command.current_dir(module).args(["mod", "download", "-json", go]).env("GOTOOLCHAIN", "local");
    let failed = |error: String| Failure::usage(format!("{module}: cannot find the module {go}: {error}"));
    let output = process::capture_within(command, process::ACT).await.map_err(|error| failed(error.to_string()))?;
    let output = output.ok().map_err(failed)?;
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Downloaded {
        dir: Utf8PathBuf,
    }
    let downloaded: Downloaded = serde_json::from_str(&output).map_err(|error| failed(error.to_string()))?;
    Ok(downloaded.dir)
}

/// Copies a folder's content. Go's module cache is read-only; the copies are writable.
fn copy_folder(from: &Utf8Path, to: &Utf8Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in from.read_dir_utf8()? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(entry.path(), &target)?;
        } else {
            let mut content = std::fs::File::open(entry.path())?;
            let mut copy = std::fs::File::create(&target)?;
            std::io::copy(&mut content, &mut copy)?;
            use std::os::unix::fs::PermissionsExt;
            let mode = entry.metadata()?.permissions().mode() | 0o600;
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Runs the upstream registry; its content is in a separate volume.
async fn start_upstream(image: &str) -> Result<(), Failure> {
    let runs = match docker::look::<Container>(Kind::Container, UPSTREAM_CONTAINER).await? {
        Looked::Absent => false,
        Looked::Found(container) if container.config.image == image && container.runs() => true,
        Looked::Found(container) => {
            let started = container.config.image == image
                && match docker_output([container.starting(), &container.id]).await {
                    Ok(_) => true,
                    Err(refused) if refused.code == Code::DockerFailed => false,
                    Err(failure) => return Err(failure),
                };
            if !started {
                remove_upstream(&container).await?;
            }
            started
        }
    };
    if !runs {
        let publish = format!("{UPSTREAM_ADDRESS}:5000");
        let volume = format!("{UPSTREAM_CONTAINER}:/var/lib/registry");
        let mut arguments = vec!["run", "-d", "--name", UPSTREAM_CONTAINER, "--label", "ameide.dev/lab=upstream"];
        arguments.extend(["-p", &publish, "-v", &volume, image]);
        docker_output(arguments).await?;
    }
    registry::wait_until_it_answers(&Endpoint::named(UPSTREAM_ADDRESS), Duration::from_secs(30)).await
}

/// Removes the upstream's container, whose content is known to be in a volume, which stays.
async fn remove_upstream(container: &Container) -> Result<(), Failure> {
    let ours = container.label("ameide.dev/lab") == Some("upstream")
        && container.keeps_in_volume("/var/lib/registry", UPSTREAM_CONTAINER);
    if !ours {
        let message = format!("there is a container {UPSTREAM_CONTAINER}, which is not the lab's");
        return Err(Failure::new(Code::NotOurs, message)
            .evidence("it lacks the label ameide.dev/lab=upstream, or the volume of that name")
            .remedy(format!("docker inspect {UPSTREAM_CONTAINER} shows what it is; rename or remove it")));
    }
    docker_output(["rm", "-f", &container.id]).await.map(drop)
}

/// Pushes what the upstream registry lacks and writes the lab's lock.
async fn serve(
    context: &Context,
    builder: &Builder<'_>,
    lab: &Lab,
    upstream: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let pushed_path = builder.cache.join("pushed.json");
    let pushed: BTreeMap<String, String> = std::fs::read_to_string(&pushed_path)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    if &pushed == upstream
        && lab.lock.is_file()
        && mirror::is_served(&context.repo, &context.site, &lab.origin()).await?
    {
        return Ok(());
    }
    for (reference, tag) in upstream {
        let step = context.run.reporter.step(Step::new(StepKind::Lab, "lab", format!("serving {reference}")));
        let path = reference.split_once('/').map_or(reference.as_str(), |(_, path)| path);
        let target = format!("{UPSTREAM_ADDRESS}/{path}");
        docker_output(["tag", tag, &target]).await?;
        docker_output(["push", "--quiet", &target]).await?;
        docker_output(["rmi", &target]).await?;
        step.done();
    }
    mirror::resolve(context, &lab.origin(), &[], &ManifestCache::default()).await?;
    let text = serde_json::to_string_pretty(upstream).unwrap_or_default();
    files::write_atomically(&pushed_path, text.as_bytes())
        .map_err(|error| Failure::new(Code::DiskFull, format!("cannot write {pushed_path}: {error}")))
}
