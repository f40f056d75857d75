//! A scenario's machine as the control files drive it.

use std::convert::Infallible;

use oprofile_device::control_files::{
    ControlError, CookieFile, Counters, CpuCounters, Hooks, Multiplexing, Profiler, SyncStart,
    SyncStop,
};
use oprofile_device::event_buffer::SizeError;
use oprofile_guest_agent::writer::Writer;

use crate::fifo::Fifo;
use crate::guest::Guest;
use crate::machine::Machine;

/// Largest event buffer that can be had, in words (8 GiB). The memory is not touched before words come; a size that was
/// written by mistake must not be tried at all.
const MAX_EVENT_WORDS: u64 = 1 << 30;

/// What the hooks of the architecture return.
#[derive(Clone, Copy, Debug, Default)]
pub struct HookValues {
    pub setup: i32,
    pub start: i32,
    pub switch_events: i32,
    /// `None` while not installed, as the next.
    pub sync_start: Option<i32>,
    pub sync_stop: Option<i32>,
}

/// A hook's return value: anything but 0 is an error, which is passed on.
const fn outcome(value: i32) -> Result<(), ControlError> {
    match value {
        0 => Ok(()),
        code => Err(ControlError::Driver(code)),
    }
}

impl<G> Hooks for Machine<G> {
    fn cpu_type(&self) -> &str {
        "oracle"
    }

    fn has_walker(&self) -> bool {
        self.walk.walker
    }

    fn multiplexing(&self) -> Multiplexing {
        Multiplexing::Available
    }

    fn set_up(&mut self) -> Result<(), ControlError> {
        outcome(self.hooks.setup)
    }

    fn start(&mut self) -> Result<(), ControlError> {
        outcome(self.hooks.start)
    }

    fn sync_start(&mut self) -> SyncStart {
        match self.hooks.sync_start {
            Some(0) => SyncStart::ByDriver,
            None | Some(1) => SyncStart::Generic,
            Some(_) => SyncStart::Failed,
        }
    }

    fn sync_stop(&mut self) -> SyncStop {
        match self.hooks.sync_stop {
            None | Some(1) => SyncStop::Generic,
            Some(_) => SyncStop::ByDriver,
        }
    }

    fn switch_events(&mut self) -> bool {
        self.hooks.switch_events == 0
    }
}

impl<G: Guest> Profiler for Machine<G> {
    fn cpus(&self) -> u16 {
        u16::try_from(self.cpus.len()).unwrap_or(u16::MAX)
    }

    fn is_online(&self, cpu: u16) -> bool {
        Self::is_online(self, cpu)
    }

    fn set_backtrace_depth(&mut self, depth: u64) -> Result<(), ControlError> {
        self.walk.depth = depth;
        Ok(())
    }

    fn allocate_cpu_buffers(&mut self, entries: u64) -> Result<(), ControlError> {
        for cpu in &mut self.cpus {
            cpu.fifo = Fifo::new(entries);
            cpu.writer = Writer::new();
        }
        Ok(())
    }

    fn free_cpu_buffers(&mut self) {
        for cpu in &mut self.cpus {
            cpu.fifo = Fifo::default();
        }
    }

    fn allocate_event_buffer(&mut self, size: u64, watershed: u64) -> Result<(), ControlError> {
        let words = |count: u64| {
            let count = usize::try_from(count).ok();
            count.ok_or(ControlError::OutOfMemory)
        };
        if size > MAX_EVENT_WORDS {
            return Err(ControlError::OutOfMemory);
        }
        let allocated = self.events.allocate(words(size)?, words(watershed)?);
        allocated.map_err(|error| match error {
            SizeError::Watershed { .. } => ControlError::Invalid,
            SizeError::Memory(_) | SizeError::Pending { .. } => ControlError::OutOfMemory,
        })
    }

    fn free_event_buffer(&mut self) {
        self.events.free();
    }

    fn wake_reader(&mut self) {
        self.events.dump();
    }

    fn take_events(&mut self) -> Result<Vec<u64>, ControlError> {
        if !self.events.is_ready() {
            return Err(ControlError::WouldWait);
        }
        if !self.events.is_allocated() {
            return Err(ControlError::Interrupted);
        }
        let mut words = Vec::new();
        self.events.take(&mut words);
        Ok(words)
    }

    fn clear_events(&mut self) {
        self.events.clear();
    }

    fn register_notifications(&mut self) {
        self.pipeline.mortuary_mut().register();
    }

    fn unregister_notifications(&mut self) {
        self.freed.extend(self.pipeline.mortuary_mut().unregister());
    }

    fn sync(&mut self, cpu: u16) {
        let Ok(()) = self.sync_with(cpu, |_, _| Ok::<_, Infallible>(()));
    }

    fn register_cookie_user(&mut self) {
        self.guest.register_cookies();
    }

    fn unregister_cookie_user(&mut self) {
        self.guest.forget_cookies();
    }

    fn cookie_file(&self, cookie: u64) -> Option<CookieFile> {
        self.guest.cookie_file(cookie)
    }

    fn reset_counters(&mut self) {
        self.pipeline.reset_statistics();
        self.events.reset_lost_words();
        for cpu in &mut self.cpus {
            cpu.writer.reset_counters();
        }
    }

    fn counters(&self) -> Counters {
        let statistics = self.pipeline.statistics();
        Counters {
            sample_lost_no_mm: statistics.sample_lost_no_mm,
            sample_lost_no_mapping: statistics.sample_lost_no_mapping,
            event_lost_overflow: self.events.lost_words(),
            bt_lost_no_mapping: statistics.bt_lost_no_mapping,
        }
    }

    fn cpu_counters(&self, cpu: u16) -> CpuCounters {
        let counters = self
            .cpus
            .get(usize::from(cpu))
            .map(|cpu| cpu.writer.counters());
        let counters = counters.unwrap_or_default();
        CpuCounters {
            sample_received: counters.received,
            sample_lost_overflow: counters.lost,
            backtrace_aborted: counters.aborted,
            sample_invalid_eip: counters.invalid,
        }
    }
}
