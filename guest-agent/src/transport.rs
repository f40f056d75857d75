//! How a driver reaches its device: what a virtio transport offers, and the initialisation that all share.

use core::fmt;

/// Bits of the device status field (virtio 1.2 §2.1).
pub mod status {
    /// The driver has seen the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u32 = 4;
    /// The driver has chosen its features.
    pub const FEATURES_OK: u32 = 8;
    /// The driver has given up.
    pub const FAILED: u32 = 128;
}

/// Feature bits (virtio 1.2 §6).
pub mod feature {
    /// Interrupts and notifications are asked for by ring position.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Guest-physical addresses of a virtqueue's three areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAddresses {
    /// Descriptor table.
    pub descriptors: u64,
    /// Driver area: the available ring.
    pub driver: u64,
    /// Device area: the used ring.
    pub device: u64,
}

/// Why an interrupt came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterruptCause {
    /// A buffer was used in some queue.
    pub queue: bool,
    /// The configuration changed: re-read the settings.
    pub config: bool,
}

/// Why there is no usable device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportError {
    /// No virtio-mmio registers here; the value in place of the magic number.
    NoTransport(u32),
    /// A register layout other than version 2; the version.
    UnsupportedVersion(u32),
    /// Another device; its id, 0 for an empty slot.
    WrongDevice(u32),
    /// The device does not offer `VIRTIO_F_VERSION_1`.
    LegacyDevice,
    /// The device did not accept the features that it had offered.
    FeaturesRefused,
    /// The queue with this index does not exist or is in use.
    QueueUnavailable(u16),
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTransport(found) => write!(f, "No virtio-mmio device there (magic {found:#x})"),
            Self::UnsupportedVersion(found) => {
                write!(f, "Virtio-mmio version {found} instead of 2")
            }
            Self::WrongDevice(0) => f.write_str("The virtio-mmio slot is empty"),
            Self::WrongDevice(found) => write!(
                f,
                "Virtio device id {found} is another device; check oprofile.device-id"
            ),
            Self::LegacyDevice => f.write_str("The device offers no VIRTIO_F_VERSION_1"),
            Self::FeaturesRefused => f.write_str("The device refused its own features"),
            Self::QueueUnavailable(queue) => write!(f, "Queue {queue} is missing or in use"),
        }
    }
}

impl core::error::Error for TransportError {}

/// A way to a virtio device.
///
/// A clone is another handle of the same device. [`notify`](Self::notify), [`write_config`](Self::write_config) and
/// [`acknowledge_interrupt`](Self::acknowledge_interrupt) are single register accesses that any vCPU may make at any time; the
/// others belong to one initialisation, or to whoever holds the [`crate::Control`] lock.
pub trait Transport: Clone {
    /// Checks that there is a device with this id.
    ///
    /// # Errors
    /// When the transport's identification or the id is another one.
    fn probe(&self, device_id: u32) -> Result<(), TransportError>;
    /// The device status field.
    fn status(&self) -> u32;
    /// Sets the device status field; 0 resets the device.
    fn set_status(&self, status: u32);
    /// Features offered.
    fn device_features(&self) -> u64;
    /// Features accepted.
    fn set_driver_features(&self, features: u64);
    /// Most entries of a queue; 0 when it does not exist or is already in use.
    fn queue_limit(&self, queue: u16) -> u16;
    /// Hands a queue of `size` entries to the device; it must exist.
    fn enable_queue(&self, queue: u16, size: u16, addresses: &QueueAddresses);
    /// Tells the device that a queue has new entries.
    fn notify(&self, queue: u16);
    /// Changes whenever the configuration does.
    fn config_generation(&self) -> u32;
    /// Reads the aligned 32-bit word of the configuration space at `offset` bytes.
    fn read_config(&self, offset: usize) -> u32;
    /// Writes the aligned 32-bit word of the configuration space at `offset` bytes.
    fn write_config(&self, offset: usize, value: u32);
    /// Takes and clears the cause of the device's interrupt.
    fn acknowledge_interrupt(&self) -> InterruptCause;
}

/// Most polls of the status field until a reset shows. Emulated devices answer the first read; the bound keeps
/// a broken one from hanging the guest.
const RESET_POLLS: usize = 1_000_000;

/// Resets the device and agrees on features (virtio 1.2 §3.1.1, steps 1 to 6), `optional` ones where offered.
/// Returns those in force.
pub(crate) fn negotiate<T: Transport>(transport: &T, optional: u64) -> Result<u64, TransportError> {
    transport.set_status(0);
    for _ in 0..RESET_POLLS {
        if transport.status() == 0 {
            break;
        }
        core::hint::spin_loop();
    }
    let mut status = status::ACKNOWLEDGE;
    transport.set_status(status);
    status |= status::DRIVER;
    transport.set_status(status);
    let offered = transport.device_features();
    if offered & feature::VERSION_1 == 0 {
        return Err(TransportError::LegacyDevice);
    }
    let features = offered & (feature::VERSION_1 | optional);
    transport.set_driver_features(features);
    status |= status::FEATURES_OK;
    transport.set_status(status);
    if transport.status() & status::FEATURES_OK == 0 {
        return Err(TransportError::FeaturesRefused);
    }
    Ok(features)
}
