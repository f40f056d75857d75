//! OProfile's life cycle: open, start, stop, close, and the work that is done from time to time in between.
//!
//! ```text
//!            open                start
//!  closed ─────────> set up ──────────────> started
//!    ^                 │  ^                    │
//!    └───── close ─────┘  └─────── stop ───────┘
//! ```
//!
//! A pure state machine: it drives a [`Profiler`], and time passes when its caller says so. The rules are those of Linux
//! 4.7's `oprof.c`, `event_buffer.c` and `buffer_sync.c`, with their quirks: an open whose syncs fail to start succeeds
//! and leaves nothing set up; one that fails has still zeroed the CPUs' counters and changed the size of a read.

use crate::event_buffer::check_read;

use super::work::{Work, WorkQueue};
use super::{ControlError, Multiplexing, Profiler, SyncStart, SyncStop};

/// Jiffies in a second (HZ).
pub const JIFFIES_PER_SECOND: u64 = 1000;

/// Jiffies from one sync of a CPU to the next. The first ones come a jiffy apart, CPU by CPU.
pub const SYNC_PERIOD_JIFFIES: u64 = JIFFIES_PER_SECOND / 10;

const MS_PER_SECOND: u64 = 1000;

/// Who asks for something that not everybody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// With the rights of an administrator (`CAP_SYS_ADMIN`).
    Administrator,
    /// Anybody else.
    Other,
}

impl Caller {
    /// # Errors
    /// When it is no administrator.
    fn check(self) -> Result<(), ControlError> {
        match self {
            Self::Administrator => Ok(()),
            Self::Other => Err(ControlError::NotPermitted),
        }
    }
}

/// Settings, as the control files hold them. The buffers' sizes are used by the next open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    /// Size of the event buffer in words.
    pub buffer_size: u64,
    /// Free words at which its reader is woken.
    pub buffer_watershed: u64,
    /// Entries of a CPU's buffer.
    pub cpu_buffer_size: u64,
    /// Most frames of a call chain.
    pub backtrace_depth: u64,
    /// How long counters have their turn, in jiffies.
    pub time_slice: u64,
}

impl Default for Values {
    /// As of a freshly mounted file system.
    fn default() -> Self {
        Self {
            buffer_size: 131_072,
            buffer_watershed: 32_768,
            cpu_buffer_size: 8_192,
            backtrace_depth: 0,
            time_slice: jiffies(1),
        }
    }
}

/// Jiffies of `ms`, rounded up.
const fn jiffies(ms: u32) -> u64 {
    (ms as u64 * JIFFIES_PER_SECOND).div_ceil(MS_PER_SECOND)
}

/// The life cycle of `P`.
#[derive(Debug)]
pub struct LifeCycle<P> {
    profiler: P,
    values: Values,
    /// Somebody has the event buffer open. Only then cookies live.
    opened: bool,
    /// What opening sets up is there.
    set_up: bool,
    started: bool,
    /// Syncs come back after they ran.
    periodic: bool,
    works: WorkQueue,
    /// Size of the event buffer, in words, at the last open that got as far.
    opened_size: u64,
    /// Switches of events since the last start.
    switches: u64,
}

impl<P: Profiler> LifeCycle<P> {
    /// A profiler that nobody has opened; `values` are in force already. The clock stands at 0.
    pub fn new(profiler: P, values: Values) -> Self {
        Self {
            profiler,
            values,
            opened: false,
            set_up: false,
            started: false,
            periodic: false,
            works: WorkQueue::default(),
            opened_size: 0,
            switches: 0,
        }
    }

    /// The profiler.
    pub const fn profiler(&self) -> &P {
        &self.profiler
    }

    /// The profiler, for what does not belong to the life cycle.
    pub const fn profiler_mut(&mut self) -> &mut P {
        &mut self.profiler
    }

    /// The settings.
    pub const fn values(&self) -> &Values {
        &self.values
    }

    /// Whether the event buffer is open.
    pub const fn is_open(&self) -> bool {
        self.opened
    }

    /// Whether profiling has been started.
    pub const fn is_started(&self) -> bool {
        self.started
    }

    /// Switches of events since the last start.
    pub const fn switches(&self) -> u64 {
        self.switches
    }

    /// Jiffies since the beginning.
    pub const fn now(&self) -> u64 {
        self.works.now()
    }

    /// Jiffies until there is something to do; `None` when nothing waits.
    pub fn next_due(&self) -> Option<u64> {
        let expiry = self.works.next_expiry()?;
        Some(expiry.saturating_sub(self.works.now()))
    }

    /// Opens the event buffer and sets profiling up.
    ///
    /// # Errors
    /// `NotPermitted`; `Busy` when it is open; `Invalid` for a watershed that is not below the size; what a step answers.
    pub fn open(&mut self, caller: Caller) -> Result<(), ControlError> {
        caller.check()?;
        if self.opened {
            return Err(ControlError::Busy);
        }
        self.opened = true;
        self.profiler.register_cookie_user();
        self.set_up().inspect_err(|_| {
            self.profiler.unregister_cookie_user();
            self.opened = false;
        })
    }

    fn set_up(&mut self) -> Result<(), ControlError> {
        self.profiler
            .allocate_cpu_buffers(self.values.cpu_buffer_size)?;
        // Each CPU's work lives in its buffer and is made anew with it.
        self.works.cancel_syncs();
        self.allocate_events()
            .inspect_err(|_| self.profiler.free_cpu_buffers())?;
        self.profiler
            .set_up()
            .inspect_err(|_| self.free_buffers())?;
        match self.profiler.sync_start() {
            SyncStart::ByDriver => {}
            SyncStart::Generic => self.start_syncs(),
            SyncStart::Failed => {
                self.profiler.shut_down();
                self.free_buffers();
                return Ok(());
            }
        }
        self.set_up = true;
        Ok(())
    }

    fn allocate_events(&mut self) -> Result<(), ControlError> {
        let (size, watershed) = (self.values.buffer_size, self.values.buffer_watershed);
        self.opened_size = size;
        if watershed >= size {
            return Err(ControlError::Invalid);
        }
        self.profiler.allocate_event_buffer(size, watershed)
    }

    fn free_buffers(&mut self) {
        self.profiler.free_event_buffer();
        self.profiler.free_cpu_buffers();
    }

    fn start_syncs(&mut self) {
        self.profiler.register_notifications();
        self.periodic = true;
        for cpu in (0..self.profiler.cpus()).filter(|&cpu| self.profiler.is_online(cpu)) {
            let delay = SYNC_PERIOD_JIFFIES + u64::from(cpu);
            self.works.schedule(Work::Sync(cpu), delay);
        }
    }

    /// Runs the syncs that wait, once and for all. Those of CPUs that are offline are left waiting.
    fn stop_syncs(&mut self) {
        self.periodic = false;
        for cpu in 0..self.profiler.cpus() {
            if self.profiler.is_online(cpu) && self.works.cancel(Work::Sync(cpu)) {
                self.profiler.sync(cpu);
            }
        }
        self.profiler.unregister_notifications();
    }

    /// Begins to sample, with counters of 0. Does nothing when that has been done.
    ///
    /// # Errors
    /// `Invalid` unless set up; what the driver answers. The counters are 0 even then.
    pub fn start(&mut self) -> Result<(), ControlError> {
        if !self.set_up {
            return Err(ControlError::Invalid);
        }
        if self.started {
            return Ok(());
        }
        self.profiler.reset_counters();
        self.switches = 0;
        self.profiler.start()?;
        self.schedule_switch(self.values.time_slice);
        self.started = true;
        Ok(())
    }

    fn schedule_switch(&mut self, delay: u64) {
        if self.profiler.multiplexing() == Multiplexing::Available {
            self.works.schedule(Work::SwitchEvents, delay);
        }
    }

    /// Ends sampling and wakes the reader. Does nothing unless started.
    pub fn stop(&mut self) {
        if !self.started {
            return;
        }
        self.profiler.stop();
        self.started = false;
        self.works.cancel(Work::SwitchEvents);
        self.profiler.wake_reader();
    }

    /// Stops, syncs what waits, which nobody will read, and undoes [`LifeCycle::open`].
    ///
    /// # Errors
    /// `NotOpen`.
    pub fn close(&mut self) -> Result<(), ControlError> {
        if !self.opened {
            return Err(ControlError::NotOpen);
        }
        self.stop();
        match self.profiler.sync_stop() {
            SyncStop::Generic => self.stop_syncs(),
            SyncStop::ByDriver => {}
        }
        self.profiler.shut_down();
        self.set_up = false;
        self.free_buffers();
        self.profiler.unregister_cookie_user();
        self.profiler.clear_events();
        self.opened = false;
        Ok(())
    }

    /// Makes the event buffer ready and wakes its reader, open or not.
    pub fn dump(&mut self) {
        self.profiler.wake_reader();
    }

    /// Bytes that a read of the event buffer must ask for.
    pub const fn read_bytes(&self) -> u64 {
        self.opened_size.saturating_mul(8)
    }

    /// Takes all words out of the event buffer, for a read of `count` bytes at `offset`.
    ///
    /// # Errors
    /// `Invalid` for any read but one of the whole buffer at 0; then `WouldWait` when it is not ready; then
    /// `Interrupted` when there is none.
    pub fn read_events(&mut self, offset: u64, count: u64) -> Result<Vec<u64>, ControlError> {
        let size = usize::try_from(self.opened_size).unwrap_or(usize::MAX);
        check_read(size, count, offset).map_err(|_| ControlError::Invalid)?;
        self.profiler.take_events()
    }

    /// The path that `cookie` stands for, with a NUL, for a caller with room for `room` bytes.
    ///
    /// # Errors
    /// `NotPermitted`; `Invalid` when the event buffer is not open or the cookie unknown; `NameTooLong`; `OutOfRange`.
    pub fn lookup_dcookie(
        &self,
        caller: Caller,
        cookie: u64,
        room: u64,
    ) -> Result<Vec<u8>, ControlError> {
        caller.check()?;
        if !self.opened {
            return Err(ControlError::Invalid);
        }
        let file = self.profiler.cookie_file(cookie);
        file.ok_or(ControlError::Invalid)?.answer(room)
    }

    /// # Errors
    /// When profiling has been started.
    fn check_stopped(&self) -> Result<(), ControlError> {
        if self.started {
            Err(ControlError::Busy)
        } else {
            Ok(())
        }
    }

    /// Changes settings of buffers.
    ///
    /// # Errors
    /// `Busy` while started.
    pub fn set(&mut self, change: impl FnOnce(&mut Values)) -> Result<(), ControlError> {
        self.check_stopped()?;
        change(&mut self.values);
        Ok(())
    }

    /// Changes the depth of call chains, at once.
    ///
    /// # Errors
    /// `Busy` while started; what the profiler answers.
    pub fn set_backtrace_depth(&mut self, depth: u64) -> Result<(), ControlError> {
        self.check_stopped()?;
        self.profiler.set_backtrace_depth(depth)?;
        self.values.backtrace_depth = depth;
        Ok(())
    }

    /// Changes the time slice. Of `ms` the low 32 bits count.
    ///
    /// # Errors
    /// `Busy` while started; then `Invalid` when the driver cannot switch, or for 2³¹ ms and more.
    pub fn set_time_slice(&mut self, ms: u64) -> Result<(), ControlError> {
        self.check_stopped()?;
        if self.profiler.multiplexing() != Multiplexing::Available {
            return Err(ControlError::Invalid);
        }
        #[expect(clippy::cast_possible_truncation, reason = "as the original does")]
        let ms = ms as u32;
        if i32::try_from(ms).is_err() {
            return Err(ControlError::Invalid);
        }
        self.values.time_slice = jiffies(ms);
        Ok(())
    }

    /// The time slice in milliseconds.
    pub const fn time_slice_ms(&self) -> u64 {
        self.values.time_slice * MS_PER_SECOND / JIFFIES_PER_SECOND
    }

    /// Lets `jiffies` pass, and does what becomes due meanwhile, in the order of expiry.
    pub fn tick(&mut self, jiffies: u64) {
        let end = self.works.now().saturating_add(jiffies);
        while let Some(work) = self.works.next_due(end) {
            self.run(work);
            if self.works.now() == u64::MAX {
                // The end of time: what is scheduled now is due at once, for ever.
                break;
            }
        }
        self.works.advance_to(end);
    }

    fn run(&mut self, work: Work) {
        match work {
            // The work of a CPU that went offline ends here, also if it comes back.
            Work::Sync(cpu) if !self.profiler.is_online(cpu) => {}
            Work::Sync(cpu) => {
                self.profiler.sync(cpu);
                if self.periodic {
                    self.works.schedule(work, SYNC_PERIOD_JIFFIES);
                }
            }
            Work::SwitchEvents => {
                if self.profiler.switch_events() {
                    self.switches = self.switches.wrapping_add(1);
                    // A slice of no time at all would switch for ever within one jiffy.
                    self.schedule_switch(self.values.time_slice.max(1));
                }
            }
        }
    }
}
