//! The tiny guest that this program carries.

/// Its kernel.
pub const KERNEL: Option<&[u8]> = None;

/// Its initrd.
pub const INITRD: Option<&[u8]> = None;
