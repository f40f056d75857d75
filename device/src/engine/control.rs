//! Control requests: their execution.

use std::mem;
use std::sync::Arc;

use oprofile_wire::config::capability;
use oprofile_wire::control::{MAX_REQUEST_BYTES, Response, flag, status};
use oprofile_wire::layout::Descriptor;
use oprofile_wire::{CONTROL_QUEUE, control};
use vm_memory::GuestMemoryBackend;
use zerocopy::IntoBytes;

use super::{Engine, Link, Ticket};
use crate::clock::BadClock;
use crate::control::{Refusal, Request};
use crate::fault::Fault;
use crate::front::chain::{self, ChainError, Segment};
use crate::guest::layout::Layout;
use crate::guest::paging::Levels;
use crate::guest::space::Description;
use crate::guest::{ChangeWords, DescriptionError, Guest};
use crate::kernel::Kernel;
use crate::perf_map::NotAsked;
use crate::sync::CpuSet;

/// Most task-free requests that are held at once: half of the control queue, so that others still get through.
pub(super) const MAX_HELD: usize = 64;

/// How often one notification of the control queue looks for more requests: enough for a driver that sends its
/// symbols part by part, and an end for one that posts as fast as the device answers.
const MAX_ROUNDS: u32 = 16;

const ANSWER_BYTES: usize = size_of::<Response>();

const NO_HELLO: Refusal = Refusal::new(status::BAD_STATE, 0);

/// A task-free request that the mortuary keeps.
#[derive(Debug)]
pub(super) struct Held {
    ticket: Ticket,
    head: u16,
    room: Vec<Segment>,
}

/// What a request comes to.
enum Outcome {
    /// Answered now, with this value.
    Done(u64),
    /// Answered now, with this detail and value.
    Told(u32, u64),
    /// Answered when the mortuary frees this.
    Held(Ticket),
}

/// Detail of a `BAD_KERNEL` answer.
const fn kernel_detail(error: DescriptionError) -> u32 {
    match error {
        DescriptionError::Range => 1,
        DescriptionError::Root => 2,
        DescriptionError::InitTask => 3,
    }
}

/// Detail of a `BAD_KERNEL` answer: neither 4 nor 5 levels of page tables.
const BAD_LEVELS: u32 = 4;

/// Detail of a `BAD_KERNEL` answer: change words that are not aligned or not in RAM.
const BAD_CHANGE_WORDS: u32 = 5;

/// The kind of fault that a refusal counts as.
const fn fault_of(refusal: Refusal) -> Fault {
    match refusal.status {
        status::BAD_LAYOUT => Fault::BadLayout,
        status::BAD_KERNEL => Fault::BadKernel,
        status::LIMIT_EXCEEDED => Fault::LimitExceeded,
        _ => Fault::BadRequest,
    }
}

impl Engine {
    /// Executes the requests that wait. A driver that adds one meanwhile may rely on the notification before, so this
    /// looks again after it asked for the next; a driver that never stops is left to the periodic sync.
    pub(super) fn control<M: GuestMemoryBackend>(&mut self, link: &mut Link<M>) {
        for _ in 0..MAX_ROUNDS {
            let pending = link.pending(CONTROL_QUEUE, &self.faults);
            if pending == 0 {
                break;
            }
            let mut completed = false;
            for _ in 0..pending {
                let segments = &mut self.segments;
                let Some((head, collected)) =
                    link.take(CONTROL_QUEUE, MAX_REQUEST_BYTES, segments, &self.faults)
                else {
                    return;
                };
                self.requests += 1;
                completed |= self.request(head, collected, link);
            }
            link.finish(CONTROL_QUEUE, completed, &self.faults);
        }
    }

    /// Executes one request; false when its answer is held back.
    fn request<M: GuestMemoryBackend>(
        &mut self,
        head: u16,
        collected: Result<(), ChainError>,
        link: &mut Link<M>,
    ) -> bool {
        let mut bytes = mem::take(&mut self.request_bytes);
        let memory = Arc::clone(&link.memory);
        let read = collected.and_then(|()| {
            bytes.resize(self.segments.readable_bytes(), 0);
            self.segments.read(&*memory, 0, &mut bytes)
        });
        let room = self.segments.room(ANSWER_BYTES);
        let (Ok(()), Some(room)) = (read, room) else {
            self.fault(Fault::BadChain, || {
                "control queue: unreadable, or no room for an answer".into()
            });
            link.complete(CONTROL_QUEUE, head, 0, &self.faults);
            self.request_bytes = bytes;
            return true;
        };
        let outcome = Request::parse(&bytes).and_then(|request| self.execute(request, link));
        self.request_bytes = bytes;
        let answer = match outcome {
            Ok(Outcome::Held(ticket)) => {
                self.held.push(Held { ticket, head, room });
                return false;
            }
            Ok(Outcome::Done(value)) => Response {
                value: value.into(),
                ..Response::default()
            },
            Ok(Outcome::Told(detail, value)) => Response {
                detail: detail.into(),
                value: value.into(),
                ..Response::default()
            },
            Err(refusal) => {
                let Refusal { status, detail } = refusal;
                self.fault(fault_of(refusal), || {
                    format!("request refused with status {status}, detail {detail}")
                });
                Response {
                    status: status.into(),
                    detail: detail.into(),
                    ..Response::default()
                }
            }
        };
        self.answer(head, &room, answer, link);
        true
    }

    fn answer<M: GuestMemoryBackend>(
        &self,
        head: u16,
        room: &[Segment],
        answer: Response,
        link: &mut Link<M>,
    ) {
        let written = match chain::write(&*link.memory, room, answer.as_bytes()) {
            Ok(()) => ANSWER_BYTES,
            Err(error) => {
                self.faults
                    .count(Fault::BadChain, || format!("control queue: {error}"));
                0
            }
        };
        let written = u32::try_from(written).unwrap_or(0);
        link.complete(CONTROL_QUEUE, head, written, &self.faults);
    }

    /// Answers the held requests that the mortuary freed.
    pub(super) fn release<M: GuestMemoryBackend>(&mut self, freed: &[Ticket], link: &mut Link<M>) {
        if freed.is_empty() {
            return;
        }
        let (released, held) = mem::take(&mut self.held)
            .into_iter()
            .partition(|held: &Held| freed.contains(&held.ticket));
        self.held = held;
        for Held { head, room, .. } in released {
            self.answer(head, &room, Response::default(), link);
        }
        link.finish(CONTROL_QUEUE, true, &self.faults);
    }

    fn execute<M: GuestMemoryBackend>(
        &mut self,
        request: Request<'_>,
        link: &mut Link<M>,
    ) -> Result<Outcome, Refusal> {
        if let Request::Hello {
            hello,
            release,
            layout,
        } = request
        {
            return self.hello(hello, release, layout, link);
        }
        if self.guest.is_none() {
            return Err(NO_HELLO);
        }
        match request {
            Request::Hello { .. } => Err(NO_HELLO),
            Request::CpuState(state) => {
                self.cpu_state(state.vcpu.get(), state.online.get(), link)?;
                Ok(Outcome::Done(0))
            }
            Request::Modules { flags, entries } => {
                let kernel = self.kernel.as_mut().ok_or(NO_HELLO)?;
                let in_force = self.lists.modules(Arc::make_mut(kernel), flags, entries)?;
                if in_force && flags & flag::MODULE_COMING != 0 {
                    self.events.lock().module_loaded();
                }
                Ok(Outcome::Done(0))
            }
            Request::Symbols {
                flags,
                image_base,
                count,
                entries,
            } => {
                let kernel = Arc::make_mut(self.kernel.as_mut().ok_or(NO_HELLO)?);
                self.lists
                    .symbols(kernel, flags, (image_base, count), entries)?;
                Ok(Outcome::Done(0))
            }
            Request::TaskFree => {
                if self.held.len() >= MAX_HELD {
                    return Err(Refusal::new(status::LIMIT_EXCEEDED, 0));
                }
                self.last_ticket = self.last_ticket.wrapping_add(1);
                let ticket = self.last_ticket;
                Ok(match self.pipeline.mortuary_mut().bury(ticket) {
                    Some(_) => Outcome::Done(0),
                    None => Outcome::Held(ticket),
                })
            }
            Request::HostClock(clock) => {
                self.host_clock(clock, link)?;
                Ok(Outcome::Done(0))
            }
            Request::WantedMap { flags } => {
                self.takes_maps()?;
                let wanted = self.maps.ask(flags & flag::LAST != 0);
                let (tgid, offset) = wanted.unwrap_or_default();
                Ok(Outcome::Told(tgid, offset))
            }
            Request::PerfMap { flags, map, text } => {
                let takes_more = self.take_perf_map(flags, map, text)?;
                Ok(Outcome::Done(u64::from(takes_more)))
            }
            Request::Quiesced => {
                self.sync_all(link);
                self.quiesced = true;
                self.events.dump();
                Ok(Outcome::Done(0))
            }
        }
    }

    fn cpu_state<M: GuestMemoryBackend>(
        &mut self,
        vcpu: u32,
        online: u32,
        link: &mut Link<M>,
    ) -> Result<(), Refusal> {
        let malformed = Refusal::new(status::MALFORMED, control_payload());
        let vcpu = u16::try_from(vcpu).map_err(|_| malformed)?;
        if usize::from(vcpu) >= self.vcpus.len() || online > 1 {
            return Err(malformed);
        }
        if online == 0 {
            link.clock.disarm(vcpu);
            // Its last buffer has been posted: what is in it must not outlive two passes of the mortuary.
            self.sync_vcpu(vcpu, link);
        }
        let mut set = *self.pipeline.mortuary().online();
        match online {
            0 => set.remove(vcpu),
            _ => set.insert(vcpu),
        }
        self.pipeline.mortuary_mut().set_online(set);
        Ok(())
    }

    /// Begins or ends the NMIs of a vCPU. When it is answered none is sent any more.
    fn host_clock<M: GuestMemoryBackend>(
        &self,
        clock: &control::HostClock,
        link: &Link<M>,
    ) -> Result<(), Refusal> {
        if self.capabilities & capability::HOST_NMI == 0 {
            return Err(Refusal::new(status::BAD_STATE, 0));
        }
        let malformed = Refusal::new(status::MALFORMED, control_payload());
        let vcpu = u16::try_from(clock.vcpu.get())
            .ok()
            .filter(|vcpu| usize::from(*vcpu) < self.vcpus.len())
            .ok_or(malformed)?;
        match clock.cell.get() {
            0 => link.clock.disarm(vcpu),
            cell => {
                let apic_id = clock.apic_id.get();
                let armed = link.clock.arm(vcpu, apic_id, &link.memory, cell);
                armed.map_err(|BadClock| malformed)?;
            }
        }
        Ok(())
    }

    /// Whether the driver sends perf maps.
    const fn takes_maps(&self) -> Result<(), Refusal> {
        match self.capabilities & capability::PERF_MAPS {
            0 => Err(Refusal::new(status::BAD_STATE, 0)),
            _ => Ok(()),
        }
    }

    /// Takes a piece of a perf map; whether the device takes more of it.
    fn take_perf_map(
        &mut self,
        flags: u32,
        map: &control::PerfMap,
        text: &[u8],
    ) -> Result<bool, Refusal> {
        self.takes_maps()?;
        let not_asked = |NotAsked| Refusal::new(status::BAD_STATE, 0);
        let (tgid, offset) = (map.tgid.get(), map.offset.get());
        if flags & flag::UNREADABLE != 0 {
            self.maps.cannot_be_read(tgid).map_err(not_asked)?;
            return Ok(false);
        }
        let is_last = flags & flag::LAST != 0;
        let taken = self.maps.take((tgid, offset), text, is_last);
        let (bad_lines, takes_more) = taken.map_err(not_asked)?;
        for _ in 0..bad_lines {
            self.fault(Fault::BadMapLine, || format!("process {tgid}"));
        }
        Ok(takes_more)
    }

    /// Takes a driver's introduction, the first or that of a driver that was loaded again. While it is refused the
    /// device is silent.
    fn hello<M: GuestMemoryBackend>(
        &mut self,
        hello: &control::Hello,
        release: &[u8],
        layout: &[u8],
        link: &mut Link<M>,
    ) -> Result<Outcome, Refusal> {
        self.forget_guest(link);
        let capabilities = hello.capabilities.get();
        if capabilities & !self.offered != 0 {
            return Err(Refusal::new(status::MALFORMED, control_payload()));
        }
        let descriptor = Descriptor::parse(layout).map_err(|error| {
            self.faults.explain(Fault::BadLayout, || {
                format!("Guest's layout descriptor is refused: {error:?}")
            });
            Refusal::new(status::BAD_LAYOUT, 0)
        })?;
        let layout = Layout::new(&descriptor).map_err(|error| {
            self.faults.explain(Fault::BadLayout, || {
                format!("Guest's layout descriptor is refused: {error}")
            });
            Refusal::new(status::BAD_LAYOUT, u32::from(error.field() as u16))
        })?;
        let levels = Levels::from_count(hello.page_table_levels.get())
            .ok_or(Refusal::new(status::BAD_KERNEL, BAD_LEVELS))?;
        let description = Description {
            root: hello.page_table_root.get(),
            levels,
            linear_base: hello.linear_map_base.get(),
            kernel_start: hello.kernel_start.get(),
            kernel_end: hello.kernel_end.get(),
            user_end: hello.user_end.get(),
        };
        let guest = Guest::new(
            &*link.memory,
            description,
            layout,
            hello.init_task.get(),
            self.late_samples,
        );
        let mut guest = guest.map_err(|error| {
            self.faults.explain(Fault::BadKernel, || {
                format!("Guest's kernel description is refused: {error}")
            });
            Refusal::new(status::BAD_KERNEL, kernel_detail(error))
        })?;
        if capabilities & capability::CHANGE_WORDS != 0 {
            let gpa = hello.change_words.get();
            let words = ChangeWords::new(&*link.memory, gpa).ok_or_else(|| {
                self.faults.explain(Fault::BadKernel, || {
                    format!("Guest's change words at GPA {gpa:#x} are not aligned or not in RAM")
                });
                Refusal::new(status::BAD_KERNEL, BAD_CHANGE_WORDS)
            })?;
            guest.count_changes(words);
        }
        self.kernel = Some(Arc::new(Kernel::new(
            release.to_vec(),
            description.kernel_start,
            description.kernel_end,
        )));
        guest.inherit(mem::take(&mut self.budget));
        self.guest = Some(guest);
        self.said_hello = true;
        self.quiesced = false;
        let mortuary = self.pipeline.mortuary_mut();
        mortuary.set_online(CpuSet::default());
        mortuary.register();
        self.capabilities = capabilities;
        self.clock_events = hello.clock_events.get();
        if self.clock_events != 0 {
            tracing::info!(
                "The guest's driver takes a sample each {} events of its vCPUs' own, not at the rate asked for",
                self.clock_events
            );
        } else if self.offered & !capabilities & capability::HOST_NMI != 0 {
            tracing::warn!(
                "The guest's driver takes no NMIs as its clock: it samples by its own timer, blind where interrupts are off"
            );
        }
        Ok(Outcome::Done(capabilities))
    }

    /// Ends what a hello began: takes what is in the sample queues, answers held requests, forgets.
    pub(super) fn forget_guest<M: GuestMemoryBackend>(&mut self, link: &mut Link<M>) {
        link.clock.disarm_all();
        self.capabilities = 0;
        if self.guest.is_some() {
            self.sync_all(link);
        }
        self.maps.forget_processes();
        let freed = self.pipeline.mortuary_mut().unregister();
        self.release(&freed, link);
        if let Some(guest) = self.guest.take() {
            self.budget = guest.into_budget();
        }
        self.lists = crate::control::lists::Lists::default();
        self.totals.fill(super::samples::Totals::default());
    }
}

/// Offset of a request's payload.
fn control_payload() -> u32 {
    u32::try_from(size_of::<control::RequestHeader>()).unwrap_or(u32::MAX)
}
