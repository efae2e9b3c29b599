//! The events while registries are accessed, and how they reach the observer.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Progress events of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorEvent {
    Started {
        id: String,
    },
    /// The target already has it, as the lock says.
    Skipped {
        id: String,
    },
    /// The bytes to transfer for this image; blobs shared with another image count for that one.
    Planned {
        id: String,
        bytes: u64,
    },
    /// This many more bytes of it arrived.
    Moved {
        id: String,
        bytes: u64,
    },
    /// This many bytes of it need not be transferred: the target has them.
    Spared {
        id: String,
        bytes: u64,
    },
    /// Bytes that have to be sent again, after a cut that could not be resumed by range.
    Lost {
        id: String,
        bytes: u64,
    },
    /// It can be pulled from the target now; with the bytes transferred for it.
    Copied {
        id: String,
        bytes: u64,
    },
    Failed {
        id: String,
        reason: String,
    },
    /// Given up because its registry failed; the final error reports that once for all images.
    GivenUp {
        id: String,
    },
    /// A problem of an image or a registry that does not stop the copy.
    Warning {
        id: String,
        text: String,
    },
    /// A registry asked us to wait, or a request has to be repeated.
    Waiting {
        registry: String,
        wait: Duration,
        reason: String,
    },
}

pub trait Observe: Send + Sync {
    fn event(&self, event: MirrorEvent);
}

/// For callers without an observer.
pub(crate) struct Silent;

impl Observe for Silent {
    fn event(&self, _: MirrorEvent) {}
}

/// Runs `work`, which sends events, and passes them to the observer as they arrive.
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
