//! The driver: bring-up, what the kernel tells the device, and what the host wants of the kernel.

use core::fmt;
use core::sync::atomic::Ordering;

use oprofile_wire::changes;
use oprofile_wire::config::capability;
use oprofile_wire::control::{CpuState, HostClock, flag, kind};
use oprofile_wire::{CONTROL_QUEUE, sample_queue};
use zerocopy::IntoBytes;

use crate::buffers::buffer_count;
use crate::description::{Description, List, ListEntry, Module, Symbol};
use crate::flush::Flush;
use crate::memory::{DmaMemory, SharedMemory};
use crate::nmi::{self, CELL_STRIDE};
use crate::platform::Platform;
use crate::request::{
    ControlQueue, Payload, REQUEST_BYTES, RequestError, TASK_FREE_BYTES, TASK_FREE_SLOTS,
};
use crate::settings::{Settings, SettingsError};
use crate::transport::{Transport, TransportError, feature, negotiate, status as device_status};
use crate::virtqueue::{Interrupts, QUEUE_BYTES, Virtqueue};

/// How long a request may take. The device answers at once, save that it shares two slow processors with everything
/// else in an emulated lab.
pub const REQUEST_TIMEOUT_NS: u64 = 10_000_000_000;

/// Capabilities that this driver uses where they are offered.
const CAPABILITIES: u64 = capability::FLUSH_DOORBELL
    | capability::BACKTRACE
    | capability::KERNEL_SYMBOLS
    | capability::TASK_FREE
    | capability::CHANGE_WORDS
    | capability::HOST_NMI;

/// Why there is no driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BringUpError {
    /// No usable virtio device.
    Transport(TransportError),
    /// A virtio device, but not one of ours.
    Settings(SettingsError),
    /// The kernel has no memory for queues and buffers.
    NoMemory,
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(_) => f.write_str("Cannot reach the profiling device"),
            Self::Settings(_) => f.write_str("Cannot use the profiling device"),
            Self::NoMemory => {
                f.write_str("No memory for sample buffers; lower cpu-buffer-size on the host")
            }
        }
    }
}

impl core::error::Error for BringUpError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Transport(error) => Some(error),
            Self::Settings(error) => Some(error),
            Self::NoMemory => None,
        }
    }
}

impl From<TransportError> for BringUpError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<SettingsError> for BringUpError {
    fn from(error: SettingsError) -> Self {
        Self::Settings(error)
    }
}

/// How the driver stands with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The device is there and has not been told about the kernel.
    Silent,
    /// The device does not accept the kernel's description; sampling stays off.
    Refused(RequestError),
    /// Sampling follows the host's settings.
    Ready,
}

/// What the kernel's sampling clocks shall do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// Run with this period on every vCPU that is not idle.
    Run {
        /// Nanoseconds between samples.
        period_ns: u64,
    },
    /// The host is the clock: [`Control::start_host_clock`] makes it tick. Timers stay off.
    ByHost,
    /// Stop; and when they have stopped, call [`Control::quiesce`].
    Stop,
    /// Stay off.
    Off,
}

/// What becomes of tasks that the kernel wants to free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskFate {
    /// The device may refer to them: keep them readable until [`Control::freed_tasks`] hands them out.
    Held,
    /// The device does not hold tasks: free them now.
    FreeNow,
}

/// What the control queue has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlStatistics {
    /// Entries of the used ring that cannot be right.
    pub faults: u64,
    /// Task-free requests that the device refused; their tasks were handed out all the same.
    pub task_free_refused: u64,
}

/// The driver's shared state, under a lock of its own; for the lock order see [`Platform`].
#[derive(Debug)]
pub struct Control<T> {
    transport: T,
    queue: ControlQueue,
    settings: Settings,
    /// vCPUs that have a queue.
    vcpus: u16,
    /// Change words, where the device knows what they are.
    change_words: Option<SharedMemory>,
    /// Clock cells, where the host wants to be the clock and the kernel takes NMIs.
    cells: Option<SharedMemory>,
    /// In force since hello.
    capabilities: u64,
    status: Status,
    sampling: bool,
    task_free_refused: u64,
}

impl<T: Transport> Control<T> {
    /// Takes over the device with type `device_id` and gives each of the kernel's `cpus` vCPUs its buffers, as far as
    /// the device has queues. Sampling is off; [`Control::hello`] comes next.
    ///
    /// # Errors
    /// When there is no such device, it is not a profiling device, or memory runs out. The device is then marked failed.
    pub fn bring_up<P: Platform<Transport = T>>(
        platform: &P,
        transport: T,
        device_id: u32,
        cpus: u16,
    ) -> Result<Self, BringUpError> {
        transport.probe(device_id)?;
        let result = Self::take_over(platform, &transport, cpus);
        if result.is_err() {
            transport.set_status(transport.status() | device_status::FAILED);
        }
        result
    }

    fn take_over<P: Platform<Transport = T>>(
        platform: &P,
        transport: &T,
        cpus: u16,
    ) -> Result<Self, BringUpError> {
        let features = negotiate(transport, feature::EVENT_IDX)?;
        let event_idx = features & feature::EVENT_IDX != 0;
        let settings = Settings::read(transport)?;
        let allocate = |bytes| platform.allocate(bytes).ok_or(BringUpError::NoMemory);
        let enable = |index, interrupts| {
            let memory = allocate(QUEUE_BYTES)?;
            Virtqueue::enable(transport, index, memory, event_idx, interrupts)
                .map_err(BringUpError::Transport)
        };

        let control = enable(CONTROL_QUEUE, Interrupts::Wanted)?;
        let queue = ControlQueue::new(
            control,
            allocate(REQUEST_BYTES)?,
            allocate_all(|| allocate(TASK_FREE_BYTES))?,
        )
        .ok_or(TransportError::QueueUnavailable(CONTROL_QUEUE))?;

        let vcpus = cpus.min(settings.vcpus);
        let bytes = settings.sample_buffer_bytes;
        let count = buffer_count(settings.cpu_buffer_entries, bytes);
        for vcpu in 0..vcpus {
            let queue = enable(sample_queue(vcpu), Interrupts::Suppressed)?;
            platform
                .with_cpu(vcpu, |agent| {
                    agent.attach(
                        vcpu,
                        transport.clone(),
                        queue,
                        count,
                        bytes as usize,
                        |bytes| platform.allocate(bytes),
                    )
                })
                .map_err(|_| BringUpError::NoMemory)?;
        }
        let change_words = match settings.capabilities & capability::CHANGE_WORDS {
            0 => None,
            _ => Some(allocate(changes::BYTES)?.share()),
        };
        let takes_nmis = settings.capabilities & capability::HOST_NMI != 0
            && (0..vcpus).all(|vcpu| platform.nmi(vcpu).is_some());
        let cells = match takes_nmis {
            false => None,
            true => Some(allocate(nmi::cell_bytes(vcpus))?.share()),
        };
        if let Some(cells) = cells {
            for vcpu in 0..vcpus {
                let sampler = platform.nmi(vcpu);
                if !sampler.is_some_and(|sampler| sampler.attach(cells, vcpu.into())) {
                    return Err(BringUpError::NoMemory);
                }
            }
        }
        transport.set_status(transport.status() | device_status::DRIVER_OK);
        Ok(Self {
            transport: transport.clone(),
            queue,
            settings,
            vcpus,
            change_words,
            cells,
            capabilities: 0,
            status: Status::Silent,
            sampling: false,
            task_free_refused: 0,
        })
    }

    /// The host's settings, as of bring-up or the last [`Control::update`].
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How the driver stands with the device.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// vCPUs that have a sample queue; others of the kernel's are not sampled.
    #[must_use]
    pub const fn vcpus(&self) -> u16 {
        self.vcpus
    }

    /// What the control queue has counted.
    #[must_use]
    pub const fn statistics(&self) -> ControlStatistics {
        ControlStatistics {
            faults: self.queue.faults(),
            task_free_refused: self.task_free_refused,
        }
    }

    /// For exit, exec and munmap: the flush doorbell and the change words. To be taken after hello has been accepted.
    #[must_use]
    pub fn flush(&self) -> Flush<T> {
        Flush {
            transport: self.transport.clone(),
            vcpus: self.vcpus,
            doorbell: self.has(capability::FLUSH_DOORBELL),
            change_words: self
                .change_words
                .filter(|_| self.has(capability::CHANGE_WORDS)),
        }
    }

    /// Introduces the kernel. Until that is accepted, every other request is refused.
    ///
    /// # Errors
    /// When the device does not accept it or does not answer; [`Control::status`] keeps the reason.
    pub fn hello<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
        description: &Description<'_>,
    ) -> Result<(), RequestError> {
        let result = self.send_hello(platform, description);
        match result {
            Ok(capabilities) => {
                // Only what was asked for can be in force, whatever the device says.
                self.capabilities = capabilities & self.settings.capabilities & CAPABILITIES;
                if self.cells.is_none() {
                    self.capabilities &= !capability::HOST_NMI;
                }
                self.status = Status::Ready;
                Ok(())
            }
            Err(error) => {
                self.status = Status::Refused(error);
                Err(error)
            }
        }
    }

    fn send_hello<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
        description: &Description<'_>,
    ) -> Result<u64, RequestError> {
        let mut capabilities = self.settings.capabilities & CAPABILITIES;
        if self.cells.is_none() {
            capabilities &= !capability::HOST_NMI;
        }
        let mut payload = self.queue.start()?;
        let change_words = self.change_words.map_or(0, |words| words.gpa());
        description.write(capabilities, change_words, &mut payload)?;
        payload.finish(kind::HELLO, 0);
        self.submit(platform)
    }

    /// Tells that a vCPU comes or goes; one that goes posts its buffer first and takes no more samples.
    ///
    /// # Errors
    /// When the device does not accept it or does not answer.
    pub fn cpu_state<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
        vcpu: u16,
        online: bool,
    ) -> Result<(), RequestError> {
        self.introduced()?;
        if vcpu < self.vcpus {
            if let Some(sampler) = platform.nmi(vcpu) {
                sampler.online.store(online, Ordering::Relaxed);
            }
            if online {
                self.activate(platform, vcpu);
            } else {
                self.stop_host_clock(platform, vcpu)?;
                self.stop_and_post(platform, vcpu);
            }
        }
        let state = CpuState {
            vcpu: u32::from(vcpu).into(),
            online: u32::from(online).into(),
        };
        self.request(platform, kind::CPU_STATE, 0, |payload| {
            payload.push(&[state.as_bytes()])
        })?;
        if online && self.sampling {
            self.start_host_clock(platform)?;
        }
        Ok(())
    }

    /// Has the host send its NMIs to each vCPU that is online, where it is the clock ([`Clocks::ByHost`]).
    ///
    /// # Errors
    /// When the device does not accept it or does not answer.
    pub fn start_host_clock<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
    ) -> Result<(), RequestError> {
        let Some(cells) = self.cells.filter(|_| self.has(capability::HOST_NMI)) else {
            return Ok(());
        };
        for vcpu in 0..self.vcpus {
            let Some(sampler) = platform.nmi(vcpu) else {
                continue;
            };
            if !sampler.online.load(Ordering::Relaxed) {
                continue;
            }
            if sampler.armed.load(Ordering::Relaxed) {
                sampler.sampling.store(true, Ordering::Release);
                continue;
            }
            sampler.reset();
            sampler.armed.store(true, Ordering::Release);
            sampler.sampling.store(true, Ordering::Release);
            let cell = cells.gpa() + u64::from(vcpu) * CELL_STRIDE as u64;
            let asked = self.host_clock(platform, vcpu, cell);
            if asked.is_err() {
                sampler.armed.store(false, Ordering::Release);
                return asked;
            }
        }
        Ok(())
    }

    /// Has the host send no more NMIs to a vCPU. One that was sent before the answer may still come, and is no sample.
    fn stop_host_clock<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
        vcpu: u16,
    ) -> Result<(), RequestError> {
        let Some(sampler) = platform.nmi(vcpu) else {
            return Ok(());
        };
        sampler.sampling.store(false, Ordering::Release);
        if sampler.armed.swap(false, Ordering::AcqRel) {
            self.host_clock(platform, vcpu, 0)
        } else {
            Ok(())
        }
    }

    fn host_clock<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
        vcpu: u16,
        cell: u64,
    ) -> Result<(), RequestError> {
        let clock = HostClock {
            vcpu: u32::from(vcpu).into(),
            apic_id: platform.apic_id(vcpu).into(),
            cell: cell.into(),
        };
        self.request(platform, kind::HOST_CLOCK, 0, |payload| {
            payload.push(&[clock.as_bytes()])
        })
        .map(drop)
    }

    /// Sends the list of loaded modules, which replaces the one before; `coming`: one of them is about to run.
    ///
    /// # Errors
    /// When a name is too long, or the device does not accept the list or does not answer.
    pub fn modules<'a, P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
        modules: impl IntoIterator<Item = Module<'a>>,
        coming: bool,
    ) -> Result<(), RequestError> {
        let list = List {
            kind: kind::MODULES,
            flags: if coming { flag::MODULE_COMING } else { 0 },
            image_base: None,
        };
        self.list(platform, &list, modules)
    }

    /// Sends the functions of the kernel (`image_base` 0) or of a loaded module.
    ///
    /// # Errors
    /// When a name is too long, or the device does not accept the list or does not answer.
    pub fn symbols<'a, P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
        image_base: u64,
        symbols: impl IntoIterator<Item = Symbol<'a>>,
    ) -> Result<(), RequestError> {
        if self.status == Status::Ready && !self.has(capability::KERNEL_SYMBOLS) {
            return Ok(());
        }
        let list = List {
            kind: kind::SYMBOLS,
            flags: 0,
            image_base: Some(image_base),
        };
        self.list(platform, &list, symbols)
    }

    /// Asks the device to let go of dead tasks, at most [`oprofile_wire::control::MAX_TASKS_PER_REQUEST`] of them, that will not
    /// be sampled any more. Buffers that mention them are posted first.
    ///
    /// # Errors
    /// [`RequestError::Busy`] when too many such requests wait for the device: keep the tasks and try again later.
    pub fn free_tasks<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
        tasks: &[u64],
    ) -> Result<TaskFate, RequestError> {
        if tasks.is_empty() || self.introduced().is_err() || !self.has(capability::TASK_FREE) {
            return Ok(TaskFate::FreeNow);
        }
        if !self.queue.has_task_slot()? {
            return Err(RequestError::Busy);
        }
        for vcpu in 0..self.vcpus {
            platform.with_cpu(vcpu, |agent| agent.post_tasks(platform, tasks));
        }
        if self.queue.submit_tasks(tasks)? {
            self.transport.notify(CONTROL_QUEUE);
        }
        Ok(TaskFate::Held)
    }

    /// Hands out the tasks that the device has let go of. Worth a call after a queue interrupt, or now and then.
    ///
    /// # Errors
    /// When the control queue is broken; tasks that are still held then stay so.
    pub fn freed_tasks(&mut self, freed: impl FnMut(u64)) -> Result<(), RequestError> {
        let refused = self.queue.take_freed(freed)?;
        self.task_free_refused += refused as u64;
        Ok(())
    }

    /// Reads the host's settings, applies them to every vCPU, and says what the clocks shall do: after hello, and after each
    /// configuration interrupt. Sizes of buffers stay as they were at bring-up.
    ///
    /// # Errors
    /// When the settings cannot be used; those before stay in force.
    pub fn update<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
    ) -> Result<Clocks, SettingsError> {
        self.settings = Settings::read(&self.transport)?;
        let was_sampling = self.sampling;
        self.sampling = self.settings.enabled && self.status == Status::Ready;
        for vcpu in 0..self.vcpus {
            if self.sampling {
                self.activate(platform, vcpu);
            } else {
                if let Some(sampler) = platform.nmi(vcpu) {
                    sampler.sampling.store(false, Ordering::Release);
                }
                platform.with_cpu(vcpu, |agent| agent.deactivate());
            }
        }
        Ok(match (self.sampling, was_sampling) {
            (true, _) if self.has(capability::HOST_NMI) => Clocks::ByHost,
            (true, _) => Clocks::Run {
                period_ns: self.settings.period_ns,
            },
            (false, true) => Clocks::Stop,
            (false, false) => Clocks::Off,
        })
    }

    /// The clocks have stopped: posts every buffer and counter, and waits until the device has drained all queues. Also to be
    /// called before the guest powers off. Sampling stays off until the next [`Control::update`] with it on.
    ///
    /// # Errors
    /// When the device does not accept it or does not answer.
    pub fn quiesce<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
    ) -> Result<(), RequestError> {
        self.introduced()?;
        self.sampling = false;
        for vcpu in 0..self.vcpus {
            self.stop_host_clock(platform, vcpu)?;
            self.stop_and_post(platform, vcpu);
        }
        self.request(platform, kind::QUIESCED, 0, |_| true)
            .map(drop)
    }

    fn activate<P: Platform<Transport = T>>(&self, platform: &P, vcpu: u16) {
        if self.sampling {
            let depth = if self.has(capability::BACKTRACE) {
                self.settings.backtrace_depth
            } else {
                0
            };
            if let Some(sampler) = platform.nmi(vcpu) {
                sampler.set_depth(depth);
            }
            platform.with_cpu(vcpu, |agent| agent.activate(depth));
        }
    }

    /// Ends sampling on a vCPU and posts all that it has to tell, making the device give a buffer back when that takes one.
    fn stop_and_post<P: Platform<Transport = T>>(&self, platform: &P, vcpu: u16) {
        let flush = self.flush();
        let start = platform.now_ns();
        loop {
            let told = platform.with_cpu(vcpu, |agent| {
                agent.deactivate();
                let told = agent.post_everything(platform);
                if !told {
                    agent.kick();
                }
                told
            });
            if told || platform.now_ns().saturating_sub(start) > REQUEST_TIMEOUT_NS {
                break;
            }
            flush.ring(vcpu);
            platform.relax();
        }
    }

    const fn has(&self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }

    fn introduced(&self) -> Result<(), RequestError> {
        if self.status == Status::Ready {
            Ok(())
        } else {
            Err(RequestError::NotIntroduced)
        }
    }

    /// Sends one request and waits for its answer.
    fn request<P: Platform<Transport = T>>(
        &mut self,
        platform: &P,
        kind: u16,
        flags: u32,
        write: impl FnOnce(&mut Payload<'_>) -> bool,
    ) -> Result<u64, RequestError> {
        let mut payload = self.queue.start()?;
        if !write(&mut payload) {
            return Err(RequestError::TooLong);
        }
        payload.finish(kind, flags);
        self.submit(platform)
    }

    fn submit<P: Platform<Transport = T>>(&mut self, platform: &P) -> Result<u64, RequestError> {
        if self.queue.submit() {
            self.transport.notify(CONTROL_QUEUE);
        }
        let start = platform.now_ns();
        loop {
            if let Some(value) = self.queue.poll_answer()? {
                return Ok(value);
            }
            if platform.now_ns().saturating_sub(start) > REQUEST_TIMEOUT_NS {
                return Err(RequestError::TimedOut);
            }
            platform.relax();
        }
    }

    /// Sends a list in as many requests as it takes.
    fn list<P: Platform<Transport = T>, I: IntoIterator<Item: ListEntry>>(
        &mut self,
        platform: &P,
        list: &List,
        items: I,
    ) -> Result<(), RequestError> {
        self.introduced()?;
        let mut items = items.into_iter().peekable();
        let mut part = flag::FIRST;
        loop {
            let payload = self.queue.start()?;
            let last = list.write_part(payload, part, &mut items)?;
            self.submit(platform)?;
            if last {
                return Ok(());
            }
            part = 0;
        }
    }
}

fn allocate_all<E>(
    mut allocate: impl FnMut() -> Result<DmaMemory, E>,
) -> Result<[DmaMemory; TASK_FREE_SLOTS], E> {
    let [a, b, c, d] = [allocate()?, allocate()?, allocate()?, allocate()?];
    Ok([a, b, c, d])
}
