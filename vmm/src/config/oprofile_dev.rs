//! The option `--oprofile-dev key=value,…`: syntax, parser, and a separate check of the values.

use std::path::PathBuf;
use std::str::FromStr;

use oprofile_device::{Clock, Settings, SettingsError};
use thiserror::Error;

use crate::cli::size::{self, SizeError};

/// Keys that are known, in the order in which their values are taken.
pub const KEYS: [&str; 10] = [
    "session",
    "socket",
    "hz",
    "callgraph",
    "clock",
    "buffer-size",
    "buffer-watershed",
    "cpu-buffer-size",
    "device-id",
    "archive",
];

/// What `clock=` may be.
pub const CLOCKS: [(&str, Clock); 2] = [
    ("guest-timer", Clock::GuestTimer),
    ("host-nmi", Clock::HostNmi),
];

/// Samples a second and vCPU by default: as many as a 1 kHz timer gives.
pub const DEFAULT_HZ: u64 = 1_000;

/// Highest device id: virtio-mmio has 32 bits for it, but a guest may also want to find the device on PCI, where
/// types end at 63.
pub const MAX_DEVICE_ID: u32 = 63;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Why the option cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OptionError {
    /// A part is not of the form `key=value`.
    #[error("{0:?} is not key=value; the keys are {keys}", keys = KEYS.join(", "))]
    NoValue(String),
    /// A key that is not known.
    #[error("Unknown key {0:?}; the keys are {keys}", keys = KEYS.join(", "))]
    UnknownKey(String),
    /// A key stands there twice.
    #[error("Key {0:?} is given twice")]
    Twice(&'static str),
    /// A key that must be there is missing.
    #[error(
        "Key \"session\" is missing: say where the profile shall go, session=DIR, or where it can be fetched, socket=PATH"
    )]
    NoSession,
    /// A clock that is not known.
    #[error("clock={0} is not known; clocks are {clocks}", clocks = CLOCKS.map(|(name, _)| name).join(", "))]
    Clock(String),
    /// A value that is no number.
    #[error("{key}={value} is not usable")]
    Number {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        #[source]
        source: SizeError,
    },
    /// A value that is neither `on` nor `off`.
    #[error("{key}={value} is not usable: \"on\" and \"off\" are possible")]
    Switch {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// The archive has no place to go.
    #[error("archive=on puts the guest's files into the session: say where that is, session=DIR")]
    ArchiveWithoutSession,
    /// A value out of its range.
    #[error("{key}={value} is out of range: {low} to {high} are possible")]
    Range {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// Lowest possible.
        low: u64,
        /// Highest possible.
        high: u64,
    },
    /// The device refuses the settings.
    #[error("The settings do not fit together")]
    Settings(#[source] SettingsError),
}

/// The option as written; values are numbers, but not yet checked against their ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OprofileDevConfig {
    /// Session directory on the host. Without it, the profile goes to whoever reads it from the socket.
    pub session: Option<PathBuf>,
    /// Control socket on the host. Without it, there must be a session.
    pub socket: Option<PathBuf>,
    /// Samples a second and vCPU.
    pub hz: u64,
    /// Most frames of a call chain, 0 for none.
    pub callgraph: u64,
    /// What makes a vCPU take a sample.
    pub clock: Clock,
    /// Event buffer in words.
    pub buffer_size: u64,
    /// Free words of the event buffer at which it is read.
    pub buffer_watershed: u64,
    /// Entries (16 bytes) of a vCPU's sample buffers together.
    pub cpu_buffer_size: u64,
    /// Virtio device id.
    pub device_id: u64,
    /// Sampled files are taken from the disks and from a compressed initrd, too.
    pub archive: bool,
}

impl FromStr for OprofileDevConfig {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut values: [Option<&str>; KEYS.len()] = [None; KEYS.len()];
        for part in text.split(',') {
            let (key, value) = part
                .split_once('=')
                .filter(|(_, value)| !value.is_empty())
                .ok_or_else(|| OptionError::NoValue(part.to_owned()))?;
            let index = KEYS
                .iter()
                .position(|known| *known == key)
                .ok_or_else(|| OptionError::UnknownKey(key.to_owned()))?;
            if values[index].replace(value).is_some() {
                return Err(OptionError::Twice(KEYS[index]));
            }
        }
        let [
            session,
            socket,
            hz,
            callgraph,
            clock,
            size,
            watershed,
            cpu_size,
            id,
            archive,
        ] = values;
        if session.is_none() && socket.is_none() {
            return Err(OptionError::NoSession);
        }
        let archive = switch("archive", archive)?;
        if archive && session.is_none() {
            return Err(OptionError::ArchiveWithoutSession);
        }
        let defaults = Settings::default();
        let buffer_size = number("buffer-size", size, defaults.buffer_size as u64)?;
        // A smaller buffer brings its watershed along: a quarter, as OProfile's defaults have it.
        let default_watershed = (defaults.buffer_watershed as u64).min(buffer_size / 4);
        Ok(Self {
            session: session.map(PathBuf::from),
            socket: socket.map(PathBuf::from),
            hz: number("hz", hz, DEFAULT_HZ)?,
            callgraph: number("callgraph", callgraph, 0)?,
            clock: clock.map_or(Ok(Clock::default()), self::clock)?,
            buffer_size,
            buffer_watershed: number("buffer-watershed", watershed, default_watershed)?,
            cpu_buffer_size: number(
                "cpu-buffer-size",
                cpu_size,
                u64::from(defaults.cpu_buffer_size),
            )?,
            device_id: number("device-id", id, u64::from(oprofile_wire::DEFAULT_DEVICE_ID))?,
            archive,
        })
    }
}

impl OprofileDevConfig {
    /// Checks the values and gives the device's settings for a VM of `vcpus`.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn settings(&self, vcpus: u16) -> Result<Settings, OptionError> {
        in_range("hz", self.hz, 1, NS_PER_SECOND)?;
        self.checked_device_id()?;
        let settings = Settings {
            vcpus,
            period_ns: NS_PER_SECOND / self.hz,
            backtrace_depth: fits("callgraph", self.callgraph)?,
            clock: self.clock,
            buffer_size: fits("buffer-size", self.buffer_size)?,
            buffer_watershed: fits("buffer-watershed", self.buffer_watershed)?,
            cpu_buffer_size: fits("cpu-buffer-size", self.cpu_buffer_size)?,
            ..Settings::default()
        };
        settings.validate().map_err(OptionError::Settings)?;
        Ok(settings)
    }

    /// The virtio device id.
    ///
    /// # Errors
    /// When it is not 1 to [`MAX_DEVICE_ID`].
    pub fn checked_device_id(&self) -> Result<u32, OptionError> {
        in_range("device-id", self.device_id, 1, u64::from(MAX_DEVICE_ID))?;
        fits("device-id", self.device_id)
    }
}

fn clock(name: &str) -> Result<Clock, OptionError> {
    CLOCKS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, clock)| *clock)
        .ok_or_else(|| OptionError::Clock(name.to_owned()))
}

/// `off` by default.
fn switch(key: &'static str, value: Option<&str>) -> Result<bool, OptionError> {
    match value {
        None | Some("off") => Ok(false),
        Some("on") => Ok(true),
        Some(other) => Err(OptionError::Switch {
            key,
            value: other.to_owned(),
        }),
    }
}

fn number(key: &'static str, value: Option<&str>, default: u64) -> Result<u64, OptionError> {
    value.map_or(Ok(default), |value| {
        size::parse(value).map_err(|source| OptionError::Number {
            key,
            value: value.to_owned(),
            source,
        })
    })
}

fn in_range(key: &'static str, value: u64, low: u64, high: u64) -> Result<(), OptionError> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(OptionError::Range {
            key,
            value,
            low,
            high,
        })
    }
}

/// Narrows a value to the setting's type; its true range is checked by [`Settings::validate`].
fn fits<T: TryFrom<u64>>(key: &'static str, value: u64) -> Result<T, OptionError> {
    value.try_into().map_err(|_| OptionError::Range {
        key,
        value,
        low: 0,
        high: u64::from(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> OprofileDevConfig {
        text.parse().unwrap()
    }

    fn refused(text: &str) -> String {
        OprofileDevConfig::from_str(text).unwrap_err().to_string()
    }

    #[test]
    fn session_alone_takes_the_devices_defaults() {
        let config = parsed("session=/tmp/s");
        assert_eq!(config.session, Some(PathBuf::from("/tmp/s")));
        assert_eq!(config.socket, None);
        let settings = config.settings(2).unwrap();
        assert_eq!(
            settings,
            Settings {
                vcpus: 2,
                ..Settings::default()
            }
        );
        assert_eq!(config.checked_device_id(), Ok(63));
    }

    #[test]
    fn every_key_reaches_its_setting() {
        let config = parsed(
            "device-id=37,hz=100,callgraph=16,buffer-size=64K,buffer-watershed=1K,cpu-buffer-size=4K,session=s",
        );
        let settings = config.settings(1).unwrap();
        assert_eq!(settings.period_ns, 10_000_000);
        assert_eq!(settings.backtrace_depth, 16);
        assert_eq!(settings.buffer_size, 65_536);
        assert_eq!(settings.buffer_watershed, 1_024);
        assert_eq!(settings.cpu_buffer_size, 4_096);
        assert_eq!(config.checked_device_id(), Ok(37));
    }

    #[test]
    fn the_clock_is_chosen_by_name() {
        assert_eq!(parsed("session=s").clock, Clock::GuestTimer);
        for (name, clock) in CLOCKS {
            let config = parsed(&format!("session=s,clock={name}"));
            assert_eq!(config.settings(1).unwrap().clock, clock);
        }
        let message = refused("session=s,clock=sundial");
        assert!(message.contains("sundial") && message.contains("host-nmi"));
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_good_ones() {
        let message = refused("session=s,frequency=3");
        for key in KEYS {
            assert!(message.contains(key), "{message}");
        }
        assert!(message.contains("frequency"));
    }

    #[test]
    fn a_key_without_a_value_is_refused() {
        for text in ["session", "session=", "", "session=s,", "session=s,hz"] {
            assert!(refused(text).contains("not key=value"), "{text:?}");
        }
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        assert!(refused("session=a,session=b").contains("twice"));
    }

    #[test]
    fn session_directory_or_socket_must_be_said() {
        let message = refused("hz=100");
        assert!(message.contains("session=DIR") && message.contains("socket=PATH"));
    }

    #[test]
    fn a_socket_makes_the_session_optional() {
        let config = parsed("socket=/run/vm");
        assert_eq!(config.session, None);
        assert_eq!(config.socket, Some(PathBuf::from("/run/vm")));
        let config = parsed("socket=/run/vm,session=s");
        assert_eq!(config.session, Some(PathBuf::from("s")));
    }

    #[test]
    fn the_archive_is_on_or_off_and_needs_a_session() {
        assert!(!parsed("session=s").archive);
        assert!(!parsed("session=s,archive=off").archive);
        assert!(parsed("session=s,archive=on").archive);
        assert!(refused("session=s,archive=yes").contains("archive=yes"));
        assert!(refused("socket=/run/vm,archive=on").contains("session=DIR"));
    }

    #[test]
    fn a_value_that_is_no_number_is_named() {
        assert!(refused("session=s,hz=often").contains("hz=often"));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for text in [
            "hz=0",
            "hz=2G",
            "hz=1000000",
            "callgraph=5G",
            "callgraph=1000",
            "buffer-size=0",
            "buffer-size=1K,buffer-watershed=1K",
            "cpu-buffer-size=0",
            "device-id=0",
            "device-id=64",
        ] {
            assert!(
                parsed(&format!("session=s,{text}")).settings(1).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_small_event_buffer_brings_its_watershed_along() {
        let settings = parsed("session=s,buffer-size=1K").settings(1).unwrap();
        assert_eq!(settings.buffer_watershed, 256);
    }
}
