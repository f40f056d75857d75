//! The profiling device behind the transport's trait.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use oprofile_device::Device;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use crate::virtio::{Interrupt, VirtioDevice};

/// A [`Device`] with the id it has in this VM.
pub struct ProfilingDevice {
    id: u32,
    device: Arc<Device<GuestMemoryMmap>>,
}

impl fmt::Debug for ProfilingDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfilingDevice")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl ProfilingDevice {
    /// `device` under the virtio device id `id`.
    pub fn new(id: u32, device: Arc<Device<GuestMemoryMmap>>) -> Self {
        Self { id, device }
    }
}

/// The transport's interrupt as the device crate wants it.
struct Adapter(Arc<dyn Interrupt>);

impl oprofile_device::Interrupt for Adapter {
    fn signal_queue(&self, queue: u16) {
        self.0.signal_queue(queue);
    }

    fn signal_config(&self) {
        self.0.signal_config();
    }
}

impl VirtioDevice for ProfilingDevice {
    fn id(&self) -> u32 {
        self.id
    }

    fn features(&self) -> u64 {
        self.device.features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        self.device.queue_sizes()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.device.write_config(offset, data);
    }

    fn activate(
        &self,
        memory: Arc<GuestMemoryMmap>,
        queues: Vec<Queue>,
        features: u64,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let interrupt = Arc::new(Adapter(interrupt));
        Ok(self.device.activate(memory, queues, features, interrupt)?)
    }

    fn reset(&self) {
        // The transport rebuilds queues from its registers.
        self.device.reset();
    }

    fn notify(&self, queue: u16) {
        self.device.notify(queue);
    }
}
