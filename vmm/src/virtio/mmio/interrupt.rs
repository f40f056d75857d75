//! The interrupt line of a window, its status register and the configuration generation.

use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::registers::interrupt;
use crate::virtio::Interrupt;

/// Shared by the transport, which answers the driver, and by the device, which raises it.
#[derive(Debug)]
pub struct MmioInterrupt {
    irq: EventFd,
    status: AtomicU32,
    generation: AtomicU32,
}

impl MmioInterrupt {
    /// An interrupt that is raised by writing to `irq`, an irqfd of an edge-triggered line.
    pub fn new(irq: EventFd) -> Self {
        Self {
            irq,
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
        }
    }

    /// Why the line was raised, since the last acknowledgements.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// The driver has handled these reasons.
    pub fn acknowledge(&self, handled: u32) {
        self.status.fetch_and(!handled, Ordering::AcqRel);
    }

    /// Changes whenever the configuration space did (virtio 1.2 §2.5.1).
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Raises the line, for whichever reasons are set in `reason`.
    pub fn raise(&self, reason: u32) {
        self.status.fetch_or(reason, Ordering::AcqRel);
        // Fails only when the counter of unhandled raises is full: then the line is raised already.
        if let Err(error) = self.irq.write(1) {
            tracing::debug!("Interrupt not raised again: {error}");
        }
    }

    /// The device has been reset: nothing is pending.
    pub fn reset(&self) {
        self.status.store(0, Ordering::Release);
    }
}

impl Interrupt for MmioInterrupt {
    fn signal_queue(&self, _queue: u16) {
        self.raise(interrupt::USED);
    }

    fn signal_config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(interrupt::CONFIG);
    }
}
