//! What is done before a layer's turn: Helmfile reads it, which takes nothing but the tree, and the
//! node of a local cluster pulls its images. Whatever fails here, or was done for a tree that has
//! changed since, is done again in the layer's turn, which reports it.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Client;
use tokio::sync::OnceCell;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::{Args, instant};
use crate::compare::images::{self, Places};
use crate::compare::look::Snapshot;
use crate::compare::reader::Reader;
use crate::mirror::Origin;
use crate::repo::layers::Layer;
use crate::run::context::Context;
use crate::world::docker;
use crate::world::process::capture_within;
use crate::world::tools::{self, Toolbox};
use run_record::Failure;

/// A layer as Helmfile reads it.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// As [`Reader::list`] returns it.
    pub list: Option<String>,
    pub manifests: String,
}

impl Read {
    /// # Errors
    /// What Helmfile cannot read.
    pub async fn now(reader: &Reader<'_>, layer: &Layer) -> Result<Self, Failure> {
        let (list, manifests) = tokio::join!(reader.list(layer), reader.render(layer));
        Ok(Self { list: list?, manifests: manifests? })
    }
}

/// Layers, each read once, and the tree that they are read from.
pub(crate) struct Ahead {
    snapshot: Snapshot,
    layers: Vec<(String, OnceCell<Read>)>,
}

/// Why a layer is not kept as it was read.
enum NotKept {
    Failed(Failure),
    /// It depends on more than the tree, which may change meanwhile.
    Open(Read),
    /// The tree was another one while Helmfile read it, or is by now.
    Moved(Read),
}

impl Ahead {
    pub fn of(snapshot: Snapshot, layers: &[Layer]) -> Self {
        Self { snapshot, layers: layers.iter().map(|layer| (layer.name(), OnceCell::new())).collect() }
    }

    /// These layers, to be read from the tree as it is now; `None` if it cannot be read.
    pub fn of_tree<'a>(
        context: &'a Context,
        toolbox: &'a Toolbox,
        origin: Origin,
        selector: Option<&'a str>,
        layers: &[Layer],
    ) -> Option<(Reader<'a>, Self)> {
        let reader = Reader::new(context, toolbox, origin, selector).ok()?;
        let snapshot = Snapshot::take(context, reader.lock.clone()).ok()?;
        Some((reader, Self::of(snapshot, layers)))
    }

    /// These layers, of which the first one has been read already; `None` if that is not possible yet.
    pub async fn begun(context: &Context, layers: &[Layer], args: &Args) -> Option<Self> {
        let origin = instant::origin(&context.run, &context.repo).ok()?;
        let toolbox = tools::at_hand(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await.ok()??;
        let (reader, ahead) = Self::of_tree(context, &toolbox, origin, args.selector(), layers)?;
        ahead.read(&reader, layers.first()?).await.ok()?;
        Some(ahead)
    }

    /// Whether the tree is still the one that these layers are read from.
    pub fn is_of(&self, snapshot: &Snapshot) -> bool {
        self.snapshot == *snapshot
    }

    /// A layer, which is kept if it depends on the tree alone, and that has not changed since the
    /// beginning.
    ///
    /// # Errors
    /// What Helmfile cannot read.
    pub async fn read(&self, reader: &Reader<'_>, layer: &Layer) -> Result<Read, Failure> {
        match self.kept(reader, layer).await {
            Ok(read) => Ok(read.clone()),
            Err(NotKept::Open(read) | NotKept::Moved(read)) => Ok(read),
            Err(NotKept::Failed(failure)) => Err(failure),
        }
    }

    async fn kept(&self, reader: &Reader<'_>, layer: &Layer) -> Result<&Read, NotKept> {
        let name = layer.name();
        let read = async || {
            let read = Read::now(reader, layer).await.map_err(NotKept::Failed)?;
            match Snapshot::take(reader.context, reader.lock.clone()) {
                // Ours is the same, and has parsed its files for other layers.
                Ok(now) if self.is_of(&now) => match self.snapshot.is_all_of(reader.context, layer) {
                    Ok(true) => Ok(read),
                    _ => Err(NotKept::Open(read)),
                },
                _ => Err(NotKept::Moved(read)),
            }
        };
        match self.layers.iter().find(|(known, _)| *known == name) {
            Some((_, kept)) => kept.get_or_try_init(read).await,
            None => Err(NotKept::Moved(read().await?)),
        }
    }

    /// Reads these layers one after the other; `found` is told of each that is kept.
    pub async fn read_each(&self, reader: &Reader<'_>, layers: &[Layer], mut found: impl FnMut(&Read)) {
        let reader = reader.in_the_background();
        for layer in layers {
            match self.kept(&reader, layer).await {
                Ok(read) => found(read),
                // It is read again in its turn; the others need not be.
                Err(NotKept::Failed(_) | NotKept::Open(_)) => {}
                // Nothing that is read from now on would be used.
                Err(NotKept::Moved(_)) => return,
            }
        }
    }

    /// Reads these layers, and lets the node pull what they need, in the same order.
    pub async fn prepare(&self, reader: &Reader<'_>, client: &Client, layers: &[Layer]) {
        let (found, wanted) = mpsc::unbounded_channel();
        let reading = async move {
            let tell = |read: &Read| {
                let images = images_of(reader.context, &read.manifests).unwrap_or_default();
                // Nobody may be listening: there may be nothing that pulls.
                images.into_iter().for_each(|image| drop(found.send(image)));
            };
            self.read_each(reader, layers, tell).await;
        };
        let (_, _) = tokio::join!(reading, pull(reader.context, client, wanted));
    }
}

/// How long a node may take for one image.
const PULL: Duration = Duration::from_secs(600);

/// The images that the node gets from the platform's registry by their digests. Any other registry
/// is asked only by the pods: it may count requests.
fn images_of(context: &Context, manifests: &str) -> Result<BTreeSet<String>, Failure> {
    let places = Places::of(&context.repo.tree)?;
    let registry = format!("{}/", context.repo.env.registry.pull);
    let found = images::images(manifests, &places).map_err(Failure::usage)?;
    let is_ours = |image: &String| image.starts_with(&registry) && image.contains("@sha256:");
    Ok(found.into_iter().map(|named| named.image).filter(is_ours).collect())
}

/// Lets the node of a local cluster pull those of these images that it has not got, one after the
/// other as they become known, as the kubelet does. Of several nodes it is not known which ones the
/// pods will run on, and all of them share one disk.
///
/// # Errors
/// Errors from reading; a pull that fails is none.
async fn pull(context: &Context, client: &Client, mut wanted: UnboundedReceiver<String>) -> Result<(), Failure> {
    let Some(config) = context.repo.k3d_config()? else { return Ok(()) };
    // `--context` may name any cluster.
    if context.site.kube_context != config.kube_context() {
        return Ok(());
    }
    let nodes = images::on_nodes(client).await?;
    let [(node, has)] = nodes.as_slice() else { return Ok(()) };
    let mut asked = BTreeSet::new();
    while let Some(image) = wanted.recv().await {
        if has.contains(&images::by_digest(&image)) || !asked.insert(image.clone()) {
            continue;
        }
        let pulled = capture_within(docker::docker(["exec", node, "crictl", "pull", &image]), PULL).await?;
        // The next one would most likely end the same way.
        if !pulled.status.success() {
            break;
        }
    }
    Ok(())
}
