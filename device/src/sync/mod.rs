//! OProfile's sync pipeline as a state machine over a [`World`] and an event buffer.
//!
//! A sync takes the entries of one vCPU's buffers and writes what they mean into the
//! [`EventBuffer`](crate::event_buffer::EventBuffer): modes, tasks, and each user address as an offset in a lasting file,
//! looked up while the mapping still exists. The rules are those of Linux 4.7's `buffer_sync.c`; the golden vectors in
//! `tests/conformance` pin them.
//!
//! ```text
//! let mut sync = pipeline.begin(vcpu, &mut events);
//! for buffer in buffers { sync.boundary(); for entry in entries(buffer) { sync.entry(&mut world, entry); } }
//! let freed = sync.end();
//! ```

mod account;
mod cpu_set;
mod mortuary;
mod pipeline;
mod unmap;
mod world;

#[cfg(test)]
mod tests;

pub use account::{Account, Statistics};
pub use cpu_set::CpuSet;
pub use mortuary::Mortuary;
pub use pipeline::{CpuSync, Pipeline};
pub use unmap::{Mapping, unmap_needs_sync};
pub use world::{LANES, Lookup, Task, World};
