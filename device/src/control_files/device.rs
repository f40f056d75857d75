//! The profiling device behind the control files.

use std::sync::Arc;

use vm_memory::GuestMemoryBackend;

use super::{
    ControlError, ControlFiles, CookieFile, Counters, CpuCounters, Hooks, Profiler, SyncStart,
    SyncStop, Values,
};
use crate::account::Account;
use crate::cookies::CookieTarget;
use crate::event_buffer::{EventReader, OpenError, SizeError};
use crate::front::Device;

/// A [`Device`] as the control files drive it.
///
/// | file | what it is for the device |
/// |---|---|
/// | `enable` | whether samples are wanted ([`Device::set_enabled`]) |
/// | `dump` | [`Device::dump`] |
/// | `buffer` | the event buffer; opening needs that nobody else reads it |
/// | `buffer_size`, `buffer_watershed` | its size and watershed from the next open on |
/// | `cpu_buffer_size` | from the next open on, for a driver that starts then |
/// | `backtrace_depth` | told to the guest at once |
/// | `stats/…` | the device's account, counted from the last start |
///
/// Three things differ from OProfile's: a device syncs by itself ([`Device::tick`], doorbells), so that there is no work for the
/// files' clock; words stay in its event buffer from one reader to the next, for no sample may vanish, so a size that
/// they do not fit is `Busy`; and after a stop the guest answers in its own time ([`Device::quiesced`]).
#[derive(Debug)]
pub struct DeviceProfiler<M> {
    device: Arc<Device<M>>,
    /// While the event buffer is open, unless it has been taken.
    reader: Option<EventReader>,
    /// Counters at the last start.
    base: Account,
}

impl<M: GuestMemoryBackend + Send + Sync> DeviceProfiler<M> {
    /// Drives `device`, which counts from its beginning until the first start.
    #[must_use]
    pub fn new(device: Arc<Device<M>>) -> Self {
        Self {
            device,
            reader: None,
            base: Account::default(),
        }
    }

    /// The control files of `device`, with the settings that it was made with.
    #[must_use]
    pub fn control_files(device: Arc<Device<M>>) -> ControlFiles<Self> {
        let settings = device.settings();
        let values = Values {
            buffer_size: settings.buffer_size as u64,
            buffer_watershed: settings.buffer_watershed as u64,
            cpu_buffer_size: device.cpu_buffer_size().into(),
            backtrace_depth: device.backtrace_depth().into(),
            ..Values::default()
        };
        ControlFiles::with_values(Self::new(device), values)
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &Arc<Device<M>> {
        &self.device
    }

    /// Takes the reader of the open event buffer, for a thread that waits for words. Reads of `buffer` answer `Interrupted`
    /// then, and the event buffer opens again when that reader is gone.
    pub const fn take_reader(&mut self) -> Option<EventReader> {
        self.reader.take()
    }
}

impl<M: GuestMemoryBackend + Send + Sync> Hooks for DeviceProfiler<M> {
    fn start(&mut self) -> Result<(), ControlError> {
        self.device.set_enabled(true);
        Ok(())
    }

    fn stop(&mut self) {
        self.device.set_enabled(false);
    }

    fn sync_start(&mut self) -> SyncStart {
        SyncStart::ByDriver
    }

    /// Takes what waits in the sample queues, which the device does by itself otherwise.
    fn sync_stop(&mut self) -> SyncStop {
        self.device.tick();
        SyncStop::ByDriver
    }
}

impl<M: GuestMemoryBackend + Send + Sync> Profiler for DeviceProfiler<M> {
    fn cpus(&self) -> u16 {
        self.device.settings().vcpus
    }

    /// The guest brings its vCPUs online; the device looks at every queue.
    fn is_online(&self, cpu: u16) -> bool {
        cpu < self.cpus()
    }

    fn set_backtrace_depth(&mut self, depth: u64) -> Result<(), ControlError> {
        let depth = u32::try_from(depth).map_err(|_| ControlError::Invalid)?;
        let set = self.device.set_backtrace_depth(depth);
        set.map_err(|_| ControlError::Invalid)
    }

    fn allocate_cpu_buffers(&mut self, entries: u64) -> Result<(), ControlError> {
        let entries = u32::try_from(entries).map_err(|_| ControlError::OutOfMemory)?;
        let set = self.device.set_cpu_buffer_size(entries);
        set.map_err(|_| ControlError::OutOfMemory)
    }

    /// They are the guest's.
    fn free_cpu_buffers(&mut self) {}

    fn allocate_event_buffer(&mut self, size: u64, watershed: u64) -> Result<(), ControlError> {
        let words = |value| usize::try_from(value).map_err(|_| ControlError::OutOfMemory);
        let opened = self
            .device
            .open_events_sized(words(size)?, words(watershed)?);
        self.reader = Some(opened.map_err(|error| match error {
            OpenError::Busy | OpenError::Size(SizeError::Pending { .. }) => ControlError::Busy,
            OpenError::Size(SizeError::Watershed { .. }) => ControlError::Invalid,
            OpenError::Size(SizeError::Memory(_)) => ControlError::OutOfMemory,
        })?);
        Ok(())
    }

    fn free_event_buffer(&mut self) {
        self.reader = None;
    }

    fn wake_reader(&mut self) {
        self.device.dump();
    }

    fn take_events(&mut self) -> Result<Vec<u64>, ControlError> {
        let reader = self.reader.as_mut().ok_or(ControlError::Interrupted)?;
        reader.read_ready().ok_or(ControlError::WouldWait)
    }

    /// Words stay for the next reader.
    fn clear_events(&mut self) {}

    /// The guest's driver tells the device of itself.
    fn register_notifications(&mut self) {}

    fn unregister_notifications(&mut self) {}

    fn sync(&mut self, _cpu: u16) {
        self.device.tick();
    }

    /// A device gives cookies out at any time, and keeps them.
    fn register_cookie_user(&mut self) {}

    fn unregister_cookie_user(&mut self) {}

    /// Anonymous regions are no files.
    fn cookie_file(&self, cookie: u64) -> Option<CookieFile> {
        match self.device.cookie(cookie)? {
            CookieTarget::File { path, deleted, .. } => Some(CookieFile { path, deleted }),
            CookieTarget::Anonymous { .. } => None,
        }
    }

    fn reset_counters(&mut self) {
        self.base = self.device.account();
    }

    fn counters(&self) -> Counters {
        let (now, base) = (self.device.account(), &self.base);
        let since = |figure: fn(&Account) -> u64| figure(&now).wrapping_sub(figure(base));
        Counters {
            sample_lost_no_mm: since(|account| account.statistics.sample_lost_no_mm),
            sample_lost_no_mapping: since(|account| account.statistics.sample_lost_no_mapping),
            event_lost_overflow: since(|account| account.lost_words),
            bt_lost_no_mapping: since(|account| account.statistics.bt_lost_no_mapping),
        }
    }

    fn cpu_counters(&self, cpu: u16) -> CpuCounters {
        let of = |account: &Account| {
            let vcpu = account.vcpus.get(usize::from(cpu));
            vcpu.copied().unwrap_or_default()
        };
        let (now, base) = (of(&self.device.account()), of(&self.base));
        CpuCounters {
            sample_received: now.received.wrapping_sub(base.received),
            sample_lost_overflow: now.lost.wrapping_sub(base.lost),
            backtrace_aborted: now.aborted.wrapping_sub(base.aborted),
            sample_invalid_eip: now.invalid.wrapping_sub(base.invalid),
        }
    }
}
