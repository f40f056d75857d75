//! The real agent in front of the real device, in one process: guest RAM, rings and requests, but no VM and no exits.
//!
//! For benchmarks and tests of the whole way. The guest's kernel is a synthetic one; its objects are whatever the caller laid
//! out in its RAM.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use oprofile_device::guest::paging::Levels;
use oprofile_device::test_utils::{
    KERNEL_END, KERNEL_START, LINEAR_BASE, SyntheticGuest, USER_END,
};
use oprofile_device::{
    ActivateError, Device, EventReader, Interrupt, OpenError, Settings, SettingsError,
};
use oprofile_guest_agent::buffers::OpenBuffer;
use oprofile_guest_agent::transport::{QueueAddresses, Transport, TransportError, status};
use oprofile_guest_agent::writer::Tracer;
use oprofile_guest_agent::{
    BringUpError, Clock, Control, CpuAgent, Description, DmaMemory, InterruptCause, Platform,
    RequestError, Sample,
};
use oprofile_wire::{DEFAULT_DEVICE_ID, QUEUE_SIZE};
use thiserror::Error;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Agent and device do not come together.
#[derive(Debug, Error)]
pub enum LoopbackError {
    /// The device cannot be made.
    #[error("Device cannot be made")]
    Settings(#[from] SettingsError),
    /// Its event buffer cannot be read.
    #[error("Event buffer cannot be opened")]
    Open(#[from] OpenError),
    /// The agent finds no usable device.
    #[error("Agent cannot be brought up")]
    BringUp(#[from] BringUpError),
    /// The device refuses the agent's rings.
    #[error("Device cannot be activated")]
    Activate(#[from] ActivateError),
    /// The device refuses a request.
    #[error("Device refuses a request")]
    Request(#[from] RequestError),
    /// The agent cannot use the device's settings.
    #[error("Agent refuses the settings")]
    AgentSettings(#[from] oprofile_guest_agent::SettingsError),
}

/// A device nobody needs to be told about: the agent looks by itself.
struct NoInterrupts;

impl Interrupt for NoInterrupts {
    fn signal_queue(&self, _queue: u16) {}
    fn signal_config(&self) {}
}

/// What a VMM's transport keeps for a device.
struct Port {
    device: Device<GuestMemoryMmap>,
    memory: Arc<GuestMemoryMmap>,
    queues: RefCell<Vec<Queue>>,
    status: Cell<u32>,
    features: Cell<u64>,
    refused: RefCell<Option<ActivateError>>,
}

/// The agent's way to the device.
#[derive(Clone)]
pub struct LoopbackTransport(Rc<Port>);

impl fmt::Debug for LoopbackTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoopbackTransport").finish_non_exhaustive()
    }
}

impl LoopbackTransport {
    fn new(device: Device<GuestMemoryMmap>, memory: Arc<GuestMemoryMmap>) -> Self {
        let sizes = device.queue_sizes();
        // Sizes of a device's queues are powers of two.
        let queues = sizes.into_iter().filter_map(|size| Queue::new(size).ok());
        Self(Rc::new(Port {
            queues: RefCell::new(queues.collect()),
            device,
            memory,
            status: Cell::new(0),
            features: Cell::new(0),
            refused: RefCell::new(None),
        }))
    }

    fn activate(&self) -> Result<(), ActivateError> {
        let queues = self.0.queues.take();
        let memory = Arc::clone(&self.0.memory);
        let features = self.0.features.get();
        self.0
            .device
            .activate(memory, queues, features, Arc::new(NoInterrupts))
    }
}

impl Transport for LoopbackTransport {
    fn probe(&self, _device_id: u32) -> Result<(), TransportError> {
        Ok(())
    }

    fn status(&self) -> u32 {
        self.0.status.get()
    }

    fn set_status(&self, status: u32) {
        let before = self.0.status.replace(status);
        if status & !before & status::DRIVER_OK != 0
            && let Err(error) = self.activate()
        {
            *self.0.refused.borrow_mut() = Some(error);
        }
    }

    fn device_features(&self) -> u64 {
        self.0.device.features()
    }

    fn set_driver_features(&self, features: u64) {
        self.0.features.set(features);
    }

    fn queue_limit(&self, queue: u16) -> u16 {
        match self.0.queues.borrow().get(usize::from(queue)) {
            Some(queue) if !queue.ready() => QUEUE_SIZE,
            _ => 0,
        }
    }

    fn enable_queue(&self, queue: u16, size: u16, addresses: &QueueAddresses) {
        if let Some(queue) = self.0.queues.borrow_mut().get_mut(usize::from(queue)) {
            queue.set_size(size);
            let set = |address: u64| (low(address), high(address));
            let (low, high) = set(addresses.descriptors);
            queue.set_desc_table_address(low, high);
            let (low, high) = set(addresses.driver);
            queue.set_avail_ring_address(low, high);
            let (low, high) = set(addresses.device);
            queue.set_used_ring_address(low, high);
            queue.set_ready(true);
        }
    }

    fn notify(&self, queue: u16) {
        self.0.device.notify(queue);
    }

    fn config_generation(&self) -> u32 {
        0
    }

    fn read_config(&self, offset: usize) -> u32 {
        let mut word = [0; 4];
        self.0.device.read_config(offset as u64, &mut word);
        u32::from_le_bytes(word)
    }

    fn write_config(&self, offset: usize, value: u32) {
        let word = value.to_le_bytes();
        self.0.device.write_config(offset as u64, &word);
    }

    fn acknowledge_interrupt(&self) -> InterruptCause {
        InterruptCause::default()
    }
}

fn low(address: u64) -> Option<u32> {
    u32::try_from(address & u64::from(u32::MAX)).ok()
}

fn high(address: u64) -> Option<u32> {
    u32::try_from(address >> 32).ok()
}

/// The guest's kernel, as its agent sees it.
#[derive(Debug)]
struct Kernel {
    guest: RefCell<SyntheticGuest>,
    agents: Vec<RefCell<Box<CpuAgent<LoopbackTransport>>>>,
    ticks: Cell<u64>,
}

impl Clock for Kernel {
    fn now_ns(&self) -> u64 {
        self.ticks.set(self.ticks.get() + 1);
        self.ticks.get()
    }
}

impl Platform for Kernel {
    type Transport = LoopbackTransport;

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        let mut guest = self.guest.borrow_mut();
        let gpa = guest.allocate(bytes as u64);
        let memory = guest.memory();
        let start = NonNull::new(memory.get_host_address(GuestAddress(gpa)).ok()?)?;
        // SAFETY: the synthetic guest gives out each byte of its zeroed RAM once, in one region that stays mapped as long as
        // `self.guest`, which outlives the agents; they run on this thread only, and the device copies what it reads.
        unsafe { DmaMemory::new(start, bytes, gpa) }
    }

    fn with_cpu<R>(
        &self,
        vcpu: u16,
        work: impl FnOnce(&mut CpuAgent<LoopbackTransport>) -> R,
    ) -> R {
        work(&mut self.agents[usize::from(vcpu)].borrow_mut())
    }

    fn relax(&self) {}
}

/// An agent that samples and a device that resolves.
#[derive(Debug)]
pub struct Loopback {
    kernel: Kernel,
    transport: LoopbackTransport,
    control: Control<LoopbackTransport>,
    reader: EventReader,
}

impl Loopback {
    /// Brings up the agent on all vCPUs of `settings` in `guest`, introduces the kernel, and begins to sample.
    ///
    /// # Errors
    /// The first step that fails.
    pub fn new(guest: SyntheticGuest, settings: Settings) -> Result<Self, LoopbackError> {
        let vcpus = settings.vcpus;
        let shape = guest.shape().clone();
        let device = Device::new(settings)?;
        let reader = device.open_events()?;
        let transport = LoopbackTransport::new(device, guest.memory());
        let description = Description {
            page_table_root: guest.root(),
            linear_map_base: LINEAR_BASE,
            kernel_start: KERNEL_START,
            kernel_end: KERNEL_END,
            user_end: USER_END,
            init_task: guest.init_task(),
            page_table_levels: match guest.levels() {
                Levels::Four => 4,
                Levels::Five => 5,
            },
            cpus: vcpus,
            release: b"synthetic",
            vma_store: shape.store,
            layout: &shape.layout,
        };
        let kernel = Kernel {
            guest: RefCell::new(guest),
            agents: (0..vcpus).map(|_| RefCell::default()).collect(),
            ticks: Cell::new(0),
        };
        let control = Control::bring_up(&kernel, transport.clone(), DEFAULT_DEVICE_ID, vcpus)?;
        let mut loopback = Self {
            kernel,
            transport,
            control,
            reader,
        };
        loopback.introduce(&description)?;
        Ok(loopback)
    }

    fn introduce(&mut self, description: &Description<'_>) -> Result<(), LoopbackError> {
        let refused = self.transport.0.refused.take();
        refused.map_or(Ok(()), Err)?;
        self.device().set_enabled(true);
        self.control.hello(&self.kernel, description)?;
        for vcpu in 0..self.control.vcpus() {
            self.control.cpu_state(&self.kernel, vcpu, true)?;
        }
        self.control.update(&self.kernel)?;
        Ok(())
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device<GuestMemoryMmap> {
        &self.transport.0.device
    }

    /// Lets vCPU `vcpu` take samples: `work` offers them.
    ///
    /// # Panics
    /// When there is no such vCPU.
    pub fn on_vcpu<R>(&mut self, vcpu: u16, work: impl FnOnce(&mut Sampler<'_>) -> R) -> R {
        let mut agent = self.kernel.agents[usize::from(vcpu)].borrow_mut();
        work(&mut Sampler {
            agent: &mut agent,
            kernel: &self.kernel,
        })
    }

    /// The guest, without agent and device. What the agent took of its RAM is not given back.
    #[must_use]
    pub fn into_guest(self) -> SyntheticGuest {
        self.kernel.guest.into_inner()
    }

    /// Appends what is in the event buffer to `words`.
    pub fn read(&mut self, words: &mut Vec<u64>) {
        self.reader.read(words);
    }
}

/// A vCPU whose agent takes samples.
#[derive(Debug)]
pub struct Sampler<'a> {
    agent: &'a mut CpuAgent<LoopbackTransport>,
    kernel: &'a Kernel,
}

impl Sampler<'_> {
    /// Takes a sample of a task in address space `space`, with its call chain as deep as the device asks.
    #[inline]
    pub fn sample(&mut self, sample: &Sample, space: u64, chain: &[u64]) {
        let walk = |depth: u32, tracer: &mut Tracer<'_, OpenBuffer>| {
            for &pc in chain.iter().take(depth as usize) {
                tracer.frame(pc);
            }
        };
        self.agent.sample(self.kernel, sample, space, walk);
    }

    /// Posts the open buffer, quietly.
    pub fn post(&mut self) {
        self.agent.idle(self.kernel, 0);
    }

    /// Samples that were lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.agent.statistics().counters.lost
    }
}
