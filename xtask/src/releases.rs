//! The watchdog: Helm releases that are not `deployed`, who owns them, and what is done about them.
//!
//! Only the highest revision of a release is judged. A repair never deletes anything: a revision
//! that nobody will finish is marked `failed`, which is what Helm itself would have written, and
//! the next upgrade continues from the last good one.

mod after_failure;
pub mod by_hand;
mod decide;
mod helm;
pub mod history;
pub(crate) mod kept;
mod losses;
pub mod manifest;
pub mod named;
pub(crate) mod owned;
mod owner;
pub(crate) mod removal;
mod repair;
mod rewrite;
mod show;
mod watchdog;

pub use after_failure::after_failure;
pub(crate) use after_failure::came_up;
pub use decide::{ORPHAN_AFTER, Owner, Plan, decide};
pub(crate) use losses::consent_to_rollback;
pub use losses::{Apart, consent_to_uninstalls, consent_to_upgrades};
pub(crate) use owner::worker;
pub use owner::{Others, wait_for_helm};
pub use repair::{Asked, repair};
pub use show::show;
pub(crate) use watchdog::watch_over_removal;
pub use watchdog::{settle, watch_over};

pub use crate::world::helm_storage::{Revision, Status};
