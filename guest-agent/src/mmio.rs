//! Virtio over MMIO, version 2 registers (virtio 1.2 §4.2.2).

use core::ptr::NonNull;

use crate::transport::{InterruptCause, QueueAddresses, Transport, TransportError};

/// Bytes of a device's register window.
pub const WINDOW_BYTES: usize = 0x1000;

/// "virt" in memory.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");

/// The register layout after the legacy one.
const VERSION: u32 = 2;

/// Register offsets.
pub mod register {
    /// "virt".
    pub const MAGIC_VALUE: usize = 0x000;
    /// Layout of the registers.
    pub const VERSION: usize = 0x004;
    /// Device type.
    pub const DEVICE_ID: usize = 0x008;
    /// 32 of the offered features.
    pub const DEVICE_FEATURES: usize = 0x010;
    /// Which 32.
    pub const DEVICE_FEATURES_SEL: usize = 0x014;
    /// 32 of the accepted features.
    pub const DRIVER_FEATURES: usize = 0x020;
    /// Which 32.
    pub const DRIVER_FEATURES_SEL: usize = 0x024;
    /// Queue that the queue registers mean.
    pub const QUEUE_SEL: usize = 0x030;
    /// Most entries of it.
    pub const QUEUE_NUM_MAX: usize = 0x034;
    /// Entries of it.
    pub const QUEUE_NUM: usize = 0x038;
    /// 1 when it is in use.
    pub const QUEUE_READY: usize = 0x044;
    /// Takes a queue index.
    pub const QUEUE_NOTIFY: usize = 0x050;
    /// Why an interrupt came: bit 0 a queue, bit 1 the configuration.
    pub const INTERRUPT_STATUS: usize = 0x060;
    /// Clears bits of the cause.
    pub const INTERRUPT_ACK: usize = 0x064;
    /// Device status.
    pub const STATUS: usize = 0x070;
    /// Descriptor table, low half; the high one is 4 bytes on.
    pub const QUEUE_DESC_LOW: usize = 0x080;
    /// Available ring, low half.
    pub const QUEUE_DRIVER_LOW: usize = 0x090;
    /// Used ring, low half.
    pub const QUEUE_DEVICE_LOW: usize = 0x0a0;
    /// Changes with the configuration.
    pub const CONFIG_GENERATION: usize = 0x0fc;
    /// Configuration space.
    pub const CONFIG: usize = 0x100;
}

/// A window of 32-bit registers; tests put a scripted device behind one.
pub trait Registers: Clone {
    /// Reads the register at `offset`, a multiple of 4 below [`WINDOW_BYTES`].
    fn read(&self, offset: usize) -> u32;
    /// Writes the register at `offset`.
    fn write(&self, offset: usize, value: u32);
}

/// Registers in the address space.
#[derive(Clone, Copy, Debug)]
pub struct Window(NonNull<u32>);

// SAFETY: a window has no state of its own, and device registers may be accessed from any vCPU.
unsafe impl Send for Window {}
// SAFETY: as above; which accesses may overlap is stated by `Transport`.
unsafe impl Sync for Window {}

impl Window {
    /// The window that is mapped at `base`.
    ///
    /// # Safety
    /// [`WINDOW_BYTES`] of device registers are mapped there, uncached, for as long as the kernel runs, 4-byte aligned.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u32>) -> Self {
        Self(base)
    }

    fn at(self, offset: usize) -> *mut u32 {
        debug_assert!(offset.is_multiple_of(4) && offset < WINDOW_BYTES);
        self.0.as_ptr().wrapping_byte_add(offset)
    }
}

impl Registers for Window {
    fn read(&self, offset: usize) -> u32 {
        // SAFETY: offsets are the constants above or within the 56-byte configuration space, so inside the window
        // that `new` had proved; device memory is accessed volatile.
        unsafe { self.at(offset).read_volatile() }
    }

    fn write(&self, offset: usize, value: u32) {
        // SAFETY: as in `read`.
        unsafe { self.at(offset).write_volatile(value) }
    }
}

/// A virtio-mmio device.
#[derive(Clone, Copy, Debug)]
pub struct MmioTransport<R = Window> {
    registers: R,
}

impl<R: Registers> MmioTransport<R> {
    /// The device behind `registers`; nothing is accessed yet.
    #[must_use]
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves are what is meant"
    )]
    fn write_pair(&self, low: usize, value: u64) {
        self.registers.write(low, value as u32);
        self.registers.write(low + 4, (value >> 32) as u32);
    }
}

impl<R: Registers> Transport for MmioTransport<R> {
    fn probe(&self, device_id: u32) -> Result<(), TransportError> {
        let magic = self.registers.read(register::MAGIC_VALUE);
        if magic != MAGIC {
            return Err(TransportError::NoTransport(magic));
        }
        let version = self.registers.read(register::VERSION);
        if version != VERSION {
            return Err(TransportError::UnsupportedVersion(version));
        }
        let id = self.registers.read(register::DEVICE_ID);
        if id != device_id {
            return Err(TransportError::WrongDevice(id));
        }
        Ok(())
    }

    fn status(&self) -> u32 {
        self.registers.read(register::STATUS)
    }

    fn set_status(&self, status: u32) {
        self.registers.write(register::STATUS, status);
    }

    fn device_features(&self) -> u64 {
        let half = |select| {
            self.registers.write(register::DEVICE_FEATURES_SEL, select);
            u64::from(self.registers.read(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves are what is meant"
    )]
    fn set_driver_features(&self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.registers.write(register::DRIVER_FEATURES_SEL, select);
            self.registers.write(register::DRIVER_FEATURES, half);
        }
    }

    fn queue_limit(&self, queue: u16) -> u16 {
        self.registers.write(register::QUEUE_SEL, u32::from(queue));
        if self.registers.read(register::QUEUE_READY) != 0 {
            return 0;
        }
        u16::try_from(self.registers.read(register::QUEUE_NUM_MAX)).unwrap_or(u16::MAX)
    }

    fn enable_queue(&self, queue: u16, size: u16, addresses: &QueueAddresses) {
        self.registers.write(register::QUEUE_SEL, u32::from(queue));
        self.registers.write(register::QUEUE_NUM, u32::from(size));
        self.write_pair(register::QUEUE_DESC_LOW, addresses.descriptors);
        self.write_pair(register::QUEUE_DRIVER_LOW, addresses.driver);
        self.write_pair(register::QUEUE_DEVICE_LOW, addresses.device);
        self.registers.write(register::QUEUE_READY, 1);
    }

    #[inline]
    fn notify(&self, queue: u16) {
        self.registers
            .write(register::QUEUE_NOTIFY, u32::from(queue));
    }

    fn config_generation(&self) -> u32 {
        self.registers.read(register::CONFIG_GENERATION)
    }

    fn read_config(&self, offset: usize) -> u32 {
        self.registers.read(register::CONFIG + offset)
    }

    fn write_config(&self, offset: usize, value: u32) {
        self.registers.write(register::CONFIG + offset, value);
    }

    fn acknowledge_interrupt(&self) -> InterruptCause {
        let cause = self.registers.read(register::INTERRUPT_STATUS);
        self.registers.write(register::INTERRUPT_ACK, cause);
        InterruptCause {
            queue: cause & 1 != 0,
            config: cause & 2 != 0,
        }
    }
}
