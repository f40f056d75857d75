//! The configuration space (virtio 1.2 §2.5): what a driver reads, and the one thing it writes.

use oprofile_wire::PROTOCOL_VERSION;
use oprofile_wire::config::{CONFIG_BYTES, ConfigSpace, FLUSH_DOORBELL_OFFSET, MAGIC, capability};
use zerocopy::IntoBytes;

use crate::settings::{Clock, Settings};

/// What the device can do with these settings.
pub(crate) const fn capabilities(settings: &Settings) -> u64 {
    match settings.clock {
        Clock::GuestTimer => capability::ALL & !capability::HOST_NMI,
        Clock::HostNmi => capability::ALL,
    }
}

/// The space as a driver sees it.
pub(crate) fn space(settings: &Settings, enabled: bool, wanted_maps: u32) -> ConfigSpace {
    ConfigSpace {
        magic: MAGIC.into(),
        version: u32::from(PROTOCOL_VERSION).into(),
        capabilities: capabilities(settings).into(),
        vcpus: u32::from(settings.vcpus).into(),
        enable: u32::from(enabled).into(),
        period_ns: settings.period_ns.into(),
        event: 0.into(),
        backtrace_depth: settings.backtrace_depth.into(),
        cpu_buffer_entries: settings.cpu_buffer_size.into(),
        sample_buffer_bytes: settings.sample_buffer_bytes.into(),
        flush_doorbell: 0.into(),
        wanted_maps: wanted_maps.into(),
    }
}

/// Copies `space` from `offset` on into `data`; bytes outside the space read as 0.
pub(crate) fn read(space: &ConfigSpace, offset: u64, data: &mut [u8]) {
    data.fill(0);
    let start = usize::try_from(offset).unwrap_or(CONFIG_BYTES);
    let rest = space.as_bytes().get(start..).unwrap_or_default();
    let count = rest.len().min(data.len());
    data[..count].copy_from_slice(&rest[..count]);
}

/// The vCPU that a write rings the doorbell for; `None` when it is no aligned 4-byte write of the doorbell.
pub(crate) fn doorbell(offset: u64, data: &[u8]) -> Option<u32> {
    if offset != FLUSH_DOORBELL_OFFSET {
        return None;
    }
    data.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [u8; CONFIG_BYTES] {
        let mut bytes = [0xff; CONFIG_BYTES];
        read(&space(&Settings::default(), true, 9), 0, &mut bytes);
        bytes
    }

    #[test]
    fn a_whole_read_shows_the_settings() {
        let bytes = all();
        assert_eq!(&bytes[..8], b"VOPF\x01\0\0\0");
        assert_eq!(bytes[20..24], 1u32.to_le_bytes());
        assert_eq!(bytes[24..32], 1_000_000u64.to_le_bytes());
        assert_eq!(bytes[44..48], 4_096u32.to_le_bytes());
        assert_eq!(bytes[48..], [0, 0, 0, 0, 9, 0, 0, 0]);
    }

    #[test]
    fn any_window_reads_as_the_whole_does_and_zero_outside() {
        let whole = all();
        for offset in 0..70u64 {
            for length in 0..70 {
                let mut data = vec![0xff; length];
                read(&space(&Settings::default(), true, 9), offset, &mut data);
                for (index, byte) in data.iter().enumerate() {
                    let position = usize::try_from(offset).unwrap() + index;
                    assert_eq!(*byte, whole.get(position).copied().unwrap_or(0));
                }
            }
        }
    }

    #[test]
    fn the_hosts_clock_is_offered_only_when_it_is_wanted() {
        let mut settings = Settings::default();
        assert_eq!(capabilities(&settings) & capability::HOST_NMI, 0);
        settings.clock = Clock::HostNmi;
        assert_eq!(capabilities(&settings), capability::ALL);
    }

    #[test]
    fn offsets_beyond_every_space_read_as_zero() {
        let mut data = [0xff; 4];
        read(&space(&Settings::default(), true, 9), u64::MAX, &mut data);
        assert_eq!(data, [0; 4]);
    }

    #[test]
    fn only_an_aligned_word_write_rings() {
        assert_eq!(doorbell(48, &4_000_000u32.to_le_bytes()), Some(4_000_000));
        assert_eq!(doorbell(48, &[1, 0]), None);
        assert_eq!(doorbell(48, &[0; 8]), None);
        assert_eq!(doorbell(47, &[0; 4]), None);
        assert_eq!(doorbell(20, &[0; 4]), None);
    }
}
