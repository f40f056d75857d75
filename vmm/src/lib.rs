//! A small KVM virtual machine monitor that carries the profiling device.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`], [`config`], [`exit_code`], `report` | what the user says and is told |
//! | [`vm`] | a machine from its configuration to its end |
//! | [`memory`], [`boot`], [`acpi`] | guest RAM, the PVH and Linux boot protocols, ACPI tables |
//! | [`kvm`], [`cpu`] | KVM, vCPUs and their threads |
//! | [`console`] | standard input on its way to the guest |
//! | [`bus`], [`devices`], [`virtio`], [`block`] | port and memory-mapped I/O, a PC's devices, virtio-mmio, disks |
//! | [`oprofile`] | the profiling device's worker, and the collector that writes the session |
//! | `signals` | SIGINT and its like as events |

pub mod acpi;
pub mod block;
pub mod boot;
pub mod bus;
pub mod cli;
pub mod config;
pub mod console;
pub mod cpu;
pub mod devices;
pub mod exit_code;
pub mod kvm;
pub mod memory;
pub mod oprofile;
mod report;
mod signals;
pub mod virtio;
pub mod vm;
