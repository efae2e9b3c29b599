//! One run of this program: what it was asked, whether it is interrupted, what was
//! consented to, where it reports and what it leaves behind.

pub mod consent;
pub mod context;
pub mod duration;
pub mod foreign;
pub mod interrupt;
pub mod printer;
pub mod reporter;
pub mod state;
pub mod wait;
