//! The device: its features, its configuration space, its queue.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::image::Image;
use super::request::{MAX_SEGMENTS, Request};
use crate::virtio::{Interrupt, VirtioDevice};

/// Entries of the queue.
const QUEUE_SIZE: u16 = 256;

/// Requests that are served before the lock is given back, so that a reset does not wait for a guest that never stops asking.
const BATCH: usize = QUEUE_SIZE as usize;

/// Bytes of the configuration space up to the number of segments (virtio 1.2 §5.2.4).
const CONFIG_BYTES: usize = 16;

struct Active {
    memory: Arc<GuestMemoryMmap>,
    queue: Queue,
    interrupt: Arc<dyn Interrupt>,
}

/// A disk for one guest.
pub struct BlockDevice {
    image: Image,
    active: Mutex<Option<Active>>,
}

impl fmt::Debug for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockDevice")
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

impl BlockDevice {
    /// A disk with the content of `image`.
    pub const fn new(image: Image) -> Self {
        Self {
            image,
            active: Mutex::new(None),
        }
    }

    /// A queue is taken or put whole, so a panic of another thread under the lock does no harm.
    fn lock(&self) -> MutexGuard<'_, Option<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves what is in the queue; returns whether there may be more.
    pub fn serve(&self) -> bool {
        let mut guard = self.lock();
        let Some(active) = guard.as_mut() else {
            return false;
        };
        match active.serve(&self.image) {
            Ok(more) => more,
            Err(error) => {
                // The rings cannot be followed any more; the driver has to reset.
                tracing::warn!("A disk's queue is broken: {error}");
                *guard = None;
                false
            }
        }
    }

    fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        config[..8].copy_from_slice(&self.image.sectors().to_le_bytes());
        let segments = u32::try_from(MAX_SEGMENTS).unwrap_or(u32::MAX);
        config[12..].copy_from_slice(&segments.to_le_bytes());
        config
    }
}

impl Active {
    fn serve(&mut self, image: &Image) -> Result<bool, virtio_queue::Error> {
        let memory = &*self.memory;
        let mut served = 0;
        let mut used = false;
        let more = loop {
            self.queue.disable_notification(memory)?;
            let before = served;
            // Not `pop_descriptor_chain`: it takes an available index that is more than a queue ahead for an empty queue.
            while served < BATCH
                && let Some(chain) = self.queue.iter(memory)?.next()
            {
                let head = chain.head_index();
                let written = match Request::parse(chain, memory) {
                    Ok(request) => request.execute(memory, image),
                    Err(error) => {
                        tracing::debug!("A disk's request is unusable: {error:?}");
                        0
                    }
                };
                self.queue.add_used(memory, head, written)?;
                served += 1;
                used = true;
            }
            if served >= BATCH {
                break true;
            }
            let more = self.queue.enable_notification(memory)?;
            if !more {
                break false;
            }
            // There is more, and it cannot be had.
            if served == before {
                return Err(virtio_queue::Error::InvalidAvailRingIndex);
            }
        };
        if used && self.queue.needs_notification(memory)? {
            self.interrupt.signal_queue(0);
        }
        Ok(more)
    }
}

impl VirtioDevice for BlockDevice {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_SEG_MAX,
        ];
        if self.image.is_read_only() {
            bits.push(VIRTIO_BLK_F_RO);
        }
        bits.into_iter()
            .fold(0, |features, bit| features | 1 << bit)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, byte) in data.iter_mut().enumerate() {
            let at = start.saturating_add(index);
            *byte = config.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn activate(
        &self,
        memory: Arc<GuestMemoryMmap>,
        queues: Vec<Queue>,
        features: u64,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut queue = queues.into_iter().next().ok_or("there is no queue")?;
        if !queue.is_valid(&*memory) {
            return Err("the queue lies outside guest memory or is not ready".into());
        }
        queue.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        *self.lock() = Some(Active {
            memory,
            queue,
            interrupt,
        });
        Ok(())
    }

    fn reset(&self) {
        *self.lock() = None;
    }

    fn notify(&self, _queue: u16) {
        // KVM notifies the worker; this one comes only where no ioeventfd is connected.
        while self.serve() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::desc::split::Descriptor;
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    #[derive(Default)]
    struct Raised(AtomicU32);

    impl Interrupt for Raised {
        fn signal_queue(&self, _queue: u16) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn signal_config(&self) {}
    }

    fn disk(read_only: bool) -> (tempfile::NamedTempFile, BlockDevice) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [9; 1024]).unwrap();
        let image = Image::open(file.path(), read_only).unwrap();
        (file, BlockDevice::new(image))
    }

    #[test]
    fn configuration_tells_the_capacity_and_no_more() {
        let (_file, disk) = disk(false);
        let mut config = [0xff; 24];
        disk.read_config(0, &mut config);
        assert_eq!(config[..8], 2_u64.to_le_bytes());
        assert_eq!(config[12..16], 254_u32.to_le_bytes());
        assert_eq!(config[16..], [0; 8]);
        disk.read_config(u64::MAX - 1, &mut config[..1]);
        assert_eq!(config[0], 0);
    }

    #[test]
    fn disk_that_is_read_only_says_so() {
        let bit = 1 << VIRTIO_BLK_F_RO;
        assert_eq!(disk(true).1.features() & bit, bit);
        assert_eq!(disk(false).1.features() & bit, 0);
    }

    #[test]
    fn available_index_beyond_the_queue_ends_service() {
        let (_file, disk) = disk(true);
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
        for ahead in [17, u16::MAX] {
            let mock = MockSplitQueue::new(&*memory, 16);
            let queue: Queue = mock.create_queue().unwrap();
            mock.avail().idx().store(ahead);
            let raised = Arc::new(Raised::default());
            disk.activate(memory.clone(), vec![queue], 0, raised)
                .unwrap();
            assert!(!disk.serve());
            // Until the driver resets it and begins again.
            assert!(disk.lock().is_none());
        }
    }

    #[test]
    fn requests_are_served_until_the_reset() {
        let (_file, disk) = disk(true);
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
        let write = u16::try_from(VRING_DESC_F_WRITE).unwrap();
        let piece = |address, length, flags| {
            RawDescriptor::from(Descriptor::new(address, length, flags, 0))
        };
        let mock = MockSplitQueue::new(&*memory, 16);
        let chain = [
            piece(0x8_0000, 16, 0),
            piece(0x9_0000, 512, write),
            piece(0xa_0000, 1, write),
        ];
        mock.build_desc_chain(&chain).unwrap();
        let raised = Arc::new(Raised::default());
        let queue: Queue = mock.create_queue().unwrap();
        disk.activate(memory.clone(), vec![queue], 0, raised.clone())
            .unwrap();
        assert!(!disk.serve());
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x9_0000)).unwrap(), 9);
        assert_eq!(mock.used().idx().load(), 1);
        assert_eq!(raised.0.load(Ordering::Relaxed), 1);
        disk.reset();
        assert!(!disk.serve());
    }
}
