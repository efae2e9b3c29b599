//! A saved plan: what a preview found in the tree, the releases and their objects, so that a later
//! run does exactly that, or says what has changed since. It contains digests and names, and
//! nothing secret.

use std::collections::BTreeMap;

use camino::Utf8Path;
use jiff::Timestamp;
use kube::Client;
use serde::{Deserialize, Serialize};

use super::Args;
use super::preview::{LayerPreview, Stood, owns};
use crate::compare::inputs::{self, Parts};
use crate::compare::live::{self, Made, Standing};
use crate::compare::look::{Look, Snapshot};
use crate::compare::reader::{self, Reader};
use crate::compare::record::{self, Named};
use crate::files;
use crate::files::bounds;
use crate::repo::Repo;
use crate::repo::layers::Layer;
use crate::run::context::{Context, Site};
use crate::world::helm_storage;
use crate::world::kubernetes::place::Place;
use crate::world::release::Release;
use crate::world::tools;
use run_record::preview::Act;
use run_record::{Code, Failure};

/// The file format; another number is no plan of this program.
const FORMAT: u32 = 1;

/// The options that the run was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    selector: Option<String>,
    skip_tests: bool,
    force: bool,
    force_conflicts: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    format: u32,
    /// When it was made, by this machine's clock.
    made: Timestamp,
    environment: String,
    context: String,
    /// The uid of the cluster's namespace kube-system.
    cluster: String,
    asked: Asked,
    layers: Vec<PlannedLayer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlannedLayer {
    layer: String,
    inputs: Parts,
    /// What the inputs cannot tell: then only the rendering shows whether it is the same.
    doubts: Vec<String>,
    releases: Vec<PlannedRelease>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlannedRelease {
    #[serde(flatten)]
    named: Named,
    act: Act,
    /// The newest revision and the uid of its Secret.
    revision: Option<(u32, String)>,
    /// The digest of its rendering; `None` if that was not needed.
    rendered: Option<String>,
    objects: Vec<Stood>,
}

impl Plan {
    /// From the results of these previews.
    ///
    /// # Errors
    /// `usage` if one of them was not compared with the cluster.
    pub fn of(repo: &Repo, site: &Site, previews: &[LayerPreview], args: &Args) -> Result<Self, Failure> {
        let mut layers = Vec::new();
        let mut cluster = String::new();
        for preview in previews {
            let (Some(sight), Some(inputs)) = (&preview.sight, &preview.inputs) else {
                let text = format!("--save-plan: {} was not compared with the cluster", preview.layer.name());
                return Err(Failure::usage(text).remedy("make the cluster reachable, then save the plan again"));
            };
            cluster.clone_from(&preview.cluster);
            let digests = preview.rendered.as_ref().map(record::digests).unwrap_or_default();
            let shown = sight.releases.iter().zip(&preview.releases).zip(&preview.stood);
            let releases = shown.map(|((found, shown), stood)| PlannedRelease {
                revision: found.revision().map(|newest| (newest.revision, newest.uid.clone().unwrap_or_default())),
                rendered: digests.get(&(found.named.namespace.clone(), found.named.name.clone())).cloned(),
                act: shown.act,
                named: found.named.clone(),
                objects: stood.clone(),
            });
            layers.push(PlannedLayer {
                layer: preview.layer.name(),
                inputs: inputs::kept(&inputs.parts, sight.releases.iter().map(|found| &*found.named.namespace)),
                doubts: inputs.doubts.clone(),
                releases: releases.collect(),
            });
        }
        let asked = Asked {
            selector: args.selector().map(str::to_owned),
            skip_tests: args.skip_tests,
            force: args.force,
            force_conflicts: args.force_conflicts,
        };
        Ok(Self {
            format: FORMAT,
            made: Timestamp::now(),
            environment: repo.env_name.clone(),
            context: site.kube_context.clone(),
            cluster,
            asked,
            layers,
        })
    }

    /// # Errors
    /// `usage` if the file cannot be written.
    pub fn write(&self, path: &Utf8Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Failure::usage(error.to_string()))? + "\n";
        files::write_atomically(path, text.as_bytes())
            .map_err(|error| Failure::usage(format!("--save-plan {path}: {error}")))
    }

    /// # Errors
    /// `usage` for a file that cannot be read, is not a plan, or has another version.
    pub fn read(path: &Utf8Path) -> Result<Self, Failure> {
        let text =
            bounds::read(path, bounds::SETTINGS).map_err(|error| Failure::usage(format!("--plan {path}: {error}")))?;
        let format = serde_json::from_str::<serde_json::Value>(&text).ok();
        match format.as_ref().and_then(|value| value.get("format")).and_then(serde_json::Value::as_u64) {
            Some(format) if format != u64::from(FORMAT) => {
                let text = format!("--plan {path}: its format is {format}, and this xtask knows {FORMAT}");
                return Err(Failure::usage(text).remedy("save the plan again with this xtask"));
            }
            _ => {}
        }
        serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("--plan {path}: expected a file that --save-plan wrote: {error}")))
    }

    /// The layers that it is for.
    pub fn layers(&self) -> Vec<String> {
        self.layers.iter().map(|layer| layer.layer.clone()).collect()
    }

    /// With the plan's options instead of flags.
    pub fn asks(&self, args: &Args) -> Args {
        let Asked { selector, skip_tests, force, force_conflicts } = self.asked.clone();
        Args { selector, skip_tests, force, force_conflicts, ..args.clone() }
    }

    /// What is done about a release of a layer; `None` for one that is not in the plan.
    pub fn act(&self, layer: &Layer, release: &Release) -> Option<Act> {
        let planned = self.layers.iter().find(|planned| planned.layer == layer.name())?;
        let is =
            |known: &&PlannedRelease| known.named.name == release.name && known.named.namespace == release.namespace;
        planned.releases.iter().find(is).map(|known| known.act)
    }

    /// Checks that everything is as it was when the plan was made, for all its layers or for `only`
    /// this one: before anything is changed, and while nobody else may.
    ///
    /// # Errors
    /// `plan-outdated` with everything that has changed since; errors from reading.
    pub async fn holds(
        &self,
        context: &Context,
        client: &Client,
        reader: &Reader<'_>,
        layers: &[Layer],
        only: Option<&Layer>,
    ) -> Result<(), Failure> {
        let mut changed = Vec::new();
        if self.environment != context.repo.env_name || self.context != context.site.kube_context {
            let text = format!("it was made for environment {} and context {}", self.environment, self.context);
            return Err(Failure::usage(format!("--plan: {text}"))
                .remedy(format!("cargo xtask --env {} layer --plan …", self.environment)));
        }
        let snapshot = Snapshot::take(context, reader::bytes(&reader.origin)?)?;
        let look = Look::open(context, client, snapshot).await?;
        if look.cluster() != self.cluster {
            changed.push("the cluster: it is a different one with the same name".to_owned());
        }
        let meant = |planned: &&PlannedLayer| only.is_none_or(|only| only.name() == planned.layer);
        for planned in self.layers.iter().filter(meant) {
            let Some(layer) = layers.iter().find(|layer| layer.name() == planned.layer) else {
                changed.push(format!("the tree: it no longer has layer {}", planned.layer));
                continue;
            };
            let inputs = look.inputs(layer)?;
            if let Some(what) = inputs::changed(&planned.inputs, &inputs.parts) {
                changed.push(format!("the tree: {what}"));
                continue;
            }
            let known = planned.releases.iter().any(|release| release.rendered.is_some());
            let rendered = match known && !planned.doubts.is_empty() {
                true => record::digests(&reader.rendered(layer, look.namespace(), true, false).await?),
                false => BTreeMap::new(),
            };
            for release in &planned.releases {
                let key = (release.named.namespace.clone(), release.named.name.clone());
                if let (Some(now), Some(then)) = (rendered.get(&key), &release.rendered)
                    && now != then
                {
                    changed.push(format!("release {}: it renders differently", release.named.name));
                }
                changed.extend(since(client, &look, release).await?);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let text = format!("the plan made at {} is outdated", self.made.strftime("%Y-%m-%d %H:%M:%SZ"));
        let failure = Failure::new(Code::PlanOutdated, text);
        let failure = changed.into_iter().fold(failure, Failure::evidence);
        Err(failure.remedy(format!("cargo xtask layer {} --dry-run --save-plan FILE", self.layers().join(" "))))
    }
}

/// Checks a plan without lock or Lease.
///
/// # Errors
/// As for [`Plan::holds`].
pub(crate) async fn check(context: &Context, plan: &Plan, layers: &[Layer], args: &Args) -> Result<(), Failure> {
    let client = crate::world::kubernetes::client(context).await?;
    let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
    let reader = Reader::new(context, &toolbox, super::instant::origin(&context.run, &context.repo)?, args.selector())?;
    plan.holds(context, &client, &reader, layers, None).await?;
    for planned in &plan.layers {
        for release in &planned.releases {
            context.run.reporter.planned(&release.named.name, release.act.words());
        }
    }
    Ok(())
}

/// What has changed in one release since it was planned.
async fn since(client: &Client, look: &Look<'_>, planned: &PlannedRelease) -> Result<Vec<String>, Failure> {
    let release = planned.named.release();
    let revisions = helm_storage::history(client, &release.namespace, &release.name).await?;
    let newest = helm_storage::highest(revisions).pop();
    let newest = newest.map(|newest| (newest.revision, newest.uid.clone().unwrap_or_default()));
    if newest != planned.revision {
        let text = match (&planned.revision, &newest) {
            (Some((then, _)), Some((now, _))) if then == now => {
                format!("revision {now} is a different one with that number")
            }
            (Some((then, _)), Some((now, _))) => format!("its revision was {then} and is {now}"),
            (None, Some((now, _))) => format!("it had no revision, and has {now}"),
            (_, None) => "it is gone".to_owned(),
        };
        return Ok(vec![format!("release {}: {text}", release.name)]);
    }
    let places: Vec<Place> = planned.objects.iter().map(|stood| stood.place.clone()).collect();
    let seen = live::look(client, &places).await?;
    let mut changed = Vec::new();
    for (stood, seen) in planned.objects.iter().zip(&seen) {
        match (&stood.uid, seen) {
            (None, None) => {}
            (None, Some(_)) => changed.push(format!("{}: it did not exist, and now does", stood.place)),
            (Some(uid), seen) => {
                // If Helm's list could not be determined, its state at that time is compared.
                if let Some(seen) = seen
                    && seen.metadata.uid.as_ref() == Some(uid)
                    && owns(&seen.metadata) == stood.owns
                {
                    continue;
                }
                let (place, owns) = (stood.place.clone(), Some(stood.owns.clone()));
                let made = Made {
                    place,
                    uid: uid.clone(),
                    owns,
                    applied: None,
                    version: None,
                    may_go: false,
                    by_install: false,
                    order: None,
                };
                match live::compare(&made, seen.as_ref(), look.now()) {
                    Standing::Drifted(drift) => changed.push(drift.to_string()),
                    Standing::Scaled(_) | Standing::Lost(_) | Standing::AsMade => {}
                }
            }
        }
    }
    Ok(changed)
}
