//! The thread that reads the event buffer and writes the session.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oprofile_device::{Device, EventReader};
use oprofile_session::{Account, Collector, CollectorError, CollectorStats};
use vm_memory::GuestMemoryMmap;

use super::files::InitrdFiles;
use super::names::DeviceNames;

/// How often the session on disk is brought up to date, so that a killed VMM loses seconds, not hours.
const FLUSH_PERIOD: Duration = Duration::from_secs(5);

/// Longest wait for words: how soon the thread sees that it shall finish.
const WAIT: Duration = Duration::from_millis(100);

/// How the session ended.
#[derive(Debug)]
pub struct CollectorResult {
    /// What became of the words.
    pub stats: CollectorStats,
    /// Flushes that failed while the guest ran; what they held was written later unless `error` is set.
    pub failed_flushes: u64,
    /// Why the session is not complete, if it is not.
    pub error: Option<CollectorError>,
}

/// A running collector.
#[derive(Debug)]
pub struct CollectorThread {
    finish: Arc<AtomicBool>,
    thread: JoinHandle<CollectorResult>,
}

/// What the thread works on.
struct Work {
    device: Arc<Device<GuestMemoryMmap>>,
    reader: EventReader,
    collector: Collector,
    files: InitrdFiles,
    names: DeviceNames,
    words: Vec<u64>,
    failed_flushes: u64,
}

impl CollectorThread {
    /// Starts reading `reader` into `collector`.
    ///
    /// # Errors
    /// When the host lacks threads.
    pub fn start(
        device: Arc<Device<GuestMemoryMmap>>,
        reader: EventReader,
        collector: Collector,
        files: InitrdFiles,
    ) -> io::Result<Self> {
        let finish = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&finish);
        let mut work = Work {
            names: DeviceNames::new(Arc::clone(&device)),
            device,
            words: Vec::with_capacity(reader.size()),
            reader,
            collector,
            files,
            failed_flushes: 0,
        };
        let thread = thread::Builder::new()
            .name("oprofile-collect".into())
            .spawn(move || {
                work.collect_until(&seen);
                work.finish()
            })?;
        Ok(Self { finish, thread })
    }

    /// Takes what is left in the event buffer and completes the session. No vCPU runs any more, and the device has been
    /// dumped. `None` when the thread had panicked.
    pub fn finish(self) -> Option<CollectorResult> {
        self.finish.store(true, Ordering::Release);
        self.thread.join().ok()
    }
}

impl Work {
    fn collect_until(&mut self, finish: &AtomicBool) {
        let mut flushed = Instant::now();
        while !finish.load(Ordering::Acquire) {
            if self.reader.wait(WAIT) {
                self.take();
            }
            if flushed.elapsed() >= FLUSH_PERIOD {
                self.take();
                self.flush();
                flushed = Instant::now();
            }
        }
    }

    /// Consumes what is in the event buffer, ready or not.
    fn take(&mut self) {
        self.words.clear();
        if self.reader.read(&mut self.words) != 0 {
            // After the read: names for everything that the words mention are known then.
            self.names.refresh();
            self.collector.consume(&self.words, &mut self.names);
        }
    }

    fn flush(&mut self) {
        let account = account(&self.device);
        if let Err(error) = self.collector.flush(&self.files, &account) {
            self.failed_flushes += 1;
            if self.failed_flushes == 1 {
                tracing::warn!("{}", crate::report::Chain(&error));
            }
        }
    }

    fn finish(mut self) -> CollectorResult {
        self.take();
        let account = account(&self.device);
        let (stats, error) = match self.collector.finish(&self.files, &account) {
            Ok(stats) => (stats, None),
            Err((collector, error)) => (*collector.stats(), Some(error)),
        };
        CollectorResult {
            stats,
            failed_flushes: self.failed_flushes,
            error,
        }
    }
}

fn account(device: &Device<GuestMemoryMmap>) -> Account {
    let mut account = Account::default();
    for (name, value) in device.account().iter() {
        account.push(name, value);
    }
    account
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_device::Settings;
    use oprofile_session::CollectorOptions;

    #[test]
    fn a_session_without_samples_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let device = Arc::new(Device::new(Settings::default()).unwrap());
        let reader = device.open_events().unwrap();
        let collector = Collector::create(directory.path(), CollectorOptions::default()).unwrap();
        let thread =
            CollectorThread::start(device, reader, collector, InitrdFiles::default()).unwrap();
        let result = thread.finish().unwrap();
        assert!(result.error.is_none());
        assert_eq!(result.stats.samples, 0);
    }

    #[test]
    fn a_session_directory_that_vanishes_makes_it_incomplete() {
        let directory = tempfile::tempdir().unwrap();
        let device = Arc::new(Device::new(Settings::default()).unwrap());
        let reader = device.open_events().unwrap();
        let collector = Collector::create(directory.path(), CollectorOptions::default()).unwrap();
        directory.close().unwrap();
        let thread =
            CollectorThread::start(device, reader, collector, InitrdFiles::default()).unwrap();
        assert!(thread.finish().unwrap().error.is_some());
    }
}
