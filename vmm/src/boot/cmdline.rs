//! The kernel command line: the user's words and what the guest must know of the machine.

use linux_loader::cmdline::{Cmdline, Error as BuildError};
use thiserror::Error;

/// Longest command line with its terminating NUL: Linux's x86 `COMMAND_LINE_SIZE`.
pub const MAX_CMDLINE: usize = 2048;

/// A virtio-mmio device, as the command line tells the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// GPA of its register window.
    pub address: u64,
    /// GSI of its interrupt.
    pub gsi: u32,
}

/// Why there is no command line.
#[derive(Debug, Error)]
pub enum CmdlineError {
    /// Too long or not printable.
    #[error("The kernel command line does not work (at most {max} printable characters): {text:?}", max = MAX_CMDLINE - 1)]
    Unusable {
        /// What could not be appended.
        text: String,
        /// Why not.
        #[source]
        source: BuildError,
    },
}

/// Appends to the user's `words` what a guest without ACPI must know: `cpus=`, each device's `virtio_mmio.device=` and the
/// profiling device's id.
///
/// # Errors
/// When the whole is longer than [`MAX_CMDLINE`], or `words` are not printable ASCII.
pub fn build(
    words: &str,
    cpus: Option<u16>,
    devices: &[MmioDevice],
    oprofile_id: Option<u32>,
) -> Result<Cmdline, CmdlineError> {
    let mut parts = vec![words.to_owned()];
    parts.extend(cpus.map(|cpus| format!("cpus={cpus}")));
    for MmioDevice { address, gsi } in devices {
        parts.push(format!("virtio_mmio.device=4K@{address:#x}:{gsi}"));
    }
    parts.extend(oprofile_id.map(|id| format!("oprofile.device-id={id}")));

    let unusable = |text: &str, source| CmdlineError::Unusable {
        text: text.to_owned(),
        source,
    };
    let mut cmdline = Cmdline::new(MAX_CMDLINE).map_err(|error| unusable("", error))?;
    for part in parts.iter().filter(|part| !part.trim().is_empty()) {
        cmdline
            .insert_str(part.trim())
            .map_err(|error| unusable(part, error))?;
    }
    Ok(cmdline)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: MmioDevice = MmioDevice {
        address: 0xd000_0000,
        gsi: 5,
    };

    fn text(words: &str, devices: &[MmioDevice], id: Option<u32>) -> String {
        let cmdline = build(words, Some(2), devices, id).unwrap();
        cmdline.as_cstring().unwrap().into_string().unwrap()
    }

    #[test]
    fn the_machine_follows_the_users_words() {
        assert_eq!(
            text("init=shares quiet", &[DEVICE], Some(63)),
            "init=shares quiet cpus=2 virtio_mmio.device=4K@0xd0000000:5 oprofile.device-id=63"
        );
    }

    #[test]
    fn without_words_and_devices_only_the_vcpus_are_told() {
        assert_eq!(text("  ", &[], None), "cpus=2");
    }

    #[test]
    fn too_long_a_line_is_refused() {
        assert!(build(&"x".repeat(MAX_CMDLINE), None, &[], None).is_err());
        // Room for the user's words, not for the machine's.
        assert!(build(&"x".repeat(MAX_CMDLINE - 3), Some(1), &[], None).is_err());
    }

    #[test]
    fn unprintable_words_are_refused() {
        assert!(build("a\nb", None, &[], None).is_err());
        assert!(build("ä", None, &[], None).is_err());
    }
}
