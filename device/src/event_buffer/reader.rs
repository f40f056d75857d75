//! The event buffer behind a lock, and its one reader.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;

use super::{EventBuffer, SizeError};

/// Why the event buffer was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// There is one reader at a time.
    #[error("The event buffer has a reader already; end that one first")]
    Busy,
    /// It cannot have the size that was asked for.
    #[error(transparent)]
    Size(#[from] SizeError),
}

#[derive(Debug)]
struct State {
    buffer: EventBuffer,
    opened: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    readable: Condvar,
}

impl Shared {
    /// Words and counters are valid after each single step, so a panic elsewhere under the lock does no harm here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The event buffer for several threads: those that sync lock it, one reads it. Clones share the buffer.
#[derive(Clone, Debug)]
pub struct SharedEvents {
    shared: Arc<Shared>,
}

impl SharedEvents {
    /// Shares `buffer`.
    #[must_use]
    pub fn new(buffer: EventBuffer) -> Self {
        let state = Mutex::new(State {
            buffer,
            opened: false,
        });
        let readable = Condvar::new();
        Self {
            shared: Arc::new(Shared { state, readable }),
        }
    }

    /// Locks the buffer, for the whole of one sync: a read then never sees half a sync. The reader is woken, if
    /// it was due, when the guard is dropped.
    #[must_use]
    pub fn lock(&self) -> EventsGuard<'_> {
        EventsGuard {
            state: self.shared.lock(),
            readable: &self.shared.readable,
        }
    }

    /// Opens the buffer for reading. Words that an earlier reader left are still there: none vanishes between readers.
    ///
    /// # Errors
    /// When it has a reader already.
    pub fn open(&self) -> Result<EventReader, OpenError> {
        self.open_after(|_| Ok(()))
    }

    /// As [`SharedEvents::open`], with another size and watershed, in words, from now on.
    ///
    /// # Errors
    /// When it has a reader already, or [`EventBuffer::resize`] refuses.
    pub fn open_sized(&self, size: usize, watershed: usize) -> Result<EventReader, OpenError> {
        self.open_after(|buffer| buffer.resize(size, watershed))
    }

    fn open_after(
        &self,
        prepare: impl FnOnce(&mut EventBuffer) -> Result<(), SizeError>,
    ) -> Result<EventReader, OpenError> {
        let mut state = self.shared.lock();
        if state.opened {
            return Err(OpenError::Busy);
        }
        prepare(&mut state.buffer)?;
        state.opened = true;
        Ok(EventReader {
            shared: Arc::clone(&self.shared),
        })
    }

    /// Makes the buffer readable now and wakes the reader: on a dump, and when profiling stops.
    pub fn dump(&self) {
        self.lock().dump();
    }
}

/// The locked event buffer.
#[derive(Debug)]
pub struct EventsGuard<'a> {
    state: MutexGuard<'a, State>,
    readable: &'a Condvar,
}

impl Deref for EventsGuard<'_> {
    type Target = EventBuffer;

    fn deref(&self) -> &EventBuffer {
        &self.state.buffer
    }
}

impl DerefMut for EventsGuard<'_> {
    fn deref_mut(&mut self) -> &mut EventBuffer {
        &mut self.state.buffer
    }
}

impl Drop for EventsGuard<'_> {
    fn drop(&mut self) {
        if self.state.buffer.take_wakeups() != 0 {
            self.readable.notify_one();
        }
    }
}

/// The one reader of an event buffer; dropping it lets another one open.
#[derive(Debug)]
pub struct EventReader {
    shared: Arc<Shared>,
}

impl EventReader {
    /// Waits until the buffer is ready (filled up to its watershed, dumped, or stopped), at most `timeout`; false when
    /// it was not.
    #[must_use]
    pub fn wait(&mut self, timeout: Duration) -> bool {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .readable
            .wait_timeout_while(state, timeout, |state| !state.buffer.is_ready())
            .unwrap_or_else(PoisonError::into_inner);
        state.buffer.is_ready()
    }

    /// Appends everything that is in the buffer to `words`, ready or not, without waiting; returns the number of words.
    /// What is taken consists of whole syncs, the last record of which may be cut if the buffer overflowed.
    pub fn read(&mut self, words: &mut Vec<u64>) -> usize {
        self.shared.lock().buffer.take(words)
    }

    /// Takes everything that is in the buffer, whole and only when it is ready: OProfile's `read(2)`, which this leaves
    /// to wait for. `None` when it is not ready.
    pub fn read_ready(&mut self) -> Option<Vec<u64>> {
        let mut state = self.shared.lock();
        state.buffer.is_ready().then(|| {
            let mut words = Vec::new();
            state.buffer.take(&mut words);
            words
        })
    }

    /// Size of the buffer, the most that a read can return, in words.
    #[must_use]
    pub fn size(&self) -> usize {
        self.shared.lock().buffer.size()
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.shared.lock().opened = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Long enough never to pass in a test that works.
    const LONG: Duration = Duration::from_secs(60);

    fn events() -> SharedEvents {
        SharedEvents::new(EventBuffer::new(8, 4).unwrap())
    }

    #[test]
    fn a_second_reader_is_refused_until_the_first_is_gone() {
        let events = events();
        let reader = events.open().unwrap();
        assert_eq!(events.open().unwrap_err(), OpenError::Busy);
        drop(reader);
        assert!(events.open().is_ok());
    }

    #[test]
    fn waiting_ends_when_the_watershed_is_reached() {
        let events = events();
        let mut reader = events.open().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| reader.wait(LONG));
            events.lock().add_all([1, 2, 3, 4]);
            assert!(waiter.join().unwrap());
        });
        let mut words = Vec::new();
        assert_eq!(reader.read(&mut words), 4);
        assert_eq!(words, [1, 2, 3, 4]);
    }

    #[test]
    fn a_dump_wakes_the_reader_of_an_empty_buffer() {
        let events = events();
        let mut reader = events.open().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| reader.wait(LONG));
            events.dump();
            assert!(waiter.join().unwrap());
        });
        assert_eq!(reader.read(&mut Vec::new()), 0);
    }

    #[test]
    fn waiting_for_words_that_do_not_come_ends_with_the_timeout() {
        let events = events();
        let mut reader = events.open().unwrap();
        events.lock().add(1);
        assert!(!reader.wait(Duration::ZERO));
        assert_eq!(reader.read(&mut Vec::new()), 1);
    }

    #[test]
    fn only_a_ready_buffer_is_read_when_readiness_is_asked_for() {
        let events = events();
        let mut reader = events.open().unwrap();
        events.lock().add(1);
        assert_eq!(reader.read_ready(), None);
        events.dump();
        assert_eq!(reader.read_ready(), Some(vec![1]));
        assert_eq!(reader.read_ready(), None);
    }

    #[test]
    fn a_size_that_is_refused_leaves_the_buffer_closed_as_it_was() {
        let events = events();
        let refused = SizeError::Watershed {
            size: 4,
            watershed: 4,
        };
        let opened = events.open_sized(4, 4);
        assert_eq!(opened.unwrap_err(), OpenError::Size(refused));
        let reader = events.open_sized(16, 4).unwrap();
        assert_eq!(reader.size(), 16);
        assert_eq!(events.open_sized(8, 4).unwrap_err(), OpenError::Busy);
    }

    #[test]
    fn a_reader_that_goes_leaves_its_words_to_the_next() {
        let events = events();
        drop(events.open().unwrap());
        events.lock().add(5);
        let mut words = Vec::new();
        events.open().unwrap().read(&mut words);
        assert_eq!(words, [5]);
    }
}
