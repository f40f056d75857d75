//! A guest without a VM: RAM with a kernel's objects in it, and a driver that posts requests and sample buffers.
//!
//! For tests. Everything in here panics when it is misused.

mod buffer;
mod driver;
pub mod fuzzing;
mod guest;
mod ring;

pub use buffer::BufferBuilder;
pub use driver::{Driver, Interrupts};
pub use guest::{
    COMPACT_LAYOUT, KERNEL_END, KERNEL_START, LINEAR_BASE, PageSize, SyntheticGuest, USER_END,
    VmaSpec,
};
pub use ring::{Descriptor, Ring, chain_of};
