//! What Helmfile makes of a layer's file: its releases, and what they render. Every query uses the
//! same flags, environment and selector as the sync that may follow.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use camino::Utf8PathBuf;
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::images;
use super::objects::Objects;
use crate::files;
use crate::lab::{self, Lab};
use crate::mirror::Origin;
use crate::releases::{history, manifest};
use crate::repo;
use crate::repo::layers::Layer;
use crate::run::context::Context;
use crate::world::helmfile::{self, NO_RELEASES};
use crate::world::kubernetes;
use crate::world::process::{self, capture};
use crate::world::release::Release;
use crate::world::tools::{self, Toolbox};
use run_record::{Code, Failure};

/// Queries Helmfile about layers.
#[derive(Clone)]
pub struct Reader<'a> {
    pub context: &'a Context,
    toolbox: &'a Toolbox,
    /// Where the images come from.
    pub origin: Origin,
    /// Their lock as it was read, which is what every query passes on whatever becomes of the file.
    pub lock: Vec<u8>,
    /// The file that passes it on.
    values: Utf8PathBuf,
    /// Helmfile's label selector, where a part of a layer is asked for.
    pub selector: Option<&'a str>,
    /// Whether its queries leave the processor to others.
    in_the_background: bool,
}

/// How releases are rendered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct How {
    /// With the cluster's answers to charts that query it.
    pub asking: bool,
    /// For an upgrade of all of them (`.Release.IsUpgrade`), which may differ from an install.
    pub upgrading: bool,
    /// Including the content of a chart's `crds` folder.
    pub crds: bool,
}

impl<'a> Reader<'a> {
    /// # Errors
    /// An image lock that cannot be read or passed on.
    pub fn new(
        context: &'a Context,
        toolbox: &'a Toolbox,
        origin: Origin,
        selector: Option<&'a str>,
    ) -> Result<Self, Failure> {
        let lock = repo::read(&origin.lock)?;
        let content: Value = repo::parse_yaml(&origin.lock, &lock)?;
        let values = context.run.dir.join("images-lock.json");
        let text = serde_json::json!({"imagesLock": content}).to_string();
        // Parallel layers share it.
        files::write_atomically(&values, text.as_bytes())
            .map_err(|error| Failure::new(Code::DiskFull, format!("cannot write {values}: {error}")))?;
        Ok(Self { context, toolbox, origin, lock: lock.into_bytes(), values, selector, in_the_background: false })
    }

    /// The same, asking about whole layers.
    pub fn of_whole_layers(&self) -> Self {
        Self { selector: None, ..self.clone() }
    }

    /// The same, for what nobody waits for yet.
    pub fn in_the_background(&self) -> Self {
        Self { in_the_background: true, ..self.clone() }
    }

    /// Helmfile's selectors of what this reader asks about; none for whole layers.
    pub fn selectors(&self) -> Vec<String> {
        self.selector.map(str::to_owned).into_iter().collect()
    }

    /// Helmfile's selectors of `part` alone, some of the `listed` releases of a layer.
    pub fn selectors_of(&self, part: &[Release], listed: &[Release], default_namespace: &str) -> Vec<String> {
        part.iter().map(|release| selector_of(release, listed, default_namespace, self.selector)).collect()
    }

    pub fn helmfile_on(&self, layer: &Layer, selectors: &[String], arguments: &[&str]) -> tokio::process::Command {
        let selected: Vec<&str> = selectors.iter().flat_map(|selector| ["--selector", selector]).collect();
        let mut command = helmfile::command(self.context, self.toolbox, layer);
        command.args(selected).args(arguments).args(["--state-values-file", self.values.as_str()]);
        command.envs(variables(self.context));
        command
    }

    /// The layer's releases, as Helmfile reads the tree; none if no release matches the selector.
    pub async fn releases(&self, layer: &Layer, default_namespace: &str) -> Result<Vec<Release>, Failure> {
        self.releases_in(layer, self.list(layer).await?.as_deref(), default_namespace)
    }

    /// Helmfile's list of the layer's releases, as JSON; `None` if none is selected.
    pub async fn list(&self, layer: &Layer) -> Result<Option<String>, Failure> {
        self.read(layer, &["list", "--output", "json"]).await
    }

    /// The releases in such a list.
    pub fn releases_in(
        &self,
        layer: &Layer,
        list: Option<&str>,
        default_namespace: &str,
    ) -> Result<Vec<Release>, Failure> {
        list.map_or(Ok(Vec::new()), |text| listed(text, default_namespace))
            .map_err(|error| self.unreadable(layer, "list", format!("`helmfile list` printed no list: {error}")))
    }

    /// Everything that the layer's releases would put into the cluster, including hooks, tests and
    /// CRDs.
    pub async fn render(&self, layer: &Layer) -> Result<String, Failure> {
        Ok(self.read(layer, &["--quiet", "template", "--include-crds"]).await?.unwrap_or_default())
    }

    /// What the cluster would now be given, by release. A release without a namespace has the default
    /// one, as in [`Self::releases`].
    pub async fn rendered(&self, layer: &Layer, default_namespace: &str, how: How) -> Result<Rendered, Failure> {
        self.rendered_on(layer, &self.selectors(), default_namespace, how).await
    }

    async fn rendered_on(
        &self,
        layer: &Layer,
        selectors: &[String],
        default_namespace: &str,
        how: How,
    ) -> Result<Rendered, Failure> {
        let folder = tempfile::tempdir();
        let folder =
            folder.map_err(|error| self.unreadable(layer, "template", format!("no temporary folder: {error}")))?;
        let root = folder.path().to_string_lossy();
        let place = format!(
            "{{{{ .OutputDir }}}}/{{{{ or .Release.Namespace {default_namespace:?} }}}}/{{{{ .Release.Name }}}}"
        );
        let mut arguments = vec!["--quiet", "template", "--output-dir", &root, "--output-dir-template", &place];
        let flags = [how.asking.then_some("--dry-run=server"), how.upgrading.then_some("--is-upgrade")];
        let flags: Vec<&str> = flags.into_iter().flatten().collect();
        let flags = format!("--template-args={}", flags.join(" "));
        arguments.extend((how.asking || how.upgrading).then_some(flags.as_str()));
        arguments.extend(how.crds.then_some("--include-crds"));
        self.read_on(layer, selectors, &arguments).await?;
        rendered_below(folder.path()).map_err(|error| self.unreadable(layer, "template", error))
    }

    /// What these releases, which have revisions, would now be upgraded to.
    ///
    /// # Errors
    /// What cannot be rendered, neither with the cluster's answers nor without: Helm could not either.
    pub async fn for_an_upgrade(
        &self,
        layer: &Layer,
        of: &[Release],
        default_namespace: &str,
    ) -> Result<Rendered, Failure> {
        let only: Vec<String> = of.iter().map(|release| format!("name={}", release.name)).collect();
        let how = How { asking: true, upgrading: true, crds: false };
        match self.rendered_on(layer, &only, default_namespace, how).await {
            Err(failure) if failure.code == Code::RenderFailed => {
                self.rendered_on(layer, &only, default_namespace, How { asking: false, ..how }).await
            }
            rendered => rendered,
        }
    }

    /// Helmfile's output for a layer's file; `None` if none of its releases is selected.
    pub async fn read(&self, layer: &Layer, arguments: &[&str]) -> Result<Option<String>, Failure> {
        self.read_on(layer, &self.selectors(), arguments).await
    }

    async fn read_on(
        &self,
        layer: &Layer,
        selectors: &[String],
        arguments: &[&str],
    ) -> Result<Option<String>, Failure> {
        let verb = arguments.iter().find(|word| !word.starts_with('-')).copied().unwrap_or_default();
        // Rendered values are in them, and a Helmfile that is killed leaves them behind.
        let temporary = tempfile::tempdir();
        let temporary =
            temporary.map_err(|error| self.unreadable(layer, verb, format!("no temporary folder: {error}")))?;
        let ask = async || {
            let mut command = self.helmfile_on(layer, selectors, arguments);
            // Helmfile does not use its own variable for all of them, and deletes the folder that it names.
            command.env("TMPDIR", temporary.path()).env_remove("HELMFILE_TEMPDIR");
            if self.in_the_background {
                process::in_the_background(&mut command);
            }
            let captured = capture(command).await;
            captured.map_err(|failure| match failure.code {
                // This says nothing about the file.
                Code::NoAnswer | Code::Interrupted => failure,
                _ => self.unreadable(layer, verb, failure.to_string()),
            })
        };
        let mut captured = ask().await?;
        // It was killed, which says nothing about the file; it changes nothing, so it is run again.
        if captured.status.signal().is_some() {
            captured = ask().await?;
        }
        if captured.status.success() {
            return Ok(Some(captured.stdout));
        }
        if captured.stderr.contains(NO_RELEASES) {
            return Ok(None);
        }
        if let (Some(selector), Some(line)) =
            (self.selector, captured.stderr.lines().find(|line| line.contains(MALFORMED_SELECTOR)))
        {
            return Err(Failure::usage(format!(
                "the selector {selector:?} (-l, HELM_LAYER_SELECTOR) is not a valid Helmfile selector"
            ))
            .evidence(line.trim()));
        }
        // The cause is in the last non-empty lines; the first ones repeat the file.
        let lines: Vec<&str> = captured.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>();
        Err(self.unreadable(layer, verb, last.join(" | ")))
    }

    fn unreadable(&self, layer: &Layer, verb: &str, evidence: String) -> Failure {
        helmfile::unreadable(&self.context.repo, layer, &[verb], evidence)
    }

    /// Checks that every image that the layer renders is in the mirror, with the lock's digest, for
    /// the nodes' platforms.
    pub async fn check_images(
        &self,
        layer: &Layer,
        manifests: &str,
        client: Option<&Client>,
    ) -> Result<usize, Failure> {
        let platforms = match client {
            Some(client) => match images::node_platforms(client).await {
                // Reading nodes takes a cluster-wide right; without it only the images' presence is
                // checked.
                Err(failure) if failure.code == Code::Forbidden => {
                    let text = format!("not checking the nodes' platforms: {}", failure.message);
                    self.context.run.reporter.note(&layer.name(), text);
                    Vec::new()
                }
                platforms => platforms?,
            },
            None => Vec::new(),
        };
        let places = images::Places::of(&self.context.repo.tree)?;
        let named = images::images(manifests, &places).map_err(|error| self.unreadable(layer, "template", error))?;
        let lock = self.origin.read_lock(&self.context.repo)?;
        let exempt = self.context.repo.tree.layer_needs()?.unmirrored;
        images::check(&layer.name(), &named, &self.context.repo.env.registry.pull, &lock, &platforms, &exempt)?;
        Ok(named.len())
    }
}

/// What a Helmfile that reads a layer has in its environment beside what any Helmfile on the cluster
/// has: the inputs of a layer are compared by it too.
pub(super) fn variables(context: &Context) -> [(&'static str, String); 4] {
    [
        // So that a rendering only depends on what it is given.
        ("HELMFILE_DISABLE_INSECURE_TEMPLATE_FUNCTIONS", "true".to_owned()),
        ("HELMFILE_DISABLE_HOOKS", "true".to_owned()),
        ("AMEIDE_RUN", context.run.id.clone()),
        ("AMEIDE_BY", history::by_label()),
    ]
}

/// Checks that every image rendered by any layer is in the mirror with the lock's digest; if the
/// cluster answers, for its nodes too. Returns how many there are.
pub async fn check_all_images(context: &Context, lab: Option<&Lab>) -> Result<usize, Failure> {
    let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
    let reader = Reader::new(context, &toolbox, lab::origin(&context.repo, lab), None)?;
    context.repo.k3d_config()?;
    let client = match kubernetes::client(context).await {
        Ok(client) if kubernetes::ready(&client).await.is_ok() => Some(client),
        _ => None,
    };
    let layers = context.repo.tree.layers()?;
    let checks = layers.iter().map(|layer| async {
        let manifests = reader.render(layer).await?;
        reader.check_images(layer, &manifests, client.as_ref()).await
    });
    let mut failed: Option<Failure> = None;
    let mut count = 0;
    for check in futures_util::future::join_all(checks).await {
        match (check, &mut failed) {
            (Ok(images), _) => count += images,
            (Err(failure), None) => failed = Some(failure),
            (Err(failure), Some(first)) => {
                first.evidence.push(format!("also {failure}"));
                first.evidence.extend(failure.evidence);
            }
        }
    }
    failed.map_or(Ok(count), Err)
}

/// Parses `helmfile list`: only releases that Helmfile would act on; what it ignores does not count
/// as wanted.
pub(crate) fn listed(json: &str, default_namespace: &str) -> Result<Vec<Release>, String> {
    let releases: Vec<Release> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let mut enabled: Vec<Release> = releases.into_iter().filter(|release| release.enabled).collect();
    // One without a namespace goes to that of the kubeconfig's context.
    let nowhere = enabled.iter_mut().filter(|release| release.namespace.is_empty());
    nowhere.for_each(|release| release.namespace = default_namespace.to_owned());
    Ok(enabled)
}

/// Helmfile's selector of one of the `listed` releases, which were asked for `within` a selector. One
/// in the default namespace may have none in its file: then its label `namespace` is empty, for which
/// no selector can ask, so its namesakes are left out instead.
fn selector_of(release: &Release, listed: &[Release], default_namespace: &str, within: Option<&str>) -> String {
    let name = format!("name={}", release.name);
    if release.namespace != default_namespace {
        return format!("{name},namespace={}", release.namespace);
    }
    let namesakes = listed.iter().filter(|other| other.name == release.name && other.namespace != release.namespace);
    let others = namesakes.map(|other| format!("namespace!={}", other.namespace));
    within.map(str::to_owned).into_iter().chain([name]).chain(others).collect::<Vec<_>>().join(",")
}

/// Helmfile's message for an invalid selector (`ParseLabels`).
const MALFORMED_SELECTOR: &str = "malformed label";

/// The image lock, as written.
pub(crate) fn bytes(origin: &Origin) -> Result<Vec<u8>, Failure> {
    let path = &origin.lock;
    std::fs::read(path).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))
}

/// The objects of a release, by its namespace and name.
pub(crate) type Rendered = BTreeMap<(String, String), Objects>;

/// The objects in a folder where Helm wrote them, `NAMESPACE/NAME` each.
///
/// # Errors
/// What cannot be read, or is not YAML: only its position, never its text, which includes Secrets.
fn rendered_below(folder: &Path) -> Result<Rendered, String> {
    let mut found = Rendered::new();
    for namespace in folders(folder)? {
        for release in folders(&namespace)? {
            let (mut templates, mut crds) = (Vec::new(), Vec::new());
            read_below(&release, &release, &mut templates, &mut crds)?;
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.insert((name(&namespace), name(&release)), Objects::of(templates, crds));
        }
    }
    Ok(found)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let entries: Vec<std::fs::DirEntry> =
        std::fs::read_dir(folder).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn read_below(release: &Path, folder: &Path, templates: &mut Vec<Value>, crds: &mut Vec<Value>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            read_below(release, &path, templates, crds)?;
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let parsed = manifest::parse(&text).map_err(|place| format!("what it renders is not YAML{place}"))?;
        let of_crds = is_of_crds(path.strip_prefix(release).unwrap_or(&path));
        let to = if of_crds { &mut *crds } else { &mut *templates };
        to.extend(parsed.into_iter().map(|(object, _)| object));
    }
    Ok(())
}

/// `CHART/crds/…`, `CHART/charts/OTHER/crds/…`, but not a folder of that name among templates.
fn is_of_crds(path: &Path) -> bool {
    let mut names = path.components().map(|part| part.as_os_str());
    names.find(|name| *name == "templates" || *name == "crds").is_some_and(|name| name == "crds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_definitions_is_told_from_templates_of_that_name() {
        for (path, is) in [
            ("web/crds/x.yaml", true),
            ("web/charts/db/crds/x.yaml", true),
            ("web/templates/crds/x.yaml", false),
            ("web/templates/x.yaml", false),
            ("web/charts/db/templates/crds/x.yaml", false),
        ] {
            assert_eq!(is_of_crds(Path::new(path)), is, "{path}");
        }
    }

    #[test]
    fn a_release_that_may_have_no_namespace_is_selected_without_one() {
        let release = |(name, namespace): (&str, &str)| Release {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            enabled: true,
            installed: true,
        };
        let listed = [("a", "default"), ("a", "x"), ("a", "y"), ("b", "default"), ("b2", "x")].map(release);
        for (of, within, selector) in [
            (("a", "default"), None, "name=a,namespace!=x,namespace!=y"),
            (("a", "x"), None, "name=a,namespace=x"),
            (("b", "default"), None, "name=b"),
            // What the selector leaves out is not listed.
            (("b", "default"), Some("tier=f"), "tier=f,name=b"),
            (("b2", "x"), Some("tier=f"), "name=b2,namespace=x"),
        ] {
            assert_eq!(selector_of(&release(of), &listed, "default", within), selector, "{of:?}");
        }
    }

    #[test]
    fn what_helmfile_leaves_alone_is_no_release_of_the_layer() {
        // As Helmfile 1.8.0 prints it.
        let json = r#"[{"name":"a","namespace":"x","enabled":true,"installed":true,"labels":"","chart":"c","version":""},
            {"name":"off","namespace":"x","enabled":false,"installed":true,"labels":"","chart":"c","version":""},
            {"name":"gone","namespace":"x","enabled":true,"installed":false,"labels":"","chart":"c","version":""},
            {"name":"b","namespace":"","enabled":true,"installed":true,"labels":"","chart":"c","version":""}]"#;
        let found: Vec<(String, String, bool)> = listed(json, "default")
            .unwrap()
            .into_iter()
            .map(|release| (release.name, release.namespace, release.installed))
            .collect();
        let row = |name: &str, namespace: &str, installed| (name.to_owned(), namespace.to_owned(), installed);
        assert_eq!(found, [row("a", "x", true), row("gone", "x", false), row("b", "default", true)]);
        assert!(listed("Listing releases", "default").is_err());
    }
}
