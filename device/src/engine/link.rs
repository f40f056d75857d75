//! What the device has only while it is active: guest memory and queues.

use std::fmt;
use std::mem;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryBackend;

use crate::clock::HostClock;
use crate::fault::{Fault, FaultLog};
use crate::front::chain::{self, ChainError, Segments};

/// Guest memory, the queues in it, and the interrupts that became due.
pub(crate) struct Link<M> {
    pub memory: Arc<M>,
    pub queues: Vec<Queue>,
    pub clock: Arc<HostClock<M>>,
    signals: Vec<u16>,
}

impl<M> fmt::Debug for Link<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl<M> Link<M> {
    pub const fn new(memory: Arc<M>, queues: Vec<Queue>, clock: Arc<HostClock<M>>) -> Self {
        Self {
            memory,
            queues,
            clock,
            signals: Vec::new(),
        }
    }

    pub fn into_queues(self) -> Vec<Queue> {
        self.queues
    }

    /// Queues whose driver is to be interrupted.
    pub fn take_signals(&mut self) -> Vec<u16> {
        mem::take(&mut self.signals)
    }
}

impl<M: GuestMemoryBackend> Link<M> {
    /// Chains that wait in `queue`: a snapshot; none when its ring cannot be read.
    pub fn pending(&self, queue: u16, faults: &FaultLog) -> u16 {
        let Some(ring) = self.queues.get(usize::from(queue)) else {
            return 0;
        };
        chain::pending(ring, &*self.memory).unwrap_or_else(|error| {
            faults.count(Fault::BadRing, || format!("queue {queue}: {error}"));
            0
        })
    }

    /// Takes the next chain of `queue`: its head, and its buffers in `segments` unless it is refused.
    pub fn take(
        &mut self,
        queue: u16,
        max_bytes: usize,
        segments: &mut Segments,
        faults: &FaultLog,
    ) -> Option<(u16, Result<(), ChainError>)> {
        let ring = self.queues.get_mut(usize::from(queue))?;
        let size = ring.size();
        match chain::take(ring, &*self.memory) {
            Ok(chain) => {
                let chain = chain?;
                let head = chain.head_index();
                Some((head, segments.collect(chain, size, max_bytes)))
            }
            Err(error) => {
                faults.count(Fault::BadRing, || format!("queue {queue}: {error}"));
                None
            }
        }
    }

    /// Gives a chain back to the driver, `written` bytes of it filled.
    pub fn complete(&mut self, queue: u16, head: u16, written: u32, faults: &FaultLog) {
        if let Some(ring) = self.queues.get_mut(usize::from(queue))
            && let Err(error) = ring.add_used(&*self.memory, head, written)
        {
            faults.count(Fault::BadRing, || format!("queue {queue}: {error}"));
        }
    }

    /// After a run of completions: notes an interrupt when the driver wants one, and asks for a notification of what
    /// comes next.
    pub fn finish(&mut self, queue: u16, completed: bool, faults: &FaultLog) {
        let Some(ring) = self.queues.get_mut(usize::from(queue)) else {
            return;
        };
        if !ring.ready() {
            return;
        }
        let mut finished = || -> Result<bool, virtio_queue::Error> {
            let wanted = completed && chain::wants_interrupt(ring, &*self.memory)?;
            // What arrived meanwhile is taken by the next sync, so the answer does not matter.
            ring.enable_notification(&*self.memory)?;
            Ok(wanted)
        };
        match finished() {
            Ok(true) => self.signals.push(queue),
            Ok(false) => {}
            Err(error) => faults.count(Fault::BadRing, || format!("queue {queue}: {error}")),
        }
    }
}
