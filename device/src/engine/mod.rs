//! The profiling engine: queues in, words out. Everything in here runs under the device's one lock.

mod link;

use std::sync::Arc;

use oprofile_wire::{CONTROL_QUEUE, sample_queue};
use vm_memory::GuestMemoryBackend;

use crate::account::{Account, VcpuAccount};
use crate::cookies::{CookieTarget, Cookies};
use crate::event_buffer::SharedEvents;
use crate::fault::{Fault, Faults};
use crate::front::chain;
use crate::kernel::Kernel;
use crate::sync::Pipeline;

pub(crate) use link::Link;

/// Everything that outlives one call.
#[derive(Debug)]
pub(crate) struct Engine {
    vcpus: Vec<VcpuAccount>,
    events: SharedEvents,
    pipeline: Pipeline<u64>,
    cookies: Cookies,
    kernel: Option<Arc<Kernel>>,
    faults: Faults,
    said_hello: bool,
    quiesced: bool,
    requests: u64,
    buffers_unread: u64,
    /// Kicks of the control queue and of none.
    other_kicks: u64,
    bad_doorbells: u64,
}

impl Engine {
    pub fn new(vcpus: u16, events: SharedEvents) -> Self {
        Self {
            vcpus: vec![VcpuAccount::default(); usize::from(vcpus)],
            events,
            pipeline: Pipeline::default(),
            cookies: Cookies::default(),
            kernel: None,
            faults: Faults::default(),
            said_hello: false,
            quiesced: false,
            requests: 0,
            buffers_unread: 0,
            other_kicks: 0,
            bad_doorbells: 0,
        }
    }

    pub fn fault(&mut self, fault: Fault, context: impl FnOnce() -> String) {
        self.faults.count(fault, context);
    }

    pub const fn quiesced(&self) -> bool {
        self.quiesced
    }

    /// Samples are wanted (again).
    pub const fn resume(&mut self) {
        self.quiesced = false;
    }

    pub fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        self.cookies.target(cookie)
    }

    pub fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.clone()
    }

    pub fn account(&self) -> Account {
        let sum = |figure: fn(&VcpuAccount) -> u64| self.vcpus.iter().map(figure).sum::<u64>();
        Account {
            said_hello: self.said_hello,
            received: sum(|vcpu| vcpu.received),
            sync: self.pipeline.account(),
            statistics: self.pipeline.statistics(),
            lost: sum(|vcpu| vcpu.lost),
            invalid: sum(|vcpu| vcpu.invalid),
            malformed: sum(|vcpu| vcpu.malformed),
            aborted: sum(|vcpu| vcpu.aborted),
            lost_words: self.events.lock().lost_words(),
            buffers: sum(|vcpu| vcpu.buffers),
            buffers_unread: self.buffers_unread,
            requests: self.requests,
            kicks: sum(|vcpu| vcpu.kicks) + self.other_kicks,
            doorbells: sum(|vcpu| vcpu.doorbells) + self.bad_doorbells,
            syncs: sum(|vcpu| vcpu.syncs),
            cookies: self.cookies.len() as u64,
            faults: self.faults.clone(),
            vcpus: self.vcpus.clone(),
        }
    }

    /// The doorbell was rung for `vcpu`.
    pub fn doorbell<M: GuestMemoryBackend>(&mut self, vcpu: u32, link: Option<&mut Link<M>>) {
        let index = u16::try_from(vcpu).unwrap_or(u16::MAX);
        let Some(account) = self.vcpus.get_mut(usize::from(index)) else {
            self.bad_doorbells += 1;
            self.fault(Fault::BadDoorbell, || format!("vCPU {vcpu}"));
            return;
        };
        account.doorbells += 1;
        if let Some(link) = link {
            self.sync_vcpu(index, link);
        }
    }

    /// `queue` was notified.
    pub fn kick<M: GuestMemoryBackend>(&mut self, queue: u16, link: Option<&mut Link<M>>) {
        if queue == CONTROL_QUEUE {
            self.other_kicks += 1;
            return;
        }
        let vcpu = queue - 1;
        let Some(account) = self.vcpus.get_mut(usize::from(vcpu)) else {
            self.other_kicks += 1;
            self.fault(Fault::BadKick, || format!("queue {queue}"));
            return;
        };
        account.kicks += 1;
        if let Some(link) = link {
            self.sync_vcpu(vcpu, link);
        }
    }

    /// The periodic sync.
    pub fn tick<M: GuestMemoryBackend>(&mut self, link: Option<&mut Link<M>>) {
        if let Some(link) = link {
            self.sync_all(link);
        }
    }

    /// The device goes inactive.
    pub fn reset<M: GuestMemoryBackend>(&mut self, link: &mut Link<M>) {
        self.sync_all(link);
    }

    fn sync_all<M: GuestMemoryBackend>(&mut self, link: &mut Link<M>) {
        for vcpu in 0..u16::try_from(self.vcpus.len()).unwrap_or(u16::MAX) {
            self.sync_vcpu(vcpu, link);
        }
    }

    /// Takes what is in a vCPU's sample queue now.
    fn sync_vcpu<M: GuestMemoryBackend>(&mut self, vcpu: u16, link: &mut Link<M>) {
        let queue = sample_queue(vcpu);
        let pending = link.pending(queue, &mut self.faults);
        self.discard(vcpu, pending, link);
        link.finish(queue, pending != 0, &mut self.faults);
    }

    /// Completes buffers unread.
    fn discard<M: GuestMemoryBackend>(&mut self, vcpu: u16, pending: u16, link: &mut Link<M>) {
        let queue = sample_queue(vcpu);
        let memory = Arc::clone(&link.memory);
        for _ in 0..pending {
            let Some(ring) = link.queues.get_mut(usize::from(queue)) else {
                return;
            };
            let head = match chain::take(ring, &*memory) {
                Ok(Some(chain)) => chain.head_index(),
                Ok(None) | Err(_) => return,
            };
            self.buffers_unread += 1;
            self.fault(Fault::BufferBeforeHello, || format!("vCPU {vcpu}"));
            link.complete(queue, head, 0, &mut self.faults);
        }
    }
}
