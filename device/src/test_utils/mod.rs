//! A guest without a VM: RAM with a kernel's objects in it, and a driver that posts requests and sample buffers.
//!
//! For tests. Everything in here panics when it is misused.

mod buffer;
mod driver;
mod elf;
pub mod fuzzing;
mod guest;
mod ring;

pub use crate::guest::view::{GuestView, ViewWorld};
pub use buffer::BufferBuilder;
pub use driver::{Driver, Interrupts};
pub use elf::elf_with_build_id;
pub use guest::{
    COMPACT_LAYOUT, GuestShape, KERNEL_END, KERNEL_START, LINEAR_BASE, LINUX_4_19_LAYOUT,
    LINUX_6_1_LAYOUT, MapleInner, MapleShape, ObjectKind, PageSize, SyntheticGuest, TINY_LAYOUT,
    USER_END, VmaSpec,
};
pub use ring::{Descriptor, Ring, chain_of};
