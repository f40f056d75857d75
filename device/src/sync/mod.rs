//! OProfile's sync pipeline as a state machine over a [`World`] and an event buffer.

mod world;

pub use world::{Lookup, Task, World};
