//! The kernel around the agent: vCPUs, a clock, memory until there is none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use oprofile_guest_agent::mmio::Registers;
use oprofile_guest_agent::{
    Clock, CpuAgent, Description, DmaMemory, MmioTransport, Platform, Sample,
};
use oprofile_wire::layout::{Field, LayoutEntry, VmaStore};

use super::device::HostileDevice;

pub type HostileTransport = MmioTransport<HostileRegisters>;

/// Nanoseconds that pass while the kernel waits once.
const RELAX_NS: u64 = 100_000_000;

/// How often a step may wait: a request, and a stop of each vCPU, give up after ten seconds; a list in several parts gets an
/// answer for each but the last.
pub const MAX_RELAXES: u32 = 5_000;

/// A layout; the device does not look at it.
pub const LAYOUT: [LayoutEntry; 2] = [
    LayoutEntry::field(Field::TaskMm, 16, 8),
    LayoutEntry::constant(Field::PageShift, 12),
];

/// What the kernel tells of itself.
pub const fn description() -> Description<'static> {
    Description {
        page_table_root: 0x1000,
        linear_map_base: 0,
        kernel_start: 0xffff_ffff_8000_0000,
        kernel_end: 0xffff_ffff_8010_0000,
        user_end: 0x7fff_ffff_f000,
        init_task: 0,
        page_table_levels: 4,
        cpus: 2,
        release: b"fuzz",
        vma_store: VmaStore::List,
        layout: &LAYOUT,
    }
}

/// The device's registers.
#[derive(Clone, Debug)]
pub struct HostileRegisters(Rc<RefCell<HostileDevice>>);

impl Registers for HostileRegisters {
    fn read(&self, offset: usize) -> u32 {
        self.0.borrow_mut().read(offset)
    }

    fn write(&self, offset: usize, value: u32) {
        self.0.borrow_mut().write(offset, value);
    }
}

/// A kernel. The device has the memory, and is dropped behind the vCPUs.
pub struct Kernel {
    cpus: Vec<RefCell<CpuAgent<HostileTransport>>>,
    device: Rc<RefCell<HostileDevice>>,
    now: Cell<u64>,
    memory_left: Cell<usize>,
    relaxes: Cell<u32>,
}

impl Kernel {
    pub fn new(cpus: u16, device: Rc<RefCell<HostileDevice>>, memory: usize) -> Self {
        Self {
            cpus: (0..cpus).map(|_| RefCell::default()).collect(),
            device,
            now: Cell::new(0),
            memory_left: Cell::new(memory),
            relaxes: Cell::new(0),
        }
    }

    pub fn transport(&self) -> HostileTransport {
        MmioTransport::new(HostileRegisters(Rc::clone(&self.device)))
    }

    pub fn begin_step(&self) {
        self.relaxes.set(0);
    }

    pub fn relaxes(&self) -> u32 {
        self.relaxes.get()
    }

    pub fn pass(&self, ns: u64) {
        // Four seconds at most: clocks do not run for centuries.
        self.now.set(self.now.get() + (ns & 0xffff_ffff));
    }

    pub fn sample(&self, vcpu: u16, sample: &Sample, space: u64, frames: &[u64]) {
        self.with_cpu(vcpu, |agent| {
            agent.sample(self, sample, space, |depth, tracer| {
                for &frame in frames.iter().take(depth as usize) {
                    tracer.frame(frame);
                }
            });
        });
    }

    pub fn sample_without_registers(&self, vcpu: u16) {
        self.with_cpu(vcpu, CpuAgent::sample_without_registers);
    }

    pub fn idle(&self, vcpu: u16, age: u64) {
        self.with_cpu(vcpu, |agent| agent.idle(self, age));
    }

    /// Every sample is in a buffer that was posted, in the open one, or counted as lost.
    pub fn check(&self) {
        let mut device = self.device.borrow_mut();
        device.look();
        for (vcpu, agent) in (0..).zip(&self.cpus) {
            let statistics = agent.borrow().statistics();
            let Some((buffers, samples)) = device.taken(vcpu) else {
                continue;
            };
            assert_eq!(statistics.posted, buffers, "vCPU {vcpu}");
            let counters = statistics.counters;
            let stored = samples + u64::from(statistics.open_samples);
            let ends = stored + counters.lost + counters.invalid;
            assert_eq!(counters.received, ends, "vCPU {vcpu}: {statistics:?}");
        }
    }
}

impl Clock for Kernel {
    fn now_ns(&self) -> u64 {
        self.now.get()
    }
}

impl Platform for Kernel {
    type Transport = HostileTransport;

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        let left = self.memory_left.get().checked_sub(bytes)?;
        self.memory_left.set(left);
        self.device.borrow_mut().memory.allocate(bytes)
    }

    fn with_cpu<R>(&self, vcpu: u16, work: impl FnOnce(&mut CpuAgent<HostileTransport>) -> R) -> R {
        work(&mut self.cpus[usize::from(vcpu)].borrow_mut())
    }

    fn relax(&self) {
        self.relaxes.set(self.relaxes.get() + 1);
        self.now.set(self.now.get() + RELAX_NS);
        self.device.borrow_mut().act();
    }
}
