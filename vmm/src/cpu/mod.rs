//! vCPUs: what they are to the guest, and the threads that run them.

pub mod cpuid;
mod end;
mod kick;
mod run;
mod setup;
mod threads;
mod time;

pub use end::{EndReport, GuestEnd};
pub use kick::install_kick_handler;
pub use run::{Buses, Vcpu};
pub use setup::{SetupError, create};
pub use threads::{VcpuThreads, VcpuTotals};
pub use time::VcpuTime;
