//! What the host wants, from the device's configuration space.

use core::fmt;
use core::mem::offset_of;

use oprofile_wire::config::{ConfigSpace, MAGIC};
use oprofile_wire::sample::{MAX_BUFFER_BYTES, MIN_BUFFER_BYTES};
use oprofile_wire::{MAX_VCPUS, PROTOCOL_VERSION};
use zerocopy::{FromZeros, IntoBytes};

use crate::transport::Transport;

/// Most attempts to read the configuration between two changes of its generation. The host changes it by hand,
/// so a second attempt is rare already.
const READ_ATTEMPTS: usize = 16;

/// Bytes of the configuration space that are for reading: those in front of the doorbell.
const READ_BYTES: usize = offset_of!(ConfigSpace, flush_doorbell);

/// The host's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What the device can do (`oprofile_wire::config::capability`).
    pub capabilities: u64,
    /// vCPUs that have a sample queue: 0 to `vcpus` − 1.
    pub vcpus: u16,
    /// The host wants samples.
    pub enabled: bool,
    /// Time between samples in nanoseconds, above 0.
    pub period_ns: u64,
    /// What to sample: 0 is time.
    pub event: u32,
    /// Most frames of a call chain; 0 is none.
    pub backtrace_depth: u32,
    /// Entries of 16 bytes that a vCPU's buffers shall hold together.
    pub cpu_buffer_entries: u32,
    /// Bytes of a sample buffer, header included; a multiple of 8.
    pub sample_buffer_bytes: u32,
}

/// Why the configuration space cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingsError {
    /// Another magic number: some other device under the same id.
    WrongMagic(u32),
    /// A protocol version that this driver does not speak.
    UnsupportedVersion(u32),
    /// It changed during every attempt to read it.
    Unstable,
    /// A value outside its range: the field's name and the value.
    OutOfRange(&'static str, u64),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongMagic(found) => write!(
                f,
                "Not a profiling device (magic {found:#x}); check oprofile.device-id"
            ),
            Self::UnsupportedVersion(found) => write!(
                f,
                "The device speaks version {found} of the protocol, this driver {PROTOCOL_VERSION}"
            ),
            Self::Unstable => f.write_str("The device's configuration keeps changing"),
            Self::OutOfRange(field, value) => {
                write!(f, "The device's {field} is out of range: {value}")
            }
        }
    }
}

impl core::error::Error for SettingsError {}

impl Settings {
    /// Reads and checks the configuration space, all of one generation (virtio 1.2 §2.5.1).
    ///
    /// # Errors
    /// When it is not this protocol's, does not hold still, or holds a value out of range.
    pub fn read<T: Transport>(transport: &T) -> Result<Self, SettingsError> {
        for _ in 0..READ_ATTEMPTS {
            let generation = transport.config_generation();
            let mut config = ConfigSpace::new_zeroed();
            let bytes = &mut config.as_mut_bytes()[..READ_BYTES];
            for (index, word) in bytes.chunks_exact_mut(4).enumerate() {
                word.copy_from_slice(&transport.read_config(4 * index).to_le_bytes());
            }
            if transport.config_generation() == generation {
                return Self::check(&config);
            }
        }
        Err(SettingsError::Unstable)
    }

    fn check(config: &ConfigSpace) -> Result<Self, SettingsError> {
        if config.magic.get() != MAGIC {
            return Err(SettingsError::WrongMagic(config.magic.get()));
        }
        if config.version.get() != u32::from(PROTOCOL_VERSION) {
            return Err(SettingsError::UnsupportedVersion(config.version.get()));
        }
        let vcpus = config.vcpus.get();
        let vcpus = u16::try_from(vcpus)
            .ok()
            .filter(|vcpus| (1..=MAX_VCPUS).contains(vcpus))
            .ok_or(SettingsError::OutOfRange("vcpus", u64::from(vcpus)))?;
        let period_ns = config.period_ns.get();
        if period_ns == 0 {
            return Err(SettingsError::OutOfRange("period_ns", 0));
        }
        let bytes = config.sample_buffer_bytes.get();
        let in_range = (MIN_BUFFER_BYTES..=MAX_BUFFER_BYTES).contains(&(bytes as usize));
        if !in_range || !bytes.is_multiple_of(8) {
            return Err(SettingsError::OutOfRange(
                "sample_buffer_bytes",
                u64::from(bytes),
            ));
        }
        Ok(Self {
            capabilities: config.capabilities.get(),
            vcpus,
            enabled: config.enable.get() != 0,
            period_ns,
            event: config.event.get(),
            backtrace_depth: config.backtrace_depth.get(),
            cpu_buffer_entries: config.cpu_buffer_entries.get(),
            sample_buffer_bytes: bytes,
        })
    }
}
