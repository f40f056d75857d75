//! What the control files drive.

use super::{ControlError, CookieFile};

/// OProfile's counters of a whole machine, by their file names; from the last start on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// User samples and frames whose task has no address space.
    pub sample_lost_no_mm: u64,
    /// User samples, frames and data records in no mapping.
    pub sample_lost_no_mapping: u64,
    /// Words that did not fit the event buffer.
    pub event_lost_overflow: u64,
    /// Call chains cut short because the sample or a frame could not be resolved.
    pub bt_lost_no_mapping: u64,
}

/// OProfile's counters of one CPU, by their file names; from the last start on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCounters {
    /// Samples, also those that were lost or invalid.
    pub sample_received: u64,
    /// Samples for which the CPU's buffer had no room.
    pub sample_lost_overflow: u64,
    /// Call chains cut short by the writer.
    pub backtrace_aborted: u64,
    /// Samples without a valid address.
    pub sample_invalid_eip: u64,
}

/// Whether counters take turns, each for a time slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multiplexing {
    /// They cannot: `time_slice` and `stats/multiplex_counter` do not exist.
    NotBuiltIn,
    /// They could, but the driver cannot switch: `time_slice` cannot be written.
    NoHook,
    /// The driver switches ([`Hooks::switch_events`]).
    Available,
}

/// What became of the hook that starts the syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStart {
    /// The driver syncs by itself: no periodic work, no notifications.
    ByDriver,
    /// The life cycle is to sync, as without a hook.
    Generic,
    /// It failed. Opening succeeds all the same, with nothing behind it: OProfile forgets the error.
    Failed,
}

/// What became of the hook that stops the syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStop {
    /// The driver has stopped them. What the life cycle started goes on.
    ByDriver,
    /// The life cycle is to stop them, as without a hook.
    Generic,
}

/// The sampling driver: OProfile's table of architecture operations. Every hook may be left out.
pub trait Hooks {
    /// Contents of `cpu_type`.
    fn cpu_type(&self) -> &str {
        "timer"
    }

    /// Whether call chains can be walked; without, `backtrace_depth` cannot be written.
    fn has_walker(&self) -> bool {
        true
    }

    /// Whether events can take turns.
    fn multiplexing(&self) -> Multiplexing {
        Multiplexing::NotBuiltIn
    }

    /// Prepares sampling; the last step of opening that may fail.
    ///
    /// # Errors
    /// Opening fails with what it returns.
    fn set_up(&mut self) -> Result<(), ControlError> {
        Ok(())
    }

    /// Undoes [`Hooks::set_up`].
    fn shut_down(&mut self) {}

    /// Begins to take samples.
    ///
    /// # Errors
    /// Starting fails with what it returns.
    fn start(&mut self) -> Result<(), ControlError> {
        Ok(())
    }

    /// Ends taking samples.
    fn stop(&mut self) {}

    /// Starts the syncs, or leaves them to the life cycle.
    fn sync_start(&mut self) -> SyncStart {
        SyncStart::Generic
    }

    /// Stops the syncs, or leaves that to the life cycle.
    fn sync_stop(&mut self) -> SyncStop {
        SyncStop::Generic
    }

    /// Goes on to the next events; false ends the switching.
    fn switch_events(&mut self) -> bool {
        false
    }
}

/// The profiler behind the control files: buffers, syncs, cookies and counters.
///
/// The life cycle calls what is named after one of its steps, once for each such step and in OProfile's order, and never
/// for a CPU beyond [`Profiler::cpus`].
pub trait Profiler: Hooks {
    /// Number of possible CPUs; their ids are below it.
    fn cpus(&self) -> u16;

    /// Whether `cpu` is online.
    fn is_online(&self, cpu: u16) -> bool;

    /// Changes the most frames of a call chain, with the next sample.
    ///
    /// # Errors
    /// When it cannot have that depth; `backtrace_depth` keeps its value then.
    fn set_backtrace_depth(&mut self, depth: u64) -> Result<(), ControlError>;

    /// Gives every possible CPU an empty buffer of `entries` entries, a writer that knows nothing, and counters of 0.
    ///
    /// # Errors
    /// When there is no memory.
    fn allocate_cpu_buffers(&mut self, entries: u64) -> Result<(), ControlError>;

    /// Takes the CPUs' buffers away. Counters stay.
    fn free_cpu_buffers(&mut self);

    /// Allocates the event buffer; `watershed` is below `size`, both in words.
    ///
    /// # Errors
    /// When there is no memory.
    fn allocate_event_buffer(&mut self, size: u64, watershed: u64) -> Result<(), ControlError>;

    /// Takes the event buffer away. Whether it is ready stays.
    fn free_event_buffer(&mut self);

    /// Makes the event buffer ready, whether there is one or not, and wakes its reader.
    fn wake_reader(&mut self);

    /// Takes all words out of the event buffer, which is not ready then.
    ///
    /// # Errors
    /// [`ControlError::WouldWait`] when it is not ready, then [`ControlError::Interrupted`] when there is none.
    fn take_events(&mut self) -> Result<Vec<u64>, ControlError>;

    /// The reader has gone: the event buffer is empty and not ready.
    fn clear_events(&mut self);

    /// Begins to take notice of task exits, unmappings, modules and dead tasks; no CPU counts as synced.
    fn register_notifications(&mut self);

    /// Ends that, and frees the tasks that waited.
    fn unregister_notifications(&mut self);

    /// Syncs the buffer of `cpu` into the event buffer.
    fn sync(&mut self, cpu: u16);

    /// Files get cookies from now on.
    fn register_cookie_user(&mut self);

    /// Forgets every cookie.
    fn unregister_cookie_user(&mut self);

    /// The file that `cookie` stands for.
    fn cookie_file(&self, cookie: u64) -> Option<CookieFile>;

    /// Counts everything from zero again.
    fn reset_counters(&mut self);

    /// Counters of the machine.
    fn counters(&self) -> Counters;

    /// Counters of `cpu`.
    fn cpu_counters(&self, cpu: u16) -> CpuCounters;
}
