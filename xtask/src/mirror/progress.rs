//! Shows the progress of a copy: on a terminal a line for each image being transferred, elsewhere
//! plain lines.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use image_mirror::{MirrorEvent, Observe};
use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::run::reporter::Reporter;

pub(super) struct Progress<'a> {
    reporter: &'a Reporter,
    bars: Option<MultiProgress>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    images: BTreeMap<String, Image>,
    /// In bytes, for all images.
    total: u64,
    moved: u64,
    since: Option<Instant>,
}

struct Image {
    since: Instant,
    moved: u64,
    bar: Option<ProgressBar>,
}

impl<'a> Progress<'a> {
    pub fn new(reporter: &'a Reporter) -> Self {
        Self { reporter, bars: reporter.bars(), state: Mutex::default() }
    }

    fn bar(&self, id: &str) -> Option<ProgressBar> {
        let bar = self.bars.as_ref()?.add(ProgressBar::new(0));
        let template = "   {prefix:<24} {bar:24} {bytes:>11} of {total_bytes:<11} {binary_bytes_per_sec:>12}  {msg}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(id.to_owned());
        bar.set_message("reading its manifests");
        Some(bar)
    }
}

impl State {
    /// How much of the total was transferred, and how fast.
    fn line(&self) -> String {
        let seconds = self.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let speed = (self.moved as f64 / seconds.max(0.001)) as u64;
        let (moved, total) = (BinaryBytes(self.moved), BinaryBytes(self.total));
        format!("[mirror] {moved} of {total}, {} a second", BinaryBytes(speed))
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Image)) {
        if let Some(image) = self.images.get_mut(id) {
            change(image);
        }
    }
}

/// In whole seconds, or with a fraction if short.
fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} s", duration.as_secs())
    }
}

impl Observe for Progress<'_> {
    fn event(&self, event: MirrorEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            MirrorEvent::Started { id } => {
                let bar = self.bar(&id);
                state.images.insert(id.clone(), Image { since: Instant::now(), moved: 0, bar });
                self.reporter.progress(&format!("[mirror] {id}"));
            }
            MirrorEvent::Skipped { .. } => {}
            MirrorEvent::Planned { id, bytes } => {
                state.total = state.total.saturating_add(bytes);
                state.since.get_or_insert_with(Instant::now);
                state.change(&id, |image| {
                    if let Some(bar) = &image.bar {
                        bar.set_length(bytes);
                        bar.set_message("");
                    }
                });
            }
            MirrorEvent::Moved { id, bytes } => {
                state.moved = state.moved.saturating_add(bytes);
                state.change(&id, |image| {
                    image.moved = image.moved.saturating_add(bytes);
                    image.bar.iter().for_each(|bar| bar.inc(bytes));
                });
                self.reporter.progress(&state.line());
            }
            MirrorEvent::Lost { id, bytes } => {
                state.moved = state.moved.saturating_sub(bytes);
                state.change(&id, |image| {
                    image.moved = image.moved.saturating_sub(bytes);
                    image.bar.iter().for_each(|bar| bar.set_position(image.moved));
                });
            }
            MirrorEvent::Spared { id, bytes } => {
                state.total = state.total.saturating_sub(bytes);
                state.change(&id, |image| {
                    image
                        .bar
                        .iter()
                        .for_each(|bar| bar.set_length(bar.length().unwrap_or_default().saturating_sub(bytes)));
                });
            }
            MirrorEvent::Copied { id, bytes } => {
                let Some(image) = state.images.remove(&id) else { return };
                image.bar.iter().for_each(ProgressBar::finish_and_clear);
                let (moved, took) = (BinaryBytes(image.moved), seconds(image.since.elapsed()));
                let text = match image.moved {
                    0 => format!("copied, {} that the registry had already, in {took}", BinaryBytes(bytes)),
                    moved_bytes if moved_bytes >= bytes => format!("copied, {moved} in {took}"),
                    _ => format!("copied, {moved} of {} moved, in {took}", BinaryBytes(bytes)),
                };
                self.reporter.note(&id, text);
            }
            MirrorEvent::Failed { id, reason } => {
                if let Some(image) = state.images.remove(&id) {
                    image.bar.iter().for_each(ProgressBar::finish_and_clear);
                }
                self.reporter.warn(&id, format!("not copied: {reason}"));
            }
            MirrorEvent::GivenUp { id } => {
                if let Some(image) = state.images.remove(&id) {
                    image.bar.iter().for_each(ProgressBar::finish_and_clear);
                }
            }
            MirrorEvent::Warning { id, text } => self.reporter.warn(&id, text),
            MirrorEvent::Waiting { registry, wait, reason } => {
                self.reporter.waiting(&registry, format!("retrying in {}: {reason}", seconds(wait)));
            }
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.images.values().flat_map(|image| &image.bar).for_each(ProgressBar::finish_and_clear);
    }
}
