//! A saved plan: what a preview found in the tree, the releases and their objects, so that a later
//! run does exactly that, or says what has changed since. It contains digests and names, and
//! nothing secret.

use camino::Utf8Path;
use jiff::Timestamp;
use kube::Client;
use serde::{Deserialize, Serialize};

use super::Args;
use super::preview::{LayerPreview, Stood, owns};
use crate::compare::inputs::{self, Parts};
use crate::compare::live::{self, Made, Seen, Standing};
use crate::compare::look::{Found, Look, Snapshot};
use crate::compare::reader::{self, How, Reader};
use crate::compare::record::{self, Named, Renderings};
use crate::compare::state::{Action, ReleaseState, act};
use crate::files;
use crate::files::bounds;
use crate::repo::Repo;
use crate::repo::layers::Layer;
use crate::run::context::{Context, Site};
use crate::world::kubernetes::place::Place;
use crate::world::release::Release;
use crate::world::tools;
use run_record::preview::Act;
use run_record::{Code, Failure};

/// The file format; another number is no plan of this program.
const FORMAT: u32 = 2;

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
    /// How it was rendered, if it was.
    how: How,
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

impl PlannedLayer {
    /// What it renders now: the same if its inputs are equal, unless there are doubts. Empty if
    /// nothing had to be rendered for the plan either.
    async fn renders(&self, reader: &Reader<'_>, layer: &Layer, namespace: &str) -> Result<Renderings, Failure> {
        if !self.doubts.is_empty() {
            return Ok(record::digests(&reader.rendered(layer, namespace, self.how).await?));
        }
        Ok(self.releases.iter().filter_map(|release| Some((release.key(), release.rendered.clone()?))).collect())
    }

    /// What of this rendering is not what was planned.
    fn renders_otherwise(&self, now: &Renderings) -> Vec<String> {
        let differs = self.releases.iter().filter_map(|release| {
            let text = match (&release.rendered, now.get(&release.key())) {
                (then, now) if then.as_ref() == now => return None,
                (Some(_), Some(_)) => "it renders differently",
                (Some(_), None) => "it renders nothing any more",
                (None, _) => "it rendered nothing, and now does",
            };
            Some(format!("release {}: {text}", release.named.name))
        });
        let planned = |key: &(String, String)| self.releases.iter().any(|release| release.key() == *key);
        let others = now.keys().filter(|key| !planned(key));
        differs.chain(others.map(|(_, name)| format!("release {name}: it is not in the plan"))).collect()
    }
}

impl PlannedRelease {
    /// Its namespace and name.
    fn key(&self) -> (String, String) {
        (self.named.namespace.clone(), self.named.name.clone())
    }

    /// Why a release that the plan leaves as it is, in this state, is not one to leave any more.
    fn is_unsettled(&self, state: &ReleaseState, asked: &Asked) -> Vec<String> {
        match (self.act, act(state, asked.force, !asked.skip_tests), state) {
            (_, Action::Nothing, _) | (Act::Test, Action::Test, _) => Vec::new(),
            (_, _, ReleaseState::Drifted(drifts)) => drifts.iter().map(ToString::to_string).collect(),
            _ => vec![format!("release {}: {}", self.named.name, state.why())],
        }
    }
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
                revision: newest(found),
                rendered: digests.get(&(found.named.namespace.clone(), found.named.name.clone())).cloned(),
                act: shown.act,
                named: found.named.clone(),
                objects: stood.clone(),
            });
            layers.push(PlannedLayer {
                layer: preview.layer.name(),
                inputs: inputs::kept(&inputs.parts, sight.releases.iter().map(|found| &*found.named.namespace)),
                doubts: inputs.doubts.clone(),
                how: preview.how,
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
            let renders = planned.renders(reader, layer, look.namespace()).await?;
            let otherwise = planned.renders_otherwise(&renders);
            if !otherwise.is_empty() {
                changed.extend(otherwise);
                continue;
            }
            let releases: Vec<Release> = planned.releases.iter().map(|release| release.named.release()).collect();
            let mut sight = look.listed(layer, &releases).await?;
            if !renders.is_empty() {
                sight.releases.iter_mut().for_each(|found| found.rendered(&renders));
            }
            for (release, found) in planned.releases.iter().zip(&sight.releases) {
                changed.extend(since(&look, release, found, &self.asked).await?);
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
async fn since(
    look: &Look<'_>,
    planned: &PlannedRelease,
    found: &Found,
    asked: &Asked,
) -> Result<Vec<String>, Failure> {
    let newest = newest(found);
    if newest != planned.revision {
        let text = match (&planned.revision, &newest) {
            (Some((then, _)), Some((now, _))) if then == now => {
                format!("revision {now} is a different one with that number")
            }
            (Some((then, _)), Some((now, _))) => format!("its revision was {then} and is {now}"),
            (None, Some((now, _))) => format!("it had no revision, and has {now}"),
            (_, None) => "it is gone".to_owned(),
        };
        return Ok(vec![format!("release {}: {text}", planned.named.name)]);
    }
    if !planned.act.changes() {
        return Ok(planned.is_unsettled(&found.state, asked));
    }
    let places: Vec<Place> = planned.objects.iter().map(|stood| stood.place.clone()).collect();
    let seen = live::look(look.client(), &places).await?;
    let objects = planned.objects.iter().zip(&seen);
    Ok(objects.filter_map(|(stood, seen)| moved(stood, seen.as_ref(), look.now())).collect())
}

/// The newest revision and the uid of its Secret.
fn newest(found: &Found) -> Option<(u32, String)> {
    found.revision().map(|newest| (newest.revision, newest.uid.clone().unwrap_or_default()))
}

/// What others have done since to an object that stood like this; `now` is the API server's time.
fn moved(stood: &Stood, seen: Option<&Seen>, now: Timestamp) -> Option<String> {
    let place = stood.place.clone();
    let Some(uid) = &stood.uid else { return seen.map(|_| format!("{place}: it did not exist, and now does")) };
    // If Helm's list could not be determined, its state at that time is compared.
    let same = |seen: &Seen| seen.metadata.uid.as_ref() == Some(uid) && owns(&seen.metadata) == stood.owns;
    if seen.is_some_and(same) {
        return None;
    }
    let made = Made { owns: Some(stood.owns.clone()), ..Made::identified(place, uid.clone()) };
    match live::compare(&made, seen, now) {
        Standing::Drifted(drift) => Some(drift.to_string()),
        Standing::Scaled(_) | Standing::Lost(_) | Standing::AsMade => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::compare::state::Drift;

    fn release(name: &str, act: Act, rendered: Option<&str>) -> PlannedRelease {
        PlannedRelease {
            named: Named { namespace: "shop".into(), name: name.into(), installed: true },
            act,
            revision: Some((3, "u3".into())),
            rendered: rendered.map(str::to_owned),
            objects: Vec::new(),
        }
    }

    #[test]
    fn a_release_that_the_plan_leaves_as_it_is_must_still_be_one_to_leave() {
        let drift = |object: &str| Drift {
            object: object.into(),
            field: None,
            manager: None,
            ago: None,
            what: "is being deleted".into(),
        };
        let drifted = || ReleaseState::Drifted(vec![drift("Secret shop/hook"), drift("Service shop/web")]);
        let ailing = || ReleaseState::Unhealthy("Deployment shop/web: 0 of 1 pods are ready".into());
        let (tested, untested) = (Asked::default(), Asked { skip_tests: true, ..Asked::default() });
        for (act, state, asked, told) in [
            (Act::Nothing, ReleaseState::InSync, &tested, &[][..]),
            (Act::Nothing, ReleaseState::NotWanted, &tested, &[]),
            (
                Act::Nothing,
                drifted(),
                &tested,
                &["Secret shop/hook is being deleted", "Service shop/web is being deleted"],
            ),
            (Act::Nothing, ailing(), &tested, &["release web: Deployment shop/web: 0 of 1 pods are ready"]),
            (
                Act::Nothing,
                ReleaseState::Untested,
                &tested,
                &["release web: its tests have not passed on this revision"],
            ),
            (Act::Nothing, ReleaseState::Untested, &untested, &[]),
            (Act::Test, ReleaseState::Untested, &tested, &[]),
            (Act::Test, ReleaseState::InSync, &tested, &[]),
            (Act::Test, ailing(), &tested, &["release web: Deployment shop/web: 0 of 1 pods are ready"]),
        ] {
            assert_eq!(release("web", act, None).is_unsettled(&state, asked), told, "{act:?} {state:?}");
        }
    }

    #[test]
    fn a_release_that_comes_or_goes_in_the_rendering_is_not_what_was_planned() {
        let planned = |web: Option<&str>| PlannedLayer {
            layer: "45-shop".into(),
            inputs: inputs::Parts::new(),
            doubts: vec!["it reads the clock".into()],
            how: How::default(),
            releases: vec![release("web", Act::Upgrade, web), release("off", Act::Nothing, None)],
        };
        let now = |all: &[(&str, &str)]| -> Renderings {
            all.iter().map(|(name, digest)| (("shop".to_owned(), (*name).to_owned()), (*digest).to_owned())).collect()
        };
        for (then, now, told) in [
            (Some("a"), now(&[("web", "a")]), &[][..]),
            (None, now(&[]), &[]),
            (Some("a"), now(&[("web", "b")]), &["release web: it renders differently"]),
            (Some("a"), now(&[]), &["release web: it renders nothing any more"]),
            (None, now(&[("web", "a")]), &["release web: it rendered nothing, and now does"]),
            (Some("a"), now(&[("web", "a"), ("new", "c")]), &["release new: it is not in the plan"]),
        ] {
            assert_eq!(planned(then).renders_otherwise(&now), told, "{now:?}");
        }
    }

    #[test]
    fn an_object_that_is_being_deleted_since_is_not_as_it_stood() {
        let metadata = |more: &serde_json::Value| {
            let mut metadata = json!({"name": "data", "uid": "u1", "managedFields": [
                {"manager": "helm", "operation": "Apply", "fieldsV1": {"f:spec": {}}}]});
            metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>(metadata).unwrap()
        };
        let (there, going) = (metadata(&json!({})), metadata(&json!({"deletionTimestamp": "2026-11-25T10:00:00Z"})));
        let stood = |metadata: &_| Stood {
            place: Place {
                api_version: "v1".into(),
                kind: "PersistentVolumeClaim".into(),
                plural: "persistentvolumeclaims".into(),
                namespace: Some("shop".into()),
                name: "data".into(),
            },
            uid: Some("u1".into()),
            owns: owns(metadata),
        };
        let seen = |metadata: &_| Seen { metadata: Clone::clone(metadata), whole: None };
        let now: Timestamp = "2026-11-25T10:03:00Z".parse().unwrap();
        let told = Some("PersistentVolumeClaim shop/data is being deleted");
        for (then, since, told) in [(&there, &there, None), (&there, &going, told), (&going, &going, None)] {
            assert_eq!(moved(&stood(then), Some(&seen(since)), now).as_deref(), told);
        }
        assert!(moved(&stood(&there), None, now).is_some_and(|told| told.ends_with("is gone")));
    }
}
