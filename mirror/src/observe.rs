//! What is told while registries are asked, and how it reaches whoever listens.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// What a copy tells while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorEvent {
    Started {
        id: String,
    },
    /// The target has it, as the lock says.
    Skipped {
        id: String,
    },
    /// What of this image has to be moved, in bytes; what another image brings counts there.
    Planned {
        id: String,
        bytes: u64,
    },
    /// That many more bytes of it arrived.
    Moved {
        id: String,
        bytes: u64,
    },
    /// That many bytes of it need not be moved: the target has them.
    Spared {
        id: String,
        bytes: u64,
    },
    /// Bytes that have to be sent again, after a cut that no range could mend.
    Lost {
        id: String,
        bytes: u64,
    },
    /// It can be pulled from the target; the bytes that were moved for it.
    Copied {
        id: String,
        bytes: u64,
    },
    Failed {
        id: String,
        reason: String,
    },
    /// Given up with its registry, of which the error at the end tells once for all images.
    GivenUp {
        id: String,
    },
    /// Something that the copy goes on without; of an image or of a registry.
    Warning {
        id: String,
        text: String,
    },
    /// A registry asked for patience, or has to be asked again.
    Waiting {
        registry: String,
        wait: Duration,
        reason: String,
    },
}

pub trait Observe: Send + Sync {
    fn event(&self, event: MirrorEvent);
}

/// For who has nobody to tell.
pub(crate) struct Silent;

impl Observe for Silent {
    fn event(&self, _: MirrorEvent) {}
}

/// Runs something that tells events, and hands them on as they come.
pub(crate) async fn relay<T>(observe: &dyn Observe, work: impl AsyncFnOnce(UnboundedSender<MirrorEvent>) -> T) -> T {
    let (sender, mut receiver) = unbounded_channel();
    let mut work = pin!(work(sender));
    std::future::poll_fn(|context| {
        let done = work.as_mut().poll(context);
        while let Poll::Ready(Some(event)) = receiver.poll_recv(context) {
            observe.event(event);
        }
        done
    })
    .await
}
