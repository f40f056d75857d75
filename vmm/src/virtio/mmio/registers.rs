//! Register offsets and values (virtio 1.2 §4.2.2, table 4.1, and §2.1).

/// Size of a device's register window.
pub const WINDOW_BYTES: u64 = 0x1000;

/// "virt".
pub const MAGIC: u32 = 0x7472_6976;
/// Version of the transport.
pub const VERSION: u32 = 2;
/// "VOPR"; any value that drivers do not know will do.
pub const VENDOR: u32 = u32::from_le_bytes(*b"VOPR");

pub const MAGIC_VALUE: u64 = 0x000;
pub const VERSION_NUMBER: u64 = 0x004;
pub const DEVICE_ID: u64 = 0x008;
pub const VENDOR_ID: u64 = 0x00c;
pub const DEVICE_FEATURES: u64 = 0x010;
pub const DEVICE_FEATURES_SEL: u64 = 0x014;
pub const DRIVER_FEATURES: u64 = 0x020;
pub const DRIVER_FEATURES_SEL: u64 = 0x024;
pub const QUEUE_SEL: u64 = 0x030;
pub const QUEUE_NUM_MAX: u64 = 0x034;
pub const QUEUE_NUM: u64 = 0x038;
pub const QUEUE_READY: u64 = 0x044;
/// Writing a queue's index here notifies it.
pub const QUEUE_NOTIFY: u64 = 0x050;
pub const INTERRUPT_STATUS: u64 = 0x060;
pub const INTERRUPT_ACK: u64 = 0x064;
pub const STATUS: u64 = 0x070;
pub const QUEUE_DESC_LOW: u64 = 0x080;
pub const QUEUE_DESC_HIGH: u64 = 0x084;
pub const QUEUE_DRIVER_LOW: u64 = 0x090;
pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
pub const SHM_LEN_LOW: u64 = 0x0b0;
pub const SHM_LEN_HIGH: u64 = 0x0b4;
pub const SHM_BASE_LOW: u64 = 0x0b8;
pub const SHM_BASE_HIGH: u64 = 0x0bc;
pub const CONFIG_GENERATION: u64 = 0x0fc;
/// The device's configuration space, up to the end of the window.
pub const CONFIG: u64 = 0x100;

/// Bits of the status register.
pub mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

/// Bits of the interrupt status register.
pub mod interrupt {
    /// A queue has used buffers.
    pub const USED: u32 = 1;
    /// The configuration space changed.
    pub const CONFIG: u32 = 2;
}
