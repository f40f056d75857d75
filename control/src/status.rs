//! The status of a VM's profiling.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who reads the event buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reader {
    /// Nobody.
    None,
    /// The VMM's collector, which writes the session.
    Collector,
    /// A client of the socket.
    Client,
}

/// A counter and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Its name in `account.txt`.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// Settings in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsStatus {
    /// Sampling period in nanoseconds.
    pub period_ns: u64,
    /// Most frames of a call chain.
    pub backtrace_depth: u64,
    /// Event buffer in words.
    pub buffer_size: u64,
    /// Free words at which its reader is woken.
    pub buffer_watershed: u64,
    /// Entries of a vCPU's buffers.
    pub cpu_buffer_size: u64,
}

/// Figures of one vCPU since the VM's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuStatus {
    /// Samples received or lost.
    pub received: u64,
    /// Samples lost in the guest for want of a buffer.
    pub lost: u64,
    /// Samples without a valid address.
    pub invalid: u64,
    /// Samples claimed and not there.
    pub malformed: u64,
    /// Call chains cut short.
    pub aborted: u64,
    /// Sample buffers.
    pub buffers: u64,
    /// Notifications.
    pub kicks: u64,
    /// Doorbells.
    pub doorbells: u64,
    /// Syncs.
    pub syncs: u64,
}

/// The status of a VM's profiling. Counters count from the VM's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The guest's driver has said hello.
    pub said_hello: bool,
    /// Samples are wanted.
    pub started: bool,
    /// The guest has stopped its clocks and handed in what it had.
    pub quiesced: bool,
    /// Who reads the event buffer.
    pub reader: Reader,
    /// The session directory, if the VM writes one.
    pub session: Option<PathBuf>,
    /// Virtio device id.
    pub device_id: u32,
    /// The guest kernel's release, once it has said hello.
    pub release: Option<String>,
    /// What is sampled.
    pub cpu_type: String,
    /// Settings in force.
    pub settings: SettingsStatus,
    /// Every counter of the device, in the order of `account.txt`.
    pub account: Vec<Counter>,
    /// Every received sample is in exactly one end.
    pub adds_up: bool,
    /// How many counters behind the first one (`received`) are ends of samples.
    pub ends: usize,
    /// By vCPU.
    pub vcpus: Vec<VcpuStatus>,
    /// What the collector counted since the session began; empty without one.
    pub collector: Vec<Counter>,
    /// Clients that are connected, this one included.
    pub clients: usize,
}

impl Status {
    /// The counter of that name.
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        let counter = self.account.iter().find(|counter| counter.name == name)?;
        Some(counter.value)
    }
}
