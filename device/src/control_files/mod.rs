//! OProfile's control files: a tree of small files that set a profiler up, start and stop it, and tell its counters.
//!
//! [`ControlFiles`] is the tree, with OProfile's names, modes and error rules (Linux 4.7, `oprofilefs`): what user space
//! found mounted at `/dev/oprofile`. It works on paths and bytes, so that a socket can carry it. The golden vectors in
//! `tests/conformance` pin it.
//!
//! | module | what it does |
//! |---|---|
//! | `nodes` | names, modes, the order of the list |
//! | `number` | numbers, as files read and print them |
//! | [`LifeCycle`] | open, start, stop, close; periodic syncs and time slices on a virtual clock |
//! | [`Profiler`], [`Hooks`] | what the life cycle drives |
//! | [`DeviceProfiler`] | the profiling device as one of those |
//! | [`CookieFile`] | `lookup_dcookie` |
//!
//! ```text
//! let mut files = DeviceProfiler::control_files(device);
//! files.write("buffer_size", 0, b"65536")?;
//! files.open_event_buffer(Caller::Administrator)?;
//! files.write("enable", 0, b"1")?;
//! files.read("stats/cpu0/sample_received", 0, 100)?;
//! ```

mod dcookie;
mod device;
mod error;
mod lifecycle;
mod nodes;
mod number;
mod profiler;
mod work;

#[cfg(test)]
mod tests;

pub use dcookie::CookieFile;
pub use device::DeviceProfiler;
pub use error::ControlError;
pub use lifecycle::{Caller, JIFFIES_PER_SECOND, LifeCycle, SYNC_PERIOD_JIFFIES, Values};
pub use nodes::FileEntry;
pub use number::MAX_NUMBER_BYTES;
pub use profiler::{Counters, CpuCounters, Hooks, Multiplexing, Profiler, SyncStart, SyncStop};

use nodes::{File, Setting, Tree};

/// Contents of `pointer_size`: event buffers have words of 8 bytes.
const POINTER_BYTES: u64 = 8;

/// The control files of a profiler.
///
/// Each read or write is an open, one operation, and a close of that file. Only `buffer` is more than that: who opens it
/// sets profiling up, until it is closed.
#[derive(Debug)]
pub struct ControlFiles<P> {
    cycle: LifeCycle<P>,
}

impl<P: Profiler> ControlFiles<P> {
    /// The files of a profiler that nobody has opened, freshly mounted: every setting has OProfile's default, which
    /// must be in force.
    pub fn new(profiler: P) -> Self {
        Self::with_values(profiler, Values::default())
    }

    /// As [`ControlFiles::new`], with other settings in force.
    pub fn with_values(profiler: P, values: Values) -> Self {
        Self {
            cycle: LifeCycle::new(profiler, values),
        }
    }

    /// The life cycle behind the files.
    pub const fn life_cycle(&self) -> &LifeCycle<P> {
        &self.cycle
    }

    /// The profiler.
    pub const fn profiler(&self) -> &P {
        self.cycle.profiler()
    }

    /// The profiler, for what the files do not do.
    pub const fn profiler_mut(&mut self) -> &mut P {
        self.cycle.profiler_mut()
    }

    fn tree(&self) -> Tree {
        let profiler = self.cycle.profiler();
        Tree {
            cpus: profiler.cpus(),
            multiplexing: profiler.multiplexing() != Multiplexing::NotBuiltIn,
        }
    }

    /// Every file and directory with its mode, in the order of creation.
    pub fn list(&self) -> Vec<FileEntry> {
        self.tree().list()
    }

    /// Reads at most `count` bytes of the file at `path` from `offset` on; empty at its end.
    ///
    /// `buffer` gives its words in little endian, and only as a whole: `count` is its size in bytes, `offset` 0.
    ///
    /// # Errors
    /// `NoSuchFile`, `IsDirectory`; `Invalid` for an offset of 2⁶³ and more, and for a file that cannot be read; for
    /// `buffer` what [`ControlFiles::read_event_buffer`] answers.
    pub fn read(&mut self, path: &str, offset: u64, count: u64) -> Result<Vec<u8>, ControlError> {
        let text = match self.tree().find(path)? {
            File::Enable => number::print(self.cycle.is_started().into()),
            File::Dump => return Err(ControlError::Invalid),
            File::Buffer => {
                let words = self.cycle.read_events(offset, count)?;
                return Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect());
            }
            File::CpuType => self.cycle.profiler().cpu_type().to_owned(),
            File::PointerSize => number::print(POINTER_BYTES),
            File::Setting(setting) => number::print(self.setting(setting)),
            File::Statistic(statistic) => {
                let counters = self.cycle.profiler().counters();
                number::print(statistic.value(&counters, self.cycle.switches()))
            }
            File::CpuStatistic(cpu, statistic) => {
                let counters = self.cycle.profiler().cpu_counters(cpu);
                number::print(statistic.value(&counters))
            }
        };
        window(text, offset, count)
    }

    fn setting(&self, setting: Setting) -> u64 {
        let values = self.cycle.values();
        match setting {
            Setting::BufferSize => values.buffer_size,
            Setting::BufferWatershed => values.buffer_watershed,
            Setting::CpuBufferSize => values.cpu_buffer_size,
            Setting::BacktraceDepth => values.backtrace_depth,
            Setting::TimeSlice => self.cycle.time_slice_ms(),
        }
    }

    /// Writes `bytes` to the file at `path`; returns how many it took, which is all of them.
    ///
    /// A number must be written at offset 0, in [`MAX_NUMBER_BYTES`] at most; an empty write changes nothing. `enable` starts
    /// and stops, `dump` takes anything.
    ///
    /// # Errors
    /// `NoSuchFile`, `IsDirectory`; `Invalid` for a file that cannot be written, another offset, too many bytes, or a value that
    /// the file does not take; `Busy` for settings while started; what starting answers.
    pub fn write(&mut self, path: &str, offset: u64, bytes: &[u8]) -> Result<usize, ControlError> {
        match self.tree().find(path)? {
            File::Dump => self.cycle.dump(),
            File::Enable => match number::written(offset, bytes)? {
                None => {}
                Some(0) => self.cycle.stop(),
                Some(_) => self.cycle.start()?,
            },
            File::Setting(setting) => self.write_setting(setting, offset, bytes)?,
            File::Buffer
            | File::CpuType
            | File::PointerSize
            | File::Statistic(_)
            | File::CpuStatistic(..) => return Err(ControlError::Invalid),
        }
        Ok(bytes.len())
    }

    fn write_setting(
        &mut self,
        setting: Setting,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), ControlError> {
        // Whether there is a walker comes before the number, but after the offset: all of them answer the same.
        if setting == Setting::BacktraceDepth && !self.cycle.profiler().has_walker() {
            return Err(ControlError::Invalid);
        }
        let Some(value) = number::written(offset, bytes)? else {
            return Ok(());
        };
        let cycle = &mut self.cycle;
        match setting {
            Setting::BufferSize => cycle.set(|values| values.buffer_size = value),
            Setting::BufferWatershed => cycle.set(|values| values.buffer_watershed = value),
            Setting::CpuBufferSize => cycle.set(|values| values.cpu_buffer_size = value),
            Setting::BacktraceDepth => cycle.set_backtrace_depth(value),
            Setting::TimeSlice => cycle.set_time_slice(value),
        }
    }

    /// Opens `buffer`, which sets profiling up.
    ///
    /// # Errors
    /// As [`LifeCycle::open`].
    pub fn open_event_buffer(&mut self, caller: Caller) -> Result<(), ControlError> {
        self.cycle.open(caller)
    }

    /// Reads `buffer` as words: all that is in it, possibly nothing. `count` and `offset` are in bytes; only the whole buffer
    /// of [`LifeCycle::read_bytes`] at 0 can be read.
    ///
    /// # Errors
    /// As [`LifeCycle::read_events`]. It never waits.
    pub fn read_event_buffer(&mut self, offset: u64, count: u64) -> Result<Vec<u64>, ControlError> {
        self.cycle.read_events(offset, count)
    }

    /// Closes `buffer`: stops, and undoes what opening did.
    ///
    /// # Errors
    /// `NotOpen`.
    pub fn close_event_buffer(&mut self) -> Result<(), ControlError> {
        self.cycle.close()
    }

    /// Starts profiling: 1 written to `enable`.
    ///
    /// # Errors
    /// As [`LifeCycle::start`].
    pub fn start(&mut self) -> Result<(), ControlError> {
        self.cycle.start()
    }

    /// Stops profiling: 0 written to `enable`.
    pub fn stop(&mut self) {
        self.cycle.stop();
    }

    /// `lookup_dcookie(2)`.
    ///
    /// # Errors
    /// As [`LifeCycle::lookup_dcookie`].
    pub fn lookup_dcookie(
        &self,
        caller: Caller,
        cookie: u64,
        room: u64,
    ) -> Result<Vec<u8>, ControlError> {
        self.cycle.lookup_dcookie(caller, cookie, room)
    }

    /// Lets `jiffies` pass, and does what becomes due meanwhile.
    pub fn tick(&mut self, jiffies: u64) {
        self.cycle.tick(jiffies);
    }
}

/// The part of `text` that a read of `count` bytes at `offset` sees.
fn window(text: String, offset: u64, count: u64) -> Result<Vec<u8>, ControlError> {
    // File offsets are signed.
    if i64::try_from(offset).is_err() {
        return Err(ControlError::Invalid);
    }
    let clamped = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let bytes = text.into_bytes().into_iter();
    Ok(bytes.skip(clamped(offset)).take(clamped(count)).collect())
}
