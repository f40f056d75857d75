//! The console: what comes from standard input goes to the guest's serial port.
//!
//! Input waits until the guest listens, that is, until its driver enables the receive interrupt. From then on a terminal is in
//! raw mode, so that Ctrl-C and the like are the guest's; before that they are the host's, as for a guest that never listens.

mod escape;
mod input;
pub mod terminal;

pub use input::{Input, Port};
