//! What a virtio transport and a device behind it say to each other.

pub mod mmio;

use std::error::Error;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

/// How a device interrupts its driver.
pub trait Interrupt: Send + Sync {
    /// A queue has used buffers.
    fn signal_queue(&self, queue: u16);
    /// The configuration space changed.
    fn signal_config(&self);
}

/// A virtio device, independent of its transport. Called by vCPU threads, several at a time.
///
/// ```text
///            activate
///  inactive ──────────> active
///      ^                  │
///      └───── reset ──────┘
/// ```
pub trait VirtioDevice: Send + Sync {
    /// Device id (virtio 1.2 §5).
    fn id(&self) -> u32;
    /// Feature bits that it offers, `VIRTIO_F_VERSION_1` among them.
    fn features(&self) -> u64;
    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> Vec<u16>;
    /// Reads its configuration space; bytes outside it are 0.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes its configuration space, on the thread of the vCPU that does so.
    fn write_config(&self, offset: u64, data: &[u8]);
    /// The driver is ready. `features` are a subset of those offered; each queue is as the driver set it up.
    ///
    /// # Errors
    /// When the device cannot work like this; it stays inactive.
    fn activate(
        &self,
        memory: Arc<GuestMemoryMmap>,
        queues: Vec<Queue>,
        features: u64,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<(), Box<dyn Error + Send + Sync>>;
    /// The driver resets it: no queue is touched and no interrupt raised after this returns.
    fn reset(&self);
    /// A driver notified a queue; any number may come, before activation too.
    fn notify(&self, queue: u16);
}
