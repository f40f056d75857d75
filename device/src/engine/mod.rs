//! The profiling engine: queues in, words out. Everything in here runs under the device's one lock.
//!
//! | module | what it does |
//! |---|---|
//! | `link` | guest memory and queues, while the device is active |
//! | `samples` | sample buffers: copied, checked, their counters settled |
//! | `control` | control requests, executed |

mod control;
mod link;
mod samples;

use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use oprofile_wire::config::capability;
use oprofile_wire::sample::{ESCAPE, Entry, MAX_BUFFER_BYTES, note};
use oprofile_wire::{CONTROL_QUEUE, sample_queue};
use vm_memory::GuestMemoryBackend;

use crate::account::{Account, VcpuAccount};
use crate::clock::ClockAccount;
use crate::control::lists::Lists;
use crate::cookies::{CookieTarget, Cookies};
use crate::event_buffer::SharedEvents;
use crate::fault::{Fault, FaultLog};
use crate::front::chain::Segments;
use crate::front::config::capabilities;
use crate::guest::{Budget, Guest, GuestWorld};
use crate::kernel::Kernel;
use crate::perf_map::{PerfMap, PerfMaps};
use crate::settings::Settings;
use crate::sync::Pipeline;

pub(crate) use link::Link;

use control::Held;
use samples::{Buffer, BufferError, Scratch, Totals};

/// What the mortuary keeps: a task-free request, all of whose tasks died together.
type Ticket = u64;

/// Everything that outlives one call.
#[derive(Debug)]
pub(crate) struct Engine {
    late_samples: bool,
    /// What the device can do, and what of it is in force since the hello.
    offered: u64,
    capabilities: u64,
    vcpus: Vec<VcpuAccount>,
    totals: Vec<Totals>,
    events: SharedEvents,
    pipeline: Pipeline<Ticket>,
    cookies: Cookies,
    maps: PerfMaps,
    /// The guest whose hello is in force.
    guest: Option<Guest>,
    /// What a guest may cost; with the guest while there is one, and handed on to the next.
    budget: Budget,
    kernel: Option<Arc<Kernel>>,
    lists: Lists,
    held: Vec<Held>,
    last_ticket: Ticket,
    faults: FaultLog,
    said_hello: bool,
    /// As the last hello said.
    clock_events: u32,
    quiesced: bool,
    requests: u64,
    buffers_unread: u64,
    /// Kicks of the control queue and of none.
    other_kicks: u64,
    bad_doorbells: u64,
    /// Of the chain that was taken last.
    segments: Segments,
    scratch: Scratch,
    request_bytes: Vec<u8>,
    /// vCPUs of a sync and how many buffers wait for it; its memory is used again.
    pending: Vec<(u16, u16)>,
}

impl Engine {
    pub fn new(settings: &Settings, events: SharedEvents, wanted_maps: Arc<AtomicU32>) -> Self {
        let vcpus = settings.vcpus;
        Self {
            late_samples: settings.late_samples,
            offered: capabilities(settings),
            capabilities: 0,
            vcpus: vec![VcpuAccount::default(); usize::from(vcpus)],
            totals: vec![Totals::default(); usize::from(vcpus)],
            events,
            pipeline: Pipeline::default(),
            cookies: Cookies::default(),
            maps: PerfMaps::new(wanted_maps),
            guest: None,
            budget: Budget::default(),
            kernel: None,
            lists: Lists::default(),
            held: Vec::new(),
            last_ticket: 0,
            faults: FaultLog::default(),
            said_hello: false,
            clock_events: 0,
            quiesced: false,
            requests: 0,
            buffers_unread: 0,
            other_kicks: 0,
            bad_doorbells: 0,
            segments: Segments::default(),
            scratch: Scratch::default(),
            request_bytes: Vec::new(),
            pending: Vec::new(),
        }
    }

    pub fn fault(&self, fault: Fault, context: impl FnOnce() -> String) {
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

    pub fn vdso(&self, cookie: u64) -> Option<Arc<[u8]>> {
        self.cookies.vdso(cookie)
    }

    /// What is known of code of its own making in an anonymous region.
    pub fn perf_map(&self, cookie: u64) -> Option<Arc<PerfMap>> {
        let Some(CookieTarget::Anonymous { tgid, .. }) = self.cookies.target(cookie) else {
            return None;
        };
        match self.cookies.vdso(cookie) {
            Some(_) => None,
            None => self.maps.of_region(tgid, cookie),
        }
    }

    /// Whether the configuration space has changed by itself since this was asked last.
    pub const fn take_config_change(&mut self) -> bool {
        self.maps.take_change()
    }

    pub fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.clone()
    }

    pub fn account(&self) -> Account {
        let sum = |figure: fn(&VcpuAccount) -> u64| {
            self.vcpus.iter().map(figure).fold(0, u64::wrapping_add)
        };
        let builds = self.cookies.builds();
        let maps = self.maps.counts();
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
            clock: ClockAccount::default(),
            guest_clock_events: self.clock_events,
            build_ids: builds.with_id,
            build_ids_none: builds.without_id,
            build_ids_unreadable: builds.unreadable,
            perf_maps: maps.maps,
            perf_map_functions: maps.functions,
            perf_maps_cut: maps.cut,
            faults: self.faults.snapshot(),
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
        let Some(vcpu) = queue.checked_sub(sample_queue(0)) else {
            self.other_kicks += 1;
            if let Some(link) = link {
                self.control(link);
            }
            return;
        };
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

    /// The periodic sync. It also looks for requests, in case a notification went astray.
    pub fn tick<M: GuestMemoryBackend>(&mut self, link: Option<&mut Link<M>>) {
        match &mut self.guest {
            Some(guest) => guest.tick(),
            None => self.budget.tick(),
        }
        let Some(link) = link else {
            return;
        };
        if link.pending(CONTROL_QUEUE, &self.faults) != 0 {
            self.control(link);
        }
        self.sync_all(link);
        self.maps.tick();
    }

    /// The device goes inactive.
    pub fn reset<M: GuestMemoryBackend>(&mut self, link: &mut Link<M>) {
        self.sync_all(link);
        self.forget_guest(link);
        self.held.clear();
        self.quiesced = false;
    }

    /// Syncs all vCPUs, as one: what is known of the guest by one of them serves all.
    fn sync_all<M: GuestMemoryBackend>(&mut self, link: &mut Link<M>) {
        self.sync_vcpus(0..u16::try_from(self.vcpus.len()).unwrap_or(u16::MAX), link);
    }

    fn sync_vcpu<M: GuestMemoryBackend>(&mut self, vcpu: u16, link: &mut Link<M>) {
        self.sync_vcpus(vcpu..vcpu.saturating_add(1), link);
    }

    /// Takes what is in the sample queues of these vCPUs now; what arrives meanwhile waits for the next sync.
    fn sync_vcpus<M: GuestMemoryBackend>(&mut self, vcpus: Range<u16>, link: &mut Link<M>) {
        let mut pending = mem::take(&mut self.pending);
        pending.clear();
        for vcpu in vcpus {
            if let Some(account) = self.vcpus.get_mut(usize::from(vcpu)) {
                account.syncs += 1;
            }
            // All of them are looked at first: what is read of the guest must be younger than every sample.
            pending.push((vcpu, link.pending(sample_queue(vcpu), &self.faults)));
        }
        match self.guest.take() {
            None => {
                for &(vcpu, pending) in &pending {
                    self.discard(vcpu, pending, link);
                }
            }
            Some(mut guest) => {
                let freed = self.resolve(&pending, &mut guest, link);
                self.guest = Some(guest);
                self.release(&freed, link);
            }
        }
        self.pending = pending;
    }

    /// Feeds the pipeline with the buffers of one sync; returns what the mortuary freed.
    fn resolve<M: GuestMemoryBackend>(
        &mut self,
        vcpus: &[(u16, u16)],
        guest: &mut Guest,
        link: &mut Link<M>,
    ) -> Vec<Ticket> {
        let memory = Arc::clone(&link.memory);
        let full_syncs = self.pipeline.mortuary().passes();
        let mut world =
            GuestWorld::new(guest, &*memory, &mut self.cookies, &self.faults, full_syncs);
        if self.capabilities & capability::PERF_MAPS != 0 {
            world.watch(&mut self.maps);
        }
        let mut freed = Vec::new();
        for &(vcpu, pending) in vcpus {
            if pending == 0 {
                // An empty sync writes no words, so an idle guest fills no buffer, but it counts for the mortuary.
                freed.append(&mut self.pipeline.mortuary_mut().mark(vcpu));
                continue;
            }
            let queue = sample_queue(vcpu);
            let mut events = self.events.lock();
            let mut sync = self.pipeline.begin(vcpu, &mut events);
            for _ in 0..pending {
                let segments = &mut self.segments;
                let Some((head, collected)) =
                    link.take(queue, MAX_BUFFER_BYTES, segments, &self.faults)
                else {
                    break;
                };
                let buffer = collected
                    .map_err(BufferError::from)
                    .and_then(|()| Buffer::read(&*memory, &self.segments, vcpu));
                let index = usize::from(vcpu);
                match (
                    buffer,
                    self.vcpus.get_mut(index),
                    self.totals.get_mut(index),
                ) {
                    (Ok(buffer), Some(account), Some(totals)) => {
                        account.buffers += 1;
                        let before = sync.account().samples();
                        sync.boundary();
                        let faults = &self.faults;
                        let read = buffer.entries(&*memory, &mut self.scratch, |entry, words| {
                            if is_space_note(&entry) {
                                take_space_note(&mut world, &entry);
                                return;
                            }
                            let (entry, left_out) = samples::without_unknown_record(entry);
                            if left_out {
                                faults.count(Fault::BadRecord, || format!("vCPU {vcpu}"));
                            }
                            sync.entry_before(&mut world, entry, words);
                        });
                        if let Err(error) = read {
                            faults.count(Fault::CutBuffer, || format!("vCPU {vcpu}: {error:?}"));
                        }
                        let decoded = sync.account().samples() - before;
                        totals.settle(&buffer, decoded, account, &self.faults);
                    }
                    (buffer, account, _) => {
                        if let Some(account) = account {
                            account.buffers += 1;
                        }
                        self.buffers_unread += 1;
                        if let Err(error) = buffer {
                            self.faults
                                .count(error.fault(), || format!("vCPU {vcpu}: {error}"));
                        }
                    }
                }
                // The buffer is the driver's again: nothing refers into it any more.
                link.complete(queue, head, 0, &self.faults);
            }
            freed.append(&mut sync.end());
            link.finish(queue, true, &self.faults);
        }
        freed
    }

    /// Completes the buffers of a driver that has not said hello, unread.
    fn discard<M: GuestMemoryBackend>(&mut self, vcpu: u16, pending: u16, link: &mut Link<M>) {
        if pending == 0 {
            return;
        }
        let queue = sample_queue(vcpu);
        for _ in 0..pending {
            let segments = &mut self.segments;
            let Some((head, _)) = link.take(queue, MAX_BUFFER_BYTES, segments, &self.faults) else {
                break;
            };
            if let Some(account) = self.vcpus.get_mut(usize::from(vcpu)) {
                account.buffers += 1;
            }
            self.buffers_unread += 1;
            self.fault(Fault::BufferBeforeHello, || format!("vCPU {vcpu}"));
            link.complete(queue, head, 0, &self.faults);
        }
        link.finish(queue, true, &self.faults);
    }
}

/// Whether an entry is a note for the device itself, which OProfile's pipeline does not know.
#[inline]
const fn is_space_note(entry: &Entry<'_>) -> bool {
    entry.eip == ESCAPE && entry.event & (note::SPACE_CHANGES | note::SPACE_RELEASED) != 0
}

/// Takes a note of what will happen to an address space. One without a pointer says nothing.
#[cold]
fn take_space_note<M: GuestMemoryBackend>(world: &mut GuestWorld<'_, M>, entry: &Entry<'_>) {
    let [space] = *entry.data else {
        return;
    };
    if entry.event & note::SPACE_CHANGES != 0 {
        world.space_changes(space);
    }
    if entry.event & note::SPACE_RELEASED != 0 {
        world.space_released(space);
    }
}
