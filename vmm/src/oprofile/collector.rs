//! The thread that reads the event buffer and writes the session.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oprofile_device::{Device, EventReader};
use oprofile_session::{Account, Archive, Collector, CollectorError, CollectorStats, Separation};
use vm_memory::GuestMemoryMmap;

use super::files::{HostedFiles, Sources};
use super::names::DeviceNames;
use super::relief::while_reading;

/// How often the session on disk is brought up to date, so that a killed VMM loses seconds, not hours.
const FLUSH_PERIOD: Duration = Duration::from_secs(5);

/// Longest wait for words: how soon the thread sees that it shall finish.
const WAIT: Duration = Duration::from_millis(100);

/// How often an account is taken again because samples came in meanwhile. Syncs are 100 ms apart, or as far as doorbells are.
const ACCOUNT_ATTEMPTS: usize = 16;

/// What the collector is told to do between two reads. Before each of them it takes what is in the event buffer.
#[derive(Debug)]
pub enum Order {
    /// Bring the session on disk up to date.
    Flush,
    /// Forget the session.
    Reset,
    /// Keep the session under a name and begin another one.
    Save(String),
    /// File samples in another way; whether in a file for each vCPU.
    Separate(Separation, bool),
    /// Give the event buffer up.
    Release,
    /// Read this one from now on.
    Resume(EventReader),
}

/// Called on the collector's thread when an order has been carried out. Dropped uncalled when the collector ends before.
type Done = Box<dyn FnOnce(Result<(), CollectorError>) + Send>;

/// Orders for a collector, and its figures. Clones are for the same collector.
#[derive(Clone)]
pub struct CollectorHandle {
    orders: Sender<(Order, Done)>,
    stats: Arc<Mutex<CollectorStats>>,
}

impl fmt::Debug for CollectorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorHandle").finish_non_exhaustive()
    }
}

impl CollectorHandle {
    /// Gives an order; the collector sees it when the event buffer becomes ready, 100 ms from now at the latest. One that has
    /// ended drops `done` uncalled.
    pub fn order(
        &self,
        order: Order,
        done: impl FnOnce(Result<(), CollectorError>) + Send + 'static,
    ) {
        // What cannot be sent is dropped.
        let _ = self.orders.send((order, Box::new(done)));
    }

    /// What has become of the words until now.
    pub fn stats(&self) -> CollectorStats {
        // Copied as a whole, so a panic elsewhere leaves nothing half done.
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the session ended.
#[derive(Debug)]
pub struct CollectorResult {
    /// What became of the words.
    pub stats: CollectorStats,
    /// Flushes that failed while the guest ran; what they held was written later unless `error` is set.
    pub failed_flushes: u64,
    /// Which of the sampled files are in the session.
    pub archive: Archive,
    /// Why the session is not complete, if it is not.
    pub error: Option<CollectorError>,
}

/// A running collector.
#[derive(Debug)]
pub struct CollectorThread {
    finish: Arc<AtomicBool>,
    handle: CollectorHandle,
    thread: JoinHandle<CollectorResult>,
}

/// What the thread works on.
struct Work {
    device: Arc<Device<GuestMemoryMmap>>,
    /// `None` while the event buffer is given up.
    reader: Option<EventReader>,
    collector: Collector,
    files: HostedFiles,
    names: DeviceNames,
    words: Vec<u64>,
    /// What was read while the session was written, read by read; else empty.
    reads: Vec<Vec<u64>>,
    failed_flushes: u64,
    orders: Receiver<(Order, Done)>,
    stats: Arc<Mutex<CollectorStats>>,
    /// The device's account when the session began: empty, or at the last reset or save.
    base: oprofile_device::Account,
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
        files: Sources,
    ) -> io::Result<Self> {
        let finish = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&finish);
        let (sender, orders) = channel();
        let handle = CollectorHandle {
            orders: sender,
            stats: Arc::default(),
        };
        let mut work = Work {
            names: DeviceNames::new(Arc::clone(&device)),
            files: HostedFiles::new(Arc::clone(&device), files),
            device,
            words: Vec::with_capacity(reader.size()),
            reads: Vec::new(),
            reader: Some(reader),
            collector,
            failed_flushes: 0,
            orders,
            stats: Arc::clone(&handle.stats),
            base: oprofile_device::Account::default(),
        };
        let thread = thread::Builder::new()
            .name("oprofile-collect".into())
            .spawn(move || {
                work.collect_until(&seen);
                work.finish()
            })?;
        Ok(Self {
            finish,
            handle,
            thread,
        })
    }

    /// For its orders and figures.
    pub fn handle(&self) -> CollectorHandle {
        self.handle.clone()
    }

    /// Takes what is left in the event buffer and completes the session. No vCPU runs any more, nobody writes to the disks, and the
    /// device has been dumped. `None` when the thread had panicked.
    pub fn finish(self) -> Option<CollectorResult> {
        self.finish.store(true, Ordering::Release);
        self.thread.join().ok()
    }
}

impl Work {
    fn collect_until(&mut self, finish: &AtomicBool) {
        let mut flushed = Instant::now();
        while !finish.load(Ordering::Acquire) {
            match &mut self.reader {
                Some(reader) => {
                    if reader.wait(WAIT) {
                        self.take();
                    }
                    while let Ok((order, done)) = self.orders.try_recv() {
                        self.obey(order, done);
                    }
                }
                None => match self.orders.recv_timeout(WAIT) {
                    Ok((order, done)) => self.obey(order, done),
                    Err(RecvTimeoutError::Timeout) => {}
                    // Nobody can give the event buffer back.
                    Err(RecvTimeoutError::Disconnected) => thread::park_timeout(WAIT),
                },
            }
            if flushed.elapsed() >= FLUSH_PERIOD {
                self.take();
                self.flush_or_warn();
                flushed = Instant::now();
            }
        }
    }

    fn obey(&mut self, order: Order, done: Done) {
        let result = match order {
            Order::Flush => {
                let account = self.take_with_account();
                self.flush(&account)
            }
            Order::Reset => {
                self.base = self.take_with_account();
                self.write(|collector, _| collector.reset())
            }
            Order::Save(name) => {
                let account = self.take_with_account();
                let counted = since(&account, &self.base);
                let saved = self.write(|collector, files| collector.save(&name, files, &counted));
                if saved.is_ok() {
                    self.base = account;
                }
                saved
            }
            Order::Separate(separation, per_cpu) => {
                self.take();
                self.write(|collector, _| collector.separate(separation, per_cpu))
            }
            Order::Release => {
                self.take();
                self.reader = None;
                Ok(())
            }
            Order::Resume(reader) => {
                self.reader = Some(reader);
                Ok(())
            }
        };
        self.publish();
        done(result);
    }

    /// Consumes what is in the event buffer, ready or not.
    fn take(&mut self) {
        let Some(reader) = &mut self.reader else {
            return;
        };
        self.words.clear();
        if reader.read(&mut self.words) != 0 {
            // After the read: names for everything that the words mention are known then.
            self.names.refresh();
            self.collector.consume(&self.words, &mut self.names);
            self.publish();
        }
    }

    /// Has `work` write the session, which takes seconds when sampled libraries are copied to a slow disk. Words that come meanwhile are
    /// consumed after it.
    fn write<R>(&mut self, work: impl FnOnce(&mut Collector, &HostedFiles) -> R) -> R {
        let Self {
            reader,
            reads,
            collector,
            files,
            names,
            ..
        } = self;
        let result = match reader {
            Some(reader) => while_reading(reader, reads, || work(collector, files)),
            None => work(collector, files),
        };
        files.forget_maps();
        if !reads.is_empty() {
            names.refresh();
            for words in reads.drain(..) {
                collector.consume(&words, names);
            }
            self.publish();
        }
        result
    }

    fn publish(&self) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = *self.collector.stats();
    }

    /// Consumes what is in the event buffer; the account that belongs to what has been consumed, unless samples come in faster
    /// than they can be looked at.
    fn take_with_account(&mut self) -> oprofile_device::Account {
        let mut before = self.device.account();
        for _ in 1..ACCOUNT_ATTEMPTS {
            self.take();
            let after = self.device.account();
            if after.received == before.received {
                break;
            }
            before = after;
        }
        before
    }

    /// Brings the session up to date with the account as it was when the device's stood at `account`.
    fn flush(&mut self, account: &oprofile_device::Account) -> Result<(), CollectorError> {
        let account = since(account, &self.base);
        self.write(|collector, files| collector.flush(files, &account))
    }

    fn flush_or_warn(&mut self) {
        if let Err(error) = self.flush(&self.device.account()) {
            self.failed_flushes += 1;
            if self.failed_flushes == 1 {
                tracing::warn!("{}", crate::report::Chain(&error));
            }
        }
    }

    fn finish(mut self) -> CollectorResult {
        self.take();
        let files = self.files.settle();
        let account = since(&self.device.account(), &self.base);
        // Copies that cannot be made are in the error of the end, too.
        let _ = self.collector.flush(&files, &account);
        let archive = self.collector.archive();
        let (stats, error) = match self.collector.finish(&files, &account) {
            Ok(stats) => (stats, None),
            Err((collector, error)) => (*collector.stats(), Some(error)),
        };
        CollectorResult {
            stats,
            failed_flushes: self.failed_flushes,
            archive,
            error,
        }
    }
}

/// What was counted between two states of a device. Counters only grow, and come in the same order each time.
fn since(now: &oprofile_device::Account, base: &oprofile_device::Account) -> Account {
    now.iter()
        .zip(base.iter())
        .map(|((name, now), (_, base))| (name, now.wrapping_sub(base)))
        .collect()
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
        let thread = CollectorThread::start(device, reader, collector, Sources::default()).unwrap();
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
        let thread = CollectorThread::start(device, reader, collector, Sources::default()).unwrap();
        assert!(thread.finish().unwrap().error.is_some());
    }
}
