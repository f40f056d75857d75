//! The tree: which files there are, what they are called, and their modes.

use super::{ControlError, Counters, CpuCounters};

/// Anybody reads it, its owner writes it.
const SETTING: u16 = 0o644;
/// Anybody writes it.
const TRIGGER: u16 = 0o666;
/// Anybody reads it.
const COUNTER: u16 = 0o444;
const DIRECTORY: u16 = 0o755;

/// A file or directory of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Path from the root of the tree; that of a directory ends in `/`.
    pub path: String,
    /// Permission bits, octal 644 and the like.
    pub mode: u16,
}

impl FileEntry {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.path.ends_with('/')
    }
}

/// A counter of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statistic {
    NoMm,
    NoMapping,
    Overflow,
    Backtrace,
    /// Only where counters can take turns.
    Multiplex,
}

impl Statistic {
    /// In the order of creation.
    const ALL: [Self; 5] = [
        Self::NoMm,
        Self::NoMapping,
        Self::Overflow,
        Self::Backtrace,
        Self::Multiplex,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::NoMm => "sample_lost_no_mm",
            Self::NoMapping => "sample_lost_no_mapping",
            Self::Overflow => "event_lost_overflow",
            Self::Backtrace => "bt_lost_no_mapping",
            Self::Multiplex => "multiplex_counter",
        }
    }

    /// Its value; the switches of events are counted by the life cycle.
    pub const fn value(self, counters: &Counters, switches: u64) -> u64 {
        match self {
            Self::NoMm => counters.sample_lost_no_mm,
            Self::NoMapping => counters.sample_lost_no_mapping,
            Self::Overflow => counters.event_lost_overflow,
            Self::Backtrace => counters.bt_lost_no_mapping,
            Self::Multiplex => switches,
        }
    }
}

/// A counter of one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CpuStatistic {
    Received,
    Lost,
    Aborted,
    Invalid,
}

impl CpuStatistic {
    /// In the order of creation.
    const ALL: [Self; 4] = [Self::Received, Self::Lost, Self::Aborted, Self::Invalid];

    const fn name(self) -> &'static str {
        match self {
            Self::Received => "sample_received",
            Self::Lost => "sample_lost_overflow",
            Self::Aborted => "backtrace_aborted",
            Self::Invalid => "sample_invalid_eip",
        }
    }

    pub const fn value(self, counters: &CpuCounters) -> u64 {
        match self {
            Self::Received => counters.sample_received,
            Self::Lost => counters.sample_lost_overflow,
            Self::Aborted => counters.backtrace_aborted,
            Self::Invalid => counters.sample_invalid_eip,
        }
    }
}

/// A setting that is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    BufferSize,
    BufferWatershed,
    CpuBufferSize,
    BacktraceDepth,
    TimeSlice,
}

/// What a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Enable,
    Dump,
    Buffer,
    CpuType,
    PointerSize,
    Setting(Setting),
    Statistic(Statistic),
    CpuStatistic(u16, CpuStatistic),
}

/// Files of the root, in the order of creation.
const ROOT: [(&str, u16, File); 10] = [
    ("enable", SETTING, File::Enable),
    ("dump", TRIGGER, File::Dump),
    ("buffer", SETTING, File::Buffer),
    ("buffer_size", SETTING, File::Setting(Setting::BufferSize)),
    (
        "buffer_watershed",
        SETTING,
        File::Setting(Setting::BufferWatershed),
    ),
    (
        "cpu_buffer_size",
        SETTING,
        File::Setting(Setting::CpuBufferSize),
    ),
    ("cpu_type", SETTING, File::CpuType),
    (
        "backtrace_depth",
        SETTING,
        File::Setting(Setting::BacktraceDepth),
    ),
    ("pointer_size", SETTING, File::PointerSize),
    ("time_slice", SETTING, File::Setting(Setting::TimeSlice)),
];

const STATISTICS: &str = "stats";

/// The tree of a machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    /// Possible CPUs.
    pub cpus: u16,
    /// Events can take turns, at least in principle.
    pub multiplexing: bool,
}

impl Tree {
    const fn has(self, file: File) -> bool {
        self.multiplexing
            || !matches!(
                file,
                File::Setting(Setting::TimeSlice) | File::Statistic(Statistic::Multiplex)
            )
    }

    /// Every file and directory, in the order of creation.
    pub fn list(self) -> Vec<FileEntry> {
        let mut entries = Vec::new();
        let mut entry = |path: String, mode| entries.push(FileEntry { path, mode });
        for (name, mode, file) in ROOT {
            if self.has(file) {
                entry(name.into(), mode);
            }
        }
        entry(format!("{STATISTICS}/"), DIRECTORY);
        for cpu in 0..self.cpus {
            entry(format!("{STATISTICS}/cpu{cpu}/"), DIRECTORY);
            for statistic in CpuStatistic::ALL {
                let name = statistic.name();
                entry(format!("{STATISTICS}/cpu{cpu}/{name}"), COUNTER);
            }
        }
        for statistic in Statistic::ALL {
            if self.has(File::Statistic(statistic)) {
                entry(format!("{STATISTICS}/{}", statistic.name()), COUNTER);
            }
        }
        entries
    }

    /// The file at `path`.
    ///
    /// # Errors
    /// When there is none, or it is a directory.
    pub fn find(self, path: &str) -> Result<File, ControlError> {
        let missing = ControlError::NoSuchFile;
        let Some((directory, rest)) = path.split_once('/') else {
            if path == STATISTICS {
                return Err(ControlError::IsDirectory);
            }
            let (_, _, file) = ROOT
                .into_iter()
                .find(|&(name, _, file)| name == path && self.has(file))
                .ok_or(missing)?;
            return Ok(file);
        };
        if directory != STATISTICS {
            return Err(missing);
        }
        if rest.is_empty() {
            return Err(ControlError::IsDirectory);
        }
        let (first, name) = match rest.split_once('/') {
            Some((first, name)) => (first, Some(name)),
            None => (rest, None),
        };
        match (self.cpu(first), name) {
            (Some(_), None | Some("")) => Err(ControlError::IsDirectory),
            (Some(cpu), Some(name)) => CpuStatistic::ALL
                .into_iter()
                .find(|statistic| statistic.name() == name)
                .map(|statistic| File::CpuStatistic(cpu, statistic))
                .ok_or(missing),
            (None, None) => Statistic::ALL
                .into_iter()
                .find(|statistic| statistic.name() == first)
                .map(File::Statistic)
                .filter(|&file| self.has(file))
                .ok_or(missing),
            (None, Some(_)) => Err(missing),
        }
    }

    /// The CPU whose directory is called `name`.
    fn cpu(self, name: &str) -> Option<u16> {
        let digits = name.strip_prefix("cpu")?;
        let cpu: u16 = digits.parse().ok()?;
        // Neither signs nor leading zeros: one name a CPU.
        (cpu < self.cpus && cpu.to_string() == digits).then_some(cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TREE: Tree = Tree {
        cpus: 12,
        multiplexing: true,
    };

    #[test]
    fn whatever_is_listed_is_found_and_no_two_are_the_same() {
        let mut found = Vec::new();
        for entry in TREE.list() {
            match TREE.find(&entry.path) {
                Ok(file) => {
                    assert!(!entry.is_directory() && !found.contains(&file), "{entry:?}");
                    found.push(file);
                }
                Err(error) => {
                    assert_eq!(error, ControlError::IsDirectory);
                    assert!(entry.is_directory());
                    let bare = entry.path.trim_end_matches('/');
                    assert_eq!(TREE.find(bare), Err(ControlError::IsDirectory));
                }
            }
        }
        assert_eq!(found.len(), ROOT.len() + 12 * 4 + 5);
    }

    #[test]
    fn names_that_only_look_alike_are_missing() {
        for path in [
            "",
            "/",
            "/enable",
            "enable/",
            "Enable",
            "stats//",
            "stats/cpu12/sample_received",
            "stats/cpu01/sample_received",
            "stats/cpu+1/sample_received",
            "stats/cpu/sample_received",
            "stats/cpu1/sample_received/",
            "stats/cpu1/multiplex_counter",
            "stats/sample_received",
            "stats/../enable",
        ] {
            assert_eq!(TREE.find(path), Err(ControlError::NoSuchFile), "{path}");
        }
    }

    #[test]
    fn without_multiplexing_its_files_do_not_exist() {
        let tree = Tree {
            multiplexing: false,
            ..TREE
        };
        assert_eq!(tree.list().len() + 2, TREE.list().len());
        for path in ["time_slice", "stats/multiplex_counter"] {
            assert!(TREE.find(path).is_ok());
            assert_eq!(tree.find(path), Err(ControlError::NoSuchFile));
        }
    }

    proptest! {
        #[test]
        fn only_what_is_listed_is_found(path in prop_oneof![
            "(stats/)?(cpu[0-9]{0,3}/?)?[a-z_]{0,20}/?", any::<String>()])
        {
            let listed = TREE.list().iter().any(|entry| entry.path == path);
            let directory = TREE.list().iter().any(|entry| entry.path == format!("{path}/"));
            prop_assert_eq!(TREE.find(&path) != Err(ControlError::NoSuchFile), listed || directory);
        }
    }
}
