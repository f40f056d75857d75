//! Recorded sample loads of known outcome: samples of a world of tasks and mappings, and the hash of the event stream that
//! OProfile's C pipeline makes of them.
//!
//! | module | what it does |
//! |---|---|
//! | [`file`] | the files in `bench/data`, read |
//! | [`generate`] | loads of the same kind, of any size |
//! | [`world`] | their world on the host's side: sorted arrays |
//! | [`replay`] | writer → words → pipeline → event buffer, step by step, so that each can be timed |
//! | [`random`] | reproducible random numbers |
//! | [`stream`] | the hash of an event stream |
//! | `loopback` | agent and device in one process, with guest RAM between them (feature `loopback`) |
//! | `ram` | a workload's world in that RAM (feature `loopback`) |
//!
//! ```text
//! let workload = Workload::load(&MIXED)?;
//! let mut replay = Replay::new(&workload)?;
//! for batch in workload.batches() { replay.write(batch); replay.sync(); replay.read(false); }
//! replay.read(true);
//! MIXED.check(replay.stream())?;
//! ```

pub mod file;
pub mod generate;
#[cfg(feature = "loopback")]
pub mod loopback;
#[cfg(feature = "loopback")]
pub mod ram;
pub mod random;
pub mod replay;
pub mod stream;
pub mod world;

pub use file::{ANONYMOUS, MIXED, Recorded, Sample, TRACE, Task, Vma, Workload, WorkloadError};
pub use generate::{Shape, Switches};
pub use replay::Replay;
pub use stream::{StreamHash, WrongStream};
pub use world::ScriptedWorld;

#[cfg(test)]
mod tests;
