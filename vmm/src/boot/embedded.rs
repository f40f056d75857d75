//! The tiny guest that this program carries; see `build.rs`.

/// Its kernel.
pub const KERNEL: &[u8] = include_bytes!(env!("GUEST_KERNEL"));

/// Its initrd.
pub const INITRD: &[u8] = include_bytes!(env!("GUEST_INITRD"));
