//! The virtio profiling device without a VMM.
//!
//! | module | what it does |
//! |---|---|
//! | [`front`] | the virtio side: configuration space, queues, doorbell ([`Device`]) |
//! | [`control_files`] | OProfile's control files over the device, or any profiler: settings, start and stop, counters |
//! | [`clock`] | the host's clock: NMIs for vCPUs whose driver asked for them |
//! | `control` | control requests, read from bytes |
//! | `engine` | takes buffers and requests from the queues, feeds the pipeline |
//! | [`guest`] | guest memory: page tables, tasks, VMAs, files |
//! | [`sync`] | OProfile's sync pipeline: a state machine over a [`sync::World`] and the event buffer |
//! | [`event_buffer`] | escape-coded words on their way to the one reader: watershed, dump, overflow |
//! | [`cookies`] | ids of files and anonymous regions |
//! | [`kernel`] | the guest's kernel as its driver describes it |
//! | [`perf_map`] | functions of just-in-time compilers, as they tell them themselves |
//! | [`settings`] | what the host decides beforehand |
//! | [`account`], [`fault`] | what came in, where it ended, what was wrong with it |
pub mod account;
pub mod clock;
mod control;
pub mod control_files;
pub mod cookies;
mod engine;
pub mod event_buffer;
pub mod fault;
pub mod front;
pub mod guest;
pub mod kernel;
pub mod perf_map;
pub mod settings;
pub mod sync;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

#[cfg(test)]
mod tests;

pub use account::{Account, VcpuAccount};
pub use clock::{ClockAccount, HostClock};
pub use cookies::{CookieTarget, FileBuild};
pub use event_buffer::{EventReader, OpenError};
pub use fault::{Fault, Faults};
pub use front::{ActivateError, Device, Interrupt, SYNC_PERIOD};
pub use kernel::Kernel;
pub use perf_map::PerfMap;
pub use settings::{Clock, Settings, SettingsError};
