//! Keeps the event buffer read while its reader is at other work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Builder};
use std::time::Duration;

use oprofile_device::EventReader;

/// Most words that are kept: 32 MiB, half a minute of 64 vCPUs at 1 kHz, two words a sample. Then they wait in the event buffer, and what does not fit it is
/// dropped and counted there.
const MAX_KEPT_WORDS: usize = 4 << 20;

/// Longest wait for words: how much later than the work this may end.
const WAIT: Duration = Duration::from_millis(10);

/// Becomes true when the work has ended, by a panic, too.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Does `work` on this thread while another one reads the event buffer whenever it is ready; what it read goes to the end of `reads`, each
/// read by itself, as only its last record may be cut. On a host without threads the words wait in the event buffer.
pub fn while_reading<R>(
    reader: &mut EventReader,
    reads: &mut Vec<Vec<u64>>,
    work: impl FnOnce() -> R,
) -> R {
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let ended = Ended(&has_ended);
        let keep_reading = || {
            let mut kept = 0;
            while !has_ended.load(Ordering::Acquire) {
                if kept >= MAX_KEPT_WORDS {
                    thread::park_timeout(WAIT);
                } else if reader.wait(WAIT)
                    && let Some(words) = reader.read_ready()
                {
                    kept += words.len();
                    reads.push(words);
                }
            }
        };
        // An error is a host without threads.
        let _ = Builder::new()
            .name("oprofile-relief".into())
            .spawn_scoped(scope, keep_reading);
        let result = work();
        drop(ended);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_device::event_buffer::{EventBuffer, SharedEvents};
    use std::time::Instant;

    const SIZE: usize = 64;
    const WATERSHED: usize = 32;

    fn events() -> SharedEvents {
        SharedEvents::new(EventBuffer::new(SIZE, WATERSHED).unwrap())
    }

    /// Until a reader has taken what waits; a minute is for ever.
    fn wait_until_read(events: &SharedEvents) {
        let start = Instant::now();
        while !events.lock().pending().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "nobody reads");
            thread::yield_now();
        }
    }

    #[test]
    fn words_that_come_meanwhile_are_kept_read_by_read() {
        let events = events();
        let mut reader = events.open().unwrap();
        let mut reads = vec![vec![7]];
        let result = while_reading(&mut reader, &mut reads, || {
            for round in 0..5 {
                {
                    let mut guard = events.lock();
                    for word in 0..SIZE as u64 {
                        assert!(guard.add(100 * round + word));
                    }
                }
                wait_until_read(&events);
            }
            "done"
        });
        assert_eq!(result, "done");
        assert_eq!(events.lock().lost_words(), 0);
        let round = |round: u64| (0..SIZE as u64).map(move |word| 100 * round + word);
        let expected: Vec<Vec<u64>> = (0..5).map(|n| round(n).collect()).collect();
        assert_eq!(reads[0], [7]);
        assert_eq!(reads[1..], expected);
    }

    #[test]
    fn words_below_the_mark_are_left_in_the_event_buffer() {
        let events = events();
        let mut reader = events.open().unwrap();
        let mut reads = Vec::new();
        events.lock().add(1);
        while_reading(&mut reader, &mut reads, || ());
        assert!(reads.is_empty());
        assert_eq!(events.lock().pending(), [1]);
    }

    #[test]
    fn more_than_is_kept_waits_in_the_event_buffer_and_is_counted() {
        const BIG: usize = MAX_KEPT_WORDS / 2;
        let events = SharedEvents::new(EventBuffer::new(BIG, 1).unwrap());
        let mut reader = events.open().unwrap();
        let mut reads = Vec::new();
        let fill = || {
            let mut guard = events.lock();
            while guard.add(0) {}
        };
        while_reading(&mut reader, &mut reads, || {
            for _ in 0..2 {
                fill();
                wait_until_read(&events);
            }
            fill();
            fill();
        });
        assert_eq!(reads.iter().map(Vec::len).sum::<usize>(), MAX_KEPT_WORDS);
        let guard = events.lock();
        assert_eq!(guard.pending().len(), BIG);
        // A word for each filling that found its end.
        assert_eq!(guard.lost_words(), 4);
    }

    #[test]
    fn a_panic_of_the_work_is_not_waited_for_for_ever() {
        let events = events();
        let mut reader = events.open().unwrap();
        let work = || -> () { panic!("as the test wants") };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while_reading(&mut reader, &mut Vec::new(), work);
        }));
        assert!(caught.is_err());
    }
}
