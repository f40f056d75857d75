//! A scripted device behind virtio-mmio registers, and a kernel for the driver to run in.
//!
//! No threads: the device works when a test, the doorbell or [`Platform::relax`] makes it. It reads rings as virtio 1.2 says and
//! checks every address and length against the memory that the kernel handed out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::rc::Rc;

use oprofile_wire::config::{ConfigSpace, FLUSH_DOORBELL_OFFSET, MAGIC, capability};
use oprofile_wire::control::{RequestHeader, Response, kind, status};
use oprofile_wire::layout::{Field, LayoutEntry, VmaStore};
use oprofile_wire::sample::{BufferHeader, Entries};
use oprofile_wire::{DEFAULT_DEVICE_ID, QUEUE_SIZE, sample_queue};
use zerocopy::{FromBytes, IntoBytes};

use crate::memory::SharedMemory;
use crate::mmio::{MmioTransport, Registers, register};
use crate::transport::feature;
use crate::{
    BringUpError, Clock, Control, CpuAgent, Description, DmaMemory, NmiSampler, Platform, Sample,
};

pub(crate) type FakeTransport = MmioTransport<FakeRegisters>;

const FIRST_GPA: u64 = 0x10_0000;

#[derive(Debug)]
struct Region {
    gpa: u64,
    bytes: usize,
    start: NonNull<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct FakeQueue {
    ready: bool,
    size: u32,
    descriptors: u64,
    driver: u64,
    device: u64,
    next_avail: u16,
    next_used: u16,
}

/// A sample buffer as the device got it.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub(crate) queue: u16,
    pub(crate) header: BufferHeader,
    pub(crate) words: Vec<u64>,
}

/// A request as the device got it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u32,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct FakeDevice {
    regions: Vec<Region>,
    next_gpa: u64,
    queues: Vec<FakeQueue>,
    selected: usize,
    feature_select: [u32; 2],
    /// Identification registers, in order: magic, version, device id.
    pub(crate) identity: [u32; 3],
    pub(crate) features: u64,
    pub(crate) driver_features: u64,
    pub(crate) refuse_features: bool,
    pub(crate) status: u32,
    pub(crate) config: ConfigSpace,
    pub(crate) generation: u32,
    /// Settings that come into force during a read of the configuration, one after the other.
    pub(crate) racing_periods: VecDeque<u64>,
    pub(crate) interrupt: u32,
    /// Queues that were notified, in order.
    pub(crate) kicks: Vec<u16>,
    pub(crate) doorbells: Vec<u32>,
    /// Shared memory of which a word is read at each doorbell, and what was read.
    pub(crate) watched: Option<(SharedMemory, usize)>,
    pub(crate) seen: Vec<Option<u64>>,
    control_notified: bool,
    /// Answers by kind of request; others are accepted.
    pub(crate) refusals: Vec<(u16, u32)>,
    pub(crate) mute: bool,
    /// Task-free requests are kept until [`FakeDevice::answer_tasks`].
    held: Vec<(u16, Chain)>,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) requests: Vec<Request>,
}

#[derive(Clone, Debug, Default)]
struct Chain {
    readable: Vec<u8>,
    writable: Vec<(u64, u32)>,
}

impl FakeDevice {
    fn new(vcpus: u32) -> Self {
        let config = ConfigSpace {
            magic: MAGIC.into(),
            version: 1.into(),
            capabilities: capability::ALL.into(),
            vcpus: vcpus.into(),
            enable: 1.into(),
            period_ns: 1_000_000.into(),
            event: 0.into(),
            backtrace_depth: 0.into(),
            cpu_buffer_entries: 48.into(),
            sample_buffer_bytes: 256.into(),
            flush_doorbell: 0.into(),
            wanted_maps: 0.into(),
        };
        Self {
            regions: Vec::new(),
            next_gpa: FIRST_GPA,
            queues: vec![FakeQueue::default(); vcpus as usize + 1],
            selected: 0,
            feature_select: [0; 2],
            identity: [u32::from_le_bytes(*b"virt"), 2, DEFAULT_DEVICE_ID],
            features: feature::VERSION_1 | feature::EVENT_IDX,
            driver_features: 0,
            refuse_features: false,
            status: 0,
            config,
            generation: 0,
            racing_periods: VecDeque::new(),
            interrupt: 0,
            kicks: Vec::new(),
            doorbells: Vec::new(),
            watched: None,
            seen: Vec::new(),
            control_notified: false,
            refusals: Vec::new(),
            mute: false,
            held: Vec::new(),
            buffers: Vec::new(),
            requests: Vec::new(),
        }
    }

    fn allocate(&mut self, bytes: usize) -> DmaMemory {
        // A gap behind each piece, so that reading past one is caught.
        let gpa = self.next_gpa;
        self.next_gpa += (bytes as u64).next_multiple_of(16) + 16;
        let memory: &'static mut [u128] = vec![0u128; bytes.div_ceil(16)].leak();
        let start = NonNull::from(memory).cast::<u8>();
        self.regions.push(Region { gpa, bytes, start });
        // SAFETY: leaked, zeroed, 16-byte aligned, and used by the driver and this device only.
        unsafe { DmaMemory::new(start, bytes, gpa) }.expect("aligned")
    }

    /// The host address of `bytes` at `gpa`, which must be memory that the kernel handed out.
    fn at(&self, gpa: u64, bytes: usize) -> *mut u8 {
        let region = self
            .regions
            .iter()
            .find(|r| gpa >= r.gpa && gpa + bytes as u64 <= r.gpa + r.bytes as u64)
            .unwrap_or_else(|| panic!("{bytes} bytes at {gpa:#x} are not shared memory"));
        let offset = usize::try_from(gpa - region.gpa).unwrap();
        region.start.as_ptr().wrapping_add(offset)
    }

    pub(crate) fn read<T: FromBytes>(&self, gpa: u64) -> T {
        // SAFETY: `at` checked the range; any bytes are a `T`; the driver does not run at the same time.
        unsafe { self.at(gpa, size_of::<T>()).cast::<T>().read_unaligned() }
    }

    pub(crate) fn write<T: IntoBytes>(&self, gpa: u64, value: T) {
        // SAFETY: as in `read`.
        unsafe {
            self.at(gpa, size_of::<T>())
                .cast::<T>()
                .write_unaligned(value);
        }
    }

    fn read_bytes(&self, gpa: u64, bytes: u32) -> Vec<u8> {
        (0..u64::from(bytes))
            .map(|at| self.read(gpa + at))
            .collect()
    }

    /// Takes the next available chain.
    fn take(&mut self, index: u16) -> Option<(u16, Chain)> {
        let queue = self.queues[usize::from(index)];
        assert!(queue.ready, "queue {index} is not in use");
        if self.read::<u16>(queue.driver + 2) == queue.next_avail {
            return None;
        }
        let size = u16::try_from(queue.size).unwrap();
        let slot = u64::from(queue.next_avail % size);
        let head: u16 = self.read(queue.driver + 4 + 2 * slot);
        let mut chain = Chain::default();
        let mut id = head;
        for _ in 0..size {
            assert!(id < size);
            let at = queue.descriptors + 16 * u64::from(id);
            let (gpa, bytes): (u64, u32) = (self.read(at), self.read(at + 8));
            let (flags, next): (u16, u16) = (self.read(at + 12), self.read(at + 14));
            if flags & 2 != 0 {
                chain.writable.push((gpa, bytes));
                self.at(gpa, bytes as usize);
            } else {
                assert!(chain.writable.is_empty(), "readable behind writable");
                chain.readable.extend(self.read_bytes(gpa, bytes));
            }
            if flags & 1 == 0 {
                break;
            }
            id = next;
        }
        let queue = &mut self.queues[usize::from(index)];
        queue.next_avail = queue.next_avail.wrapping_add(1);
        let avail_event = queue.device + 4 + 8 * u64::from(size);
        let next = queue.next_avail;
        if self.driver_features & feature::EVENT_IDX != 0 {
            self.write(avail_event, next);
        }
        Some((head, chain))
    }

    /// Gives a chain back; raises an interrupt only where the driver wants one.
    pub(crate) fn give_back(&mut self, index: u16, head: u32, written: u32) {
        let queue = self.queues[usize::from(index)];
        let slot = u64::from(queue.next_used) % u64::from(queue.size);
        self.write(queue.device + 4 + 8 * slot, head);
        self.write(queue.device + 8 + 8 * slot, written);
        let next = queue.next_used.wrapping_add(1);
        self.set_used_index(index, next);
        let wanted = if self.driver_features & feature::EVENT_IDX != 0 {
            let event: u16 = self.read(queue.driver + 4 + 2 * u64::from(queue.size));
            next.wrapping_sub(event).wrapping_sub(1) < 1
        } else {
            self.read::<u16>(queue.driver) & 1 == 0
        };
        if wanted {
            self.interrupt |= 1;
        }
    }

    pub(crate) fn set_used_index(&mut self, index: u16, next: u16) {
        self.queues[usize::from(index)].next_used = next;
        let queue = self.queues[usize::from(index)];
        self.write(queue.device + 2, next);
    }

    /// Adds a queue behind those of the vCPUs.
    pub(crate) fn add_queue(&mut self) {
        self.queues.push(FakeQueue::default());
    }

    /// Takes all chains of a queue; returns how many there were.
    pub(crate) fn take_all(&mut self, index: u16) -> usize {
        core::iter::from_fn(|| self.take(index)).count()
    }

    /// Takes all buffers of a sample queue in; returns their descriptors.
    pub(crate) fn take_buffers(&mut self, vcpu: u16) -> Vec<u16> {
        let queue = sample_queue(vcpu);
        let mut heads = Vec::new();
        while let Some((head, chain)) = self.take(queue) {
            assert!(chain.writable.is_empty(), "sample buffers are for reading");
            let (header, entries) = BufferHeader::read_from_prefix(&chain.readable).unwrap();
            assert_eq!(header.entry_bytes.get() as usize, entries.len());
            let words = entries
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
                .collect();
            self.buffers.push(Buffer {
                queue,
                header,
                words,
            });
            heads.push(head);
        }
        heads
    }

    /// Drains a vCPU's sample queue, as a doorbell or the periodic sync does.
    pub(crate) fn drain(&mut self, vcpu: u16) {
        for head in self.take_buffers(vcpu) {
            self.give_back(sample_queue(vcpu), u32::from(head), 0);
        }
    }

    fn answer(&mut self, head: u16, chain: &Chain, status: u32, value: u64) {
        let (gpa, bytes) = chain.writable[0];
        assert_eq!(bytes as usize, size_of::<Response>());
        let response = Response {
            status: status.into(),
            detail: 7.into(),
            value: value.into(),
        };
        self.write(gpa, response);
        self.give_back(0, u32::from(head), 16);
    }

    /// Works on the control queue, if it was notified.
    fn serve(&mut self) {
        if !core::mem::take(&mut self.control_notified) {
            return;
        }
        while let Some((head, chain)) = self.take(0) {
            let (header, payload) = RequestHeader::read_from_prefix(&chain.readable).unwrap();
            assert_eq!(header.payload_bytes.get() as usize, payload.len());
            let kind = header.kind.get();
            self.requests.push(Request {
                kind,
                flags: header.flags.get(),
                payload: payload.to_vec(),
            });
            if self.mute || kind == kind::TASK_FREE {
                self.held.push((head, chain));
                continue;
            }
            if kind == kind::QUIESCED {
                for vcpu in 0..self.config.vcpus.get() {
                    self.drain(u16::try_from(vcpu).unwrap());
                }
            }
            let refusal = self.refusals.iter().find(|(refused, _)| *refused == kind);
            let status = refusal.map_or(status::OK, |&(_, status)| status);
            self.answer(head, &chain, status, self.config.capabilities.get());
        }
    }

    /// Answers the requests that were kept.
    pub(crate) fn answer_held(&mut self, status: u32) {
        for (head, chain) in core::mem::take(&mut self.held) {
            self.answer(head, &chain, status, 0);
        }
    }

    pub(crate) fn change_config(&mut self, change: impl FnOnce(&mut ConfigSpace)) {
        change(&mut self.config);
        self.generation += 1;
        self.interrupt |= 2;
    }

    fn read_register(&mut self, offset: usize) -> u32 {
        let queue = self.queues.get(self.selected);
        match offset {
            register::MAGIC_VALUE => self.identity[0],
            register::VERSION => self.identity[1],
            register::DEVICE_ID => self.identity[2],
            register::DEVICE_FEATURES => half(self.features, self.feature_select[0]),
            register::QUEUE_NUM_MAX => queue.map_or(0, |_| u32::from(QUEUE_SIZE)),
            register::QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready)),
            register::INTERRUPT_STATUS => self.interrupt,
            register::STATUS => self.status,
            register::CONFIG_GENERATION => self.generation,
            _ => {
                let at = offset - register::CONFIG;
                let value = self.config.as_bytes()[at..at + 4].try_into().unwrap();
                if at == 24
                    && let Some(period) = self.racing_periods.pop_front()
                {
                    // The other half of the period is another one by the time it is read.
                    self.change_config(|config| config.period_ns = period.into());
                }
                u32::from_le_bytes(value)
            }
        }
    }

    fn write_register(&mut self, offset: usize, value: u32) {
        let selected = self.selected;
        match offset {
            register::DEVICE_FEATURES_SEL => self.feature_select[0] = value,
            register::DRIVER_FEATURES_SEL => self.feature_select[1] = value,
            register::DRIVER_FEATURES => {
                self.driver_features |= u64::from(value) << (32 * self.feature_select[1]);
            }
            register::QUEUE_SEL => self.selected = value as usize,
            register::QUEUE_NUM => self.queues[selected].size = value,
            register::QUEUE_READY => self.queues[selected].ready = value == 1,
            register::QUEUE_NOTIFY => {
                self.kicks.push(u16::try_from(value).unwrap());
                self.control_notified |= value == 0;
            }
            register::INTERRUPT_ACK => self.interrupt &= !value,
            register::STATUS => {
                let refused = if self.refuse_features { 8 } else { 0 };
                self.status = value & !refused;
            }
            _ if offset >= register::CONFIG => {
                assert_eq!((offset - register::CONFIG) as u64, FLUSH_DOORBELL_OFFSET);
                self.doorbells.push(value);
                let word = self.watched.map(|(memory, index)| memory.word(index));
                self.seen.extend(word);
                self.drain(u16::try_from(value).unwrap());
            }
            _ => {
                let queue = &mut self.queues[selected];
                let part = match offset & !4 {
                    register::QUEUE_DESC_LOW => &mut queue.descriptors,
                    register::QUEUE_DRIVER_LOW => &mut queue.driver,
                    register::QUEUE_DEVICE_LOW => &mut queue.device,
                    _ => panic!("no register at {offset:#x}"),
                };
                *part |= u64::from(value) << (8 * (offset & 4));
            }
        }
    }
}

fn half(value: u64, select: u32) -> u32 {
    (value >> (32 * select) & 0xffff_ffff) as u32
}

/// The device's register window.
#[derive(Clone, Debug)]
pub(crate) struct FakeRegisters(pub(crate) Rc<RefCell<FakeDevice>>);

impl Registers for FakeRegisters {
    fn read(&self, offset: usize) -> u32 {
        self.0.borrow_mut().read_register(offset)
    }

    fn write(&self, offset: usize, value: u32) {
        self.0.borrow_mut().write_register(offset, value);
    }
}

/// A kernel with a device. A vCPU's lock that is taken twice panics.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) device: Rc<RefCell<FakeDevice>>,
    cpus: Vec<RefCell<CpuAgent<FakeTransport>>>,
    /// For a kernel that takes NMIs; otherwise empty.
    pub(crate) nmis: Vec<NmiSampler>,
    pub(crate) now: Cell<u64>,
    pub(crate) memory_left: Cell<usize>,
}

impl Guest {
    /// A guest with `cpus` vCPUs; each gets five buffers of 23 words of entries.
    pub(crate) fn new(cpus: u16) -> Self {
        Self {
            device: Rc::new(RefCell::new(FakeDevice::new(u32::from(cpus)))),
            cpus: (0..cpus).map(|_| RefCell::default()).collect(),
            nmis: Vec::new(),
            now: Cell::new(0),
            memory_left: Cell::new(usize::MAX),
        }
    }

    /// As [`Guest::new`], of a kernel that takes NMIs.
    pub(crate) fn with_nmis(cpus: u16) -> Self {
        Self {
            nmis: (0..cpus).map(|_| NmiSampler::new()).collect(),
            ..Self::new(cpus)
        }
    }

    pub(crate) fn transport(&self) -> FakeTransport {
        MmioTransport::new(FakeRegisters(self.device.clone()))
    }

    pub(crate) fn bring_up(&self) -> Result<Control<FakeTransport>, BringUpError> {
        let cpus = u16::try_from(self.cpus.len()).unwrap();
        Control::bring_up(self, self.transport(), DEFAULT_DEVICE_ID, cpus)
    }

    /// Brought up, introduced, and sampling.
    pub(crate) fn sampling(&self) -> Control<FakeTransport> {
        let mut control = self.bring_up().unwrap();
        control.hello(self, &description()).unwrap();
        control.update(self).unwrap();
        self.device.borrow_mut().kicks.clear();
        control
    }

    pub(crate) fn sample(&self, vcpu: u16, task: u64, space: u64) {
        self.sample_at(vcpu, 0x40_0000, task, space);
    }

    pub(crate) fn sample_at(&self, vcpu: u16, pc: u64, task: u64, space: u64) {
        let sample = Sample {
            pc,
            is_kernel: false,
            event: 0,
            task,
        };
        self.with_cpu(vcpu, |agent| agent.sample(self, &sample, space, |_, _| {}));
    }

    /// Samples of one task until a buffer of 23 words counts as full: the first takes five words, others two, and five
    /// must be left for each, as it might need a note.
    pub(crate) const SAMPLES_PER_BUFFER: usize = 8;

    /// Buffers of a vCPU.
    pub(crate) const BUFFERS: usize = 5;
}

impl Clock for Guest {
    fn now_ns(&self) -> u64 {
        self.now.get()
    }
}

impl Platform for Guest {
    type Transport = FakeTransport;

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        self.memory_left
            .set(self.memory_left.get().checked_sub(bytes)?);
        Some(self.device.borrow_mut().allocate(bytes))
    }

    fn with_cpu<R>(&self, vcpu: u16, work: impl FnOnce(&mut CpuAgent<FakeTransport>) -> R) -> R {
        let mut agent = self.cpus[usize::from(vcpu)].borrow_mut();
        if let Some(sampler) = self.nmi(vcpu) {
            sampler.drain(&mut agent, self);
        }
        work(&mut agent)
    }

    fn nmi(&self, vcpu: u16) -> Option<&NmiSampler> {
        self.nmis.get(usize::from(vcpu))
    }

    fn apic_id(&self, vcpu: u16) -> u32 {
        u32::from(vcpu) + 3
    }

    fn relax(&self) {
        self.now.set(self.now.get() + 100_000_000);
        self.device.borrow_mut().serve();
    }
}

/// What the device was told by all buffers of a vCPU: samples as (address, task, kernel), in order.
pub(crate) fn decode(buffers: &[Buffer], vcpu: u16) -> Vec<(u64, u64, bool)> {
    use oprofile_wire::sample::{ESCAPE, note};
    let mut samples = Vec::new();
    for buffer in buffers.iter().filter(|b| b.queue == sample_queue(vcpu)) {
        let (mut task, mut is_kernel) = (None, None);
        for entry in Entries::new(&buffer.words) {
            let entry = entry.expect("whole entries");
            if entry.eip != ESCAPE {
                let task = task.expect("a task before the first sample");
                samples.push((entry.eip, task, is_kernel.expect("a mode")));
                continue;
            }
            if entry.event & note::KERNEL_CTX_SWITCH != 0 {
                is_kernel = Some(entry.event & note::IS_KERNEL != 0);
            }
            if entry.event & note::USER_CTX_SWITCH != 0 {
                task = Some(entry.data[0]);
            }
        }
    }
    samples
}

pub(crate) const LAYOUT: [LayoutEntry; 2] = [
    LayoutEntry::field(Field::TaskMm, 16, 8),
    LayoutEntry::constant(Field::PageShift, 12),
];

pub(crate) fn description() -> Description<'static> {
    Description {
        page_table_root: 0x1000,
        linear_map_base: 0xffff_8000_0000_0000,
        kernel_start: 0xffff_ffff_8000_0000,
        kernel_end: 0xffff_ffff_8010_0000,
        user_end: 0x7fff_ffff_f000,
        init_task: 0xffff_8000_0000_1000,
        page_table_levels: 4,
        cpus: 2,
        release: b"tiny-1",
        vma_store: VmaStore::List,
        layout: &LAYOUT,
    }
}
