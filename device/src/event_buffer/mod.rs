//! The event buffer: escape-coded words on their way to the one reader.
//!
//! [`EventBuffer`] is the plain structure, with OProfile's rules for watershed, overflow and dump and no thread in it.
//! [`SharedEvents`] puts a lock around it and lends it to one [`EventReader`] at a time. [`record`] has the codes.

mod buffer;
mod reader;
pub mod record;

pub use buffer::{EventBuffer, ReadError, RingRangeError, SizeError, check_read};
pub use reader::{EventReader, EventsGuard, OpenError, SharedEvents};
