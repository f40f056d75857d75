//! The device as a VMM sees it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oprofile_wire::{CONTROL_QUEUE, QUEUE_SIZE};
use thiserror::Error;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryBackend;

use super::config;
use crate::account::Account;
use crate::clock::HostClock;
use crate::cookies::CookieTarget;
use crate::engine::{Engine, Link};
use crate::event_buffer::{EventBuffer, EventReader, OpenError, SharedEvents, SizeError};
use crate::fault::Fault;
use crate::kernel::Kernel;
use crate::perf_map::PerfMap;
use crate::settings::{
    MAX_BACKTRACE_DEPTH, MAX_CPU_BUFFER_ENTRIES, MAX_EVENT_BUFFER_WORDS, MAX_PERIOD_NS,
    MIN_PERIOD_NS, Settings, SettingsError,
};

/// How often [`Device::tick`] is to be called: OProfile's sync period (HZ/10).
pub const SYNC_PERIOD: Duration = Duration::from_millis(100);

/// Features that the device offers, and those of them it cannot work without.
const FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// How the device interrupts the guest. Called without any lock of the device held, on the thread that called in.
pub trait Interrupt: Send + Sync {
    /// `queue` has used buffers.
    fn signal_queue(&self, queue: u16);
    /// The configuration space changed.
    fn signal_config(&self);
}

/// Why a device was not activated; its queues are gone with the call and must be made anew.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ActivateError {
    /// It is active: reset it first.
    #[error("The device is active already")]
    Active,
    /// Features that were not offered, or without `VIRTIO_F_VERSION_1`.
    #[error(
        "The driver accepted features {0:#x}, of those offered it may and must not take others"
    )]
    Features(u64),
    /// Another number of queues than [`Device::queue_sizes`] tells.
    #[error("The device has {expected} queues, not {found}")]
    QueueCount {
        /// Queues of the device.
        expected: usize,
        /// Queues given.
        found: usize,
    },
    /// A ready queue whose rings are not in RAM, or a control queue that is not ready.
    #[error("Queue {0} is not set up within guest RAM")]
    Queue(u16),
}

struct State<M> {
    engine: Engine,
    link: Option<Link<M>>,
    interrupt: Option<Arc<dyn Interrupt>>,
}

/// The profiling device. Every method may be called from any thread; one lock stands for OProfile's buffer mutex.
///
/// ```text
///           activate            hello accepted
///  inactive ────────> active ─────────────────> profiling
///     ^                 │                          │
///     └───── reset ─────┴──────────────────────────┘
/// ```
pub struct Device<M> {
    settings: Settings,
    enabled: AtomicBool,
    /// As in `settings`, until they are changed.
    period_ns: AtomicU64,
    backtrace_depth: AtomicU32,
    cpu_buffer_size: AtomicU32,
    /// Counts when perf maps are wanted.
    wanted_maps: Arc<AtomicU32>,
    events: SharedEvents,
    clock: Arc<HostClock<M>>,
    state: Mutex<State<M>>,
}

impl<M> fmt::Debug for Device<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("settings", &self.settings)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

impl<M: GuestMemoryBackend + Send + Sync> Device<M> {
    /// A device that is not active yet and does not want samples.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.validate()?;
        let (size, watershed) = (settings.buffer_size, settings.buffer_watershed);
        // The rest of the ranges has been checked: what is left is a host without memory.
        let buffer = EventBuffer::new(size, watershed).map_err(|_| SettingsError::Memory(size))?;
        let events = SharedEvents::new(buffer);
        let wanted_maps = Arc::<AtomicU32>::default();
        let state = Mutex::new(State {
            engine: Engine::new(&settings, events.clone(), Arc::clone(&wanted_maps)),
            link: None,
            interrupt: None,
        });
        let clock = HostClock::new(settings.vcpus, settings.period_ns);
        Ok(Self {
            clock: Arc::new(clock),
            period_ns: AtomicU64::new(settings.period_ns),
            backtrace_depth: AtomicU32::new(settings.backtrace_depth),
            cpu_buffer_size: AtomicU32::new(settings.cpu_buffer_size),
            settings,
            enabled: AtomicBool::new(false),
            wanted_maps,
            events,
            state,
        })
    }

    /// The settings it was made with.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Feature bits that it offers.
    #[must_use]
    pub const fn features(&self) -> u64 {
        FEATURES
    }

    /// Sizes of its queues: control, then one for each vCPU.
    #[must_use]
    pub fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.settings.vcpus) + 1]
    }

    /// Reads configuration space; bytes outside it are 0.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        let enabled = self.enabled.load(Ordering::Acquire);
        let settings = Settings {
            period_ns: self.period_ns(),
            backtrace_depth: self.backtrace_depth(),
            cpu_buffer_size: self.cpu_buffer_size(),
            ..self.settings
        };
        let wanted_maps = self.wanted_maps.load(Ordering::Acquire);
        let space = config::space(&settings, enabled, wanted_maps);
        config::read(&space, offset, data);
    }

    /// Writes configuration space. The flush doorbell drains the sample queue of the vCPU that it names before this
    /// returns; anything else is counted and ignored.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        self.with_engine(|engine, link| match config::doorbell(offset, data) {
            Some(vcpu) => engine.doorbell(vcpu, link),
            None => engine.fault(Fault::BadConfigWrite, || {
                format!("{} bytes at {offset:#x}", data.len())
            }),
        });
    }

    /// The driver is ready (`DRIVER_OK`): takes its memory, queues and accepted features.
    ///
    /// # Errors
    /// When it is active already, or features or queues do not fit; it stays as it was then.
    pub fn activate(
        &self,
        memory: Arc<M>,
        mut queues: Vec<Queue>,
        features: u64,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<(), ActivateError> {
        let mut state = self.lock();
        if state.link.is_some() {
            return Err(ActivateError::Active);
        }
        if features & !FEATURES != 0 || features & (1 << VIRTIO_F_VERSION_1) == 0 {
            return Err(ActivateError::Features(features));
        }
        let expected = usize::from(self.settings.vcpus) + 1;
        if queues.len() != expected {
            return Err(ActivateError::QueueCount {
                expected,
                found: queues.len(),
            });
        }
        for (index, queue) in (0..=u16::MAX).zip(&mut queues) {
            // A driver with fewer vCPUs than the VM leaves queues alone.
            let must_be_valid = queue.ready() || index == CONTROL_QUEUE;
            if must_be_valid && !queue.is_valid(&*memory) {
                return Err(ActivateError::Queue(index));
            }
            queue.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        }
        state.link = Some(Link::new(memory, queues, Arc::clone(&self.clock)));
        state.interrupt = Some(interrupt);
        Ok(())
    }

    /// The driver resets the device, or the guest restarts. What is in the sample queues is taken first; then the hello is
    /// forgotten. Counters, cookies and words for the reader stay. Returns the queues, none when it was not active.
    pub fn reset(&self) -> Vec<Queue> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(mut link) = state.link.take() else {
            return Vec::new();
        };
        state.interrupt = None;
        state.engine.reset(&mut link);
        drop(guard);
        self.events.dump();
        link.into_queues()
    }

    /// A notification (kick) of `queue` arrived.
    pub fn notify(&self, queue: u16) {
        self.with_engine(|engine, link| engine.kick(queue, link));
    }

    /// The periodic sync of every vCPU; call it each [`SYNC_PERIOD`].
    pub fn tick(&self) {
        self.with_engine(Engine::tick);
    }

    /// Tells the guest whether samples are wanted: a change of configuration space, and its interrupt.
    pub fn set_enabled(&self, enabled: bool) {
        let mut state = self.lock();
        if self.enabled.swap(enabled, Ordering::AcqRel) == enabled {
            return;
        }
        // First: a driver that stops does not find an NMI on its way that was sent after it knew.
        self.clock.set_enabled(enabled);
        if enabled {
            state.engine.resume();
        }
        Self::signal_config(state);
    }

    /// Interrupts because the configuration space has changed.
    fn signal_config(state: MutexGuard<'_, State<M>>) {
        let interrupt = state.interrupt.clone();
        drop(state);
        if let Some(interrupt) = interrupt {
            interrupt.signal_config();
        }
    }

    /// Changes the sampling period, in nanoseconds. The guest is told at once.
    ///
    /// # Errors
    /// Outside [`MIN_PERIOD_NS`] to [`MAX_PERIOD_NS`].
    pub fn set_period_ns(&self, period: u64) -> Result<(), SettingsError> {
        if !(MIN_PERIOD_NS..=MAX_PERIOD_NS).contains(&period) {
            return Err(SettingsError::Period(period));
        }
        let state = self.lock();
        if self.period_ns.swap(period, Ordering::AcqRel) != period {
            self.clock.set_period(period);
            Self::signal_config(state);
        }
        Ok(())
    }

    /// Sampling period in nanoseconds.
    #[must_use]
    pub fn period_ns(&self) -> u64 {
        self.period_ns.load(Ordering::Acquire)
    }

    /// Changes the most frames of a call chain. The guest is told at once.
    ///
    /// # Errors
    /// Above [`MAX_BACKTRACE_DEPTH`].
    pub fn set_backtrace_depth(&self, depth: u32) -> Result<(), SettingsError> {
        if depth > MAX_BACKTRACE_DEPTH {
            return Err(SettingsError::BacktraceDepth(depth));
        }
        let state = self.lock();
        if self.backtrace_depth.swap(depth, Ordering::AcqRel) != depth {
            Self::signal_config(state);
        }
        Ok(())
    }

    /// Most frames of a call chain, 0 for none.
    #[must_use]
    pub fn backtrace_depth(&self) -> u32 {
        self.backtrace_depth.load(Ordering::Acquire)
    }

    /// Changes the entries that a vCPU's sample buffers hold together. A driver looks when it starts.
    ///
    /// # Errors
    /// Outside 1 to [`MAX_CPU_BUFFER_ENTRIES`].
    pub fn set_cpu_buffer_size(&self, entries: u32) -> Result<(), SettingsError> {
        if !(1..=MAX_CPU_BUFFER_ENTRIES).contains(&entries) {
            return Err(SettingsError::CpuBufferSize(entries));
        }
        let state = self.lock();
        if self.cpu_buffer_size.swap(entries, Ordering::AcqRel) != entries {
            Self::signal_config(state);
        }
        Ok(())
    }

    /// Entries that a vCPU's sample buffers hold together.
    #[must_use]
    pub fn cpu_buffer_size(&self) -> u32 {
        self.cpu_buffer_size.load(Ordering::Acquire)
    }

    /// Whether samples are wanted.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Whether the guest has answered: its clocks are stopped and everything it had has been taken. It does so when
    /// samples are wanted no longer and before it powers off.
    #[must_use]
    pub fn quiesced(&self) -> bool {
        self.lock().engine.quiesced()
    }

    /// Opens the event buffer.
    ///
    /// # Errors
    /// When it has a reader already.
    pub fn open_events(&self) -> Result<EventReader, OpenError> {
        self.events.open()
    }

    /// As [`Device::open_events`], with another size and watershed, in words, from now on. Words that wait stay.
    ///
    /// # Errors
    /// When it has a reader already, or cannot have that size, at most [`MAX_EVENT_BUFFER_WORDS`].
    pub fn open_events_sized(
        &self,
        size: usize,
        watershed: usize,
    ) -> Result<EventReader, OpenError> {
        if size > MAX_EVENT_BUFFER_WORDS {
            return Err(SizeError::Memory(size).into());
        }
        self.events.open_sized(size, watershed)
    }

    /// Takes what is in the sample queues, then wakes the reader of the event buffer, full or not.
    pub fn dump(&self) {
        self.with_engine(Engine::tick);
        self.events.dump();
    }

    /// The host's clock, for the thread that serves it where the settings say [`crate::Clock::HostNmi`].
    #[must_use]
    pub const fn host_clock(&self) -> &Arc<HostClock<M>> {
        &self.clock
    }

    /// What a cookie in the event buffer stands for; `None` for one that was never given out.
    #[must_use]
    pub fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        self.lock().engine.cookie(cookie)
    }

    /// The vDSO in the anonymous region that a cookie stands for, if it holds one: its pages that were in memory, zeros for others. At
    /// most 64 KiB.
    #[must_use]
    pub fn vdso(&self, cookie: u64) -> Option<Arc<[u8]>> {
        self.lock().engine.vdso(cookie)
    }

    /// The functions of the process with the anonymous region that a cookie stands for, as its just-in-time compiler tells them; `None`
    /// when it tells none. They are those of the whole process, at most 22 MiB of memory.
    #[must_use]
    pub fn perf_map(&self, cookie: u64) -> Option<Arc<PerfMap>> {
        self.lock().engine.perf_map(cookie)
    }

    /// What is known of the guest's kernel; `None` before its hello. Survives a reset until the next hello.
    #[must_use]
    pub fn kernel(&self) -> Option<Arc<Kernel>> {
        self.lock().engine.kernel()
    }

    /// A snapshot of all counters.
    #[must_use]
    pub fn account(&self) -> Account {
        Account {
            clock: self.clock.account(),
            ..self.lock().engine.account()
        }
    }

    /// A panic under the lock leaves counters and guest state that are each valid by themselves, as hostile input
    /// would; the guest's VM goes on, so the device does too.
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` under the lock, and raises the interrupts that became due without it.
    fn with_engine(&self, work: impl FnOnce(&mut Engine, Option<&mut Link<M>>)) {
        let mut guard = self.lock();
        let state = &mut *guard;
        work(&mut state.engine, state.link.as_mut());
        let signals = state.link.as_mut().map(Link::take_signals);
        let config_changed = state.engine.take_config_change();
        let interrupt = state.interrupt.clone();
        drop(guard);
        if let (Some(signals), Some(interrupt)) = (signals, interrupt) {
            for queue in signals {
                interrupt.signal_queue(queue);
            }
            if config_changed {
                interrupt.signal_config();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::{Driver, Interrupts, SyntheticGuest};
    use vm_memory::GuestMemoryMmap;

    const fn assert_shared<T: Send + Sync>() {}
    const _: () = assert_shared::<Device<GuestMemoryMmap>>();

    fn parts(driver: &Driver) -> (Arc<GuestMemoryMmap>, Vec<Queue>, Arc<dyn Interrupt>) {
        let queues = driver.rings.iter().map(|ring| ring.queue()).collect();
        (
            driver.guest.memory(),
            queues,
            Arc::new(Interrupts::default()),
        )
    }

    #[test]
    fn settings_out_of_range_make_no_device() {
        let settings = Settings {
            vcpus: 0,
            ..Settings::default()
        };
        let refused = Device::<GuestMemoryMmap>::new(settings);
        assert_eq!(refused.err(), Some(SettingsError::Vcpus(0)));
    }

    #[test]
    fn an_active_device_is_not_activated_again_until_it_is_reset() {
        let driver = Driver::new(SyntheticGuest::default(), 1);
        let device = &driver.device;
        let (memory, queues, interrupt) = parts(&driver);
        let refused = device.activate(memory, queues, FEATURES, interrupt);
        assert_eq!(refused, Err(ActivateError::Active));
        assert_eq!(device.reset().len(), 2);
        let (memory, queues, interrupt) = parts(&driver);
        assert_eq!(device.activate(memory, queues, FEATURES, interrupt), Ok(()));
    }

    #[test]
    fn features_and_queues_that_do_not_fit_are_refused() {
        let driver = Driver::new(SyntheticGuest::default(), 1);
        let device = &driver.device;
        device.reset();
        for features in [0, FEATURES | 1, 1 << VIRTIO_RING_F_EVENT_IDX] {
            let (memory, queues, interrupt) = parts(&driver);
            let refused = device.activate(memory, queues, features, interrupt);
            assert_eq!(refused, Err(ActivateError::Features(features)));
        }
        let (memory, mut queues, interrupt) = parts(&driver);
        queues.pop();
        let refused = device.activate(memory, queues, FEATURES, interrupt);
        let count = ActivateError::QueueCount {
            expected: 2,
            found: 1,
        };
        assert_eq!(refused, Err(count));
        let (memory, mut queues, interrupt) = parts(&driver);
        queues[1].set_used_ring_address(Some(0xffff_f000), Some(1));
        let refused = device.activate(memory, queues, FEATURES, interrupt);
        assert_eq!(refused, Err(ActivateError::Queue(1)));
    }

    #[test]
    fn a_sample_queue_that_the_driver_leaves_alone_is_no_hindrance() {
        let mut driver = Driver::new(SyntheticGuest::default(), 2);
        driver.device.reset();
        driver.rings[0] = crate::test_utils::Ring::new(
            driver.guest.memory(),
            driver.guest.allocate(crate::test_utils::Ring::BYTES),
        );
        let (memory, mut queues, interrupt) = parts(&driver);
        queues[2].set_ready(false);
        let activated = driver.device.activate(memory, queues, FEATURES, interrupt);
        assert_eq!(activated, Ok(()));
        let mut driver = driver.hello();
        driver.assert_lives(0);
        assert_eq!(driver.device.account().faults.total(), 0);
    }

    #[test]
    fn only_a_change_of_enable_interrupts() {
        let driver = Driver::new(SyntheticGuest::default(), 1);
        for enabled in [false, true, true, false] {
            driver.device.set_enabled(enabled);
            let mut bytes = [0; 4];
            driver.device.read_config(20, &mut bytes);
            assert_eq!(u32::from_le_bytes(bytes), u32::from(enabled));
        }
        assert_eq!(driver.interrupts.config(), 2);
    }

    #[test]
    fn changed_settings_interrupt_once_and_show_in_the_configuration() {
        let driver = Driver::new(SyntheticGuest::default(), 1);
        let device = &driver.device;
        for _ in 0..2 {
            device.set_backtrace_depth(9).unwrap();
            device.set_cpu_buffer_size(77).unwrap();
            device.set_period_ns(123_456).unwrap();
        }
        assert_eq!(driver.interrupts.config(), 3);
        let mut bytes = [0; 8];
        device.read_config(24, &mut bytes);
        assert_eq!(bytes, 123_456u64.to_le_bytes());
        device.read_config(36, &mut bytes);
        assert_eq!(bytes[..4], 9u32.to_le_bytes());
        assert_eq!(bytes[4..], 77u32.to_le_bytes());
        let refused = device.set_backtrace_depth(257);
        assert_eq!(refused, Err(SettingsError::BacktraceDepth(257)));
        let refused = device.set_cpu_buffer_size(0);
        assert_eq!(refused, Err(SettingsError::CpuBufferSize(0)));
        let refused = device.set_period_ns(9_999);
        assert_eq!(refused, Err(SettingsError::Period(9_999)));
        assert_eq!(device.period_ns(), 123_456);
        assert_eq!(
            (device.backtrace_depth(), device.cpu_buffer_size()),
            (9, 77)
        );
        assert_eq!(driver.interrupts.config(), 3);
    }

    #[test]
    fn a_dump_takes_what_is_queued_and_wakes_the_reader() {
        let mut driver = Driver::new(SyntheticGuest::default(), 1).hello();
        let task = driver.guest.init_task();
        let buffer = driver.buffer(0).kernel(task).sample(1 << 63);
        driver.post(0, &buffer);
        driver.device.dump();
        assert!(driver.reader.wait(Duration::ZERO));
        assert!(!driver.words().is_empty());
    }
}
