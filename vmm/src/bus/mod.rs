//! Dispatch of port and memory-mapped I/O to devices.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use crate::cpu::GuestEnd;

/// What a write does beyond the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The guest asked for its own end.
    End(GuestEnd),
}

/// A device on a bus. Called by vCPU threads, several at a time; offsets are within the device's range.
pub trait BusDevice: Send + Sync {
    /// Reads `data.len()` bytes at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> Effect;
}

/// Two devices claim the same address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("Two devices claim addresses {:#x} to {:#x}", range.start, range.end)]
pub struct Overlap {
    /// The range that was to be added.
    pub range: Range<u64>,
}

struct Entry {
    range: Range<u64>,
    device: Arc<dyn BusDevice>,
}

/// An address space. It does not change once vCPUs run, so a look-up takes no lock.
#[derive(Default)]
pub struct Bus {
    /// Ascending and disjoint.
    entries: Vec<Entry>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.entries.iter().map(|entry| &entry.range);
        f.debug_list().entries(ranges).finish()
    }
}

impl Bus {
    /// Puts `device` at `range`, which is not empty.
    ///
    /// # Errors
    /// When another device is there.
    pub fn insert(&mut self, range: Range<u64>, device: Arc<dyn BusDevice>) -> Result<(), Overlap> {
        let index = self
            .entries
            .partition_point(|entry| entry.range.end <= range.start);
        let next = self.entries.get(index);
        if next.is_some_and(|entry| entry.range.start < range.end) {
            return Err(Overlap { range });
        }
        self.entries.insert(index, Entry { range, device });
        Ok(())
    }

    /// Reads; where no device is, or the access reaches beyond one, all bits are 1 as on a PC.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes; where no device is, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) -> Effect {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.write(offset, data),
            None => Effect::None,
        }
    }

    fn find(&self, address: u64, length: usize) -> Option<(&dyn BusDevice, u64)> {
        let index = self
            .entries
            .partition_point(|entry| entry.range.end <= address);
        let Entry { range, device } = self.entries.get(index)?;
        let end = address.checked_add(u64::try_from(length).ok()?)?;
        (range.start <= address && end <= range.end).then(|| (&**device, address - range.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }

        fn write(&self, offset: u64, data: &[u8]) -> Effect {
            self.0.lock().unwrap().push((offset, data.to_vec()));
            Effect::None
        }
    }

    fn bus() -> (Bus, Arc<Recorder>) {
        let (mut bus, device) = (Bus::default(), Arc::new(Recorder::default()));
        bus.insert(0x100..0x110, device.clone()).unwrap();
        bus.insert(0x80..0x90, Arc::new(Recorder::default()))
            .unwrap();
        (bus, device)
    }

    fn read(bus: &Bus, address: u64) -> [u8; 4] {
        let mut data = [0; 4];
        bus.read(address, &mut data);
        data
    }

    #[test]
    fn accesses_reach_the_device_at_its_offset() {
        let (bus, device) = bus();
        assert_eq!(read(&bus, 0x104), [4; 4]);
        assert_eq!(read(&bus, 0x8c), [12; 4]);
        bus.write(0x10c, &[1, 2, 3, 4]);
        assert_eq!(*device.0.lock().unwrap(), [(12, vec![1, 2, 3, 4])]);
    }

    #[test]
    fn nothing_is_beside_a_device_or_across_its_end() {
        let (bus, device) = bus();
        for address in [0, 0x7e, 0x8e, 0x90, 0xff, 0x10d, 0x110, u64::MAX] {
            assert_eq!(read(&bus, address), [0xff; 4], "{address:#x}");
            bus.write(address, &[0; 4]);
        }
        assert!(device.0.lock().unwrap().is_empty());
    }

    #[test]
    fn two_devices_cannot_share_an_address() {
        let (mut bus, device) = bus();
        for range in [0x10f..0x120, 0xff..0x101, 0..0x1000, 0x82..0x84] {
            let error = bus.insert(range.clone(), device.clone());
            assert_eq!(error, Err(Overlap { range }));
        }
        bus.insert(0x90..0x100, device).unwrap();
    }
}
