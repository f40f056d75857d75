//! A CPU's entries between writer and sync, with the byte budget that the scenarios assume.

use std::collections::VecDeque;

use oprofile_guest_agent::writer::EntryStore;
use serde_json::{Value, json};

/// Words of an entry without data: eip and event.
const HEAD_WORDS: usize = 2;
/// Bytes of budget for each entry of the CPU buffer's size: a plain entry and its ring header.
const BYTES_PER_ENTRY: u64 = 20;
/// Bytes that an entry costs besides its words.
const OVERHEAD: u64 = 4;
/// Bytes of words above which it costs that twice.
const LONG_ENTRY: u64 = 112;

/// Most words of an entry, whatever the budget: the scenarios have 16, and a slip must not fill memory.
const MAX_ENTRY_WORDS: usize = 1 << 22;

/// A FIFO of entries, each `[eip, event, data…]`. By default one that is not there, as while nobody has opened the event
/// buffer: it takes nothing.
#[derive(Debug, Default)]
pub struct Fifo {
    entries: VecDeque<Vec<u64>>,
    used: u64,
    /// `None` when it is not there.
    budget: Option<u64>,
}

impl Fifo {
    /// A FIFO for `size` plain entries. The product wraps, as the original's does.
    pub fn new(size: u64) -> Self {
        Self {
            budget: Some(size.wrapping_mul(BYTES_PER_ENTRY)),
            ..Self::default()
        }
    }

    fn cost(words: usize) -> u64 {
        let bytes = (words as u64).saturating_mul(8);
        let overhead = if bytes > LONG_ENTRY {
            2 * OVERHEAD
        } else {
            OVERHEAD
        };
        bytes.saturating_add(overhead)
    }

    /// Appends an entry whether it fits or not; its cost counts.
    pub fn force(&mut self, entry: Vec<u64>) {
        if self.budget.is_some() {
            self.push(entry);
        }
    }

    fn push(&mut self, entry: Vec<u64>) {
        self.used = self.used.saturating_add(Self::cost(entry.len()));
        self.entries.push_back(entry);
    }

    /// Takes the oldest entry.
    pub fn pop(&mut self) -> Option<Vec<u64>> {
        let entry = self.entries.pop_front()?;
        self.used = self.used.saturating_sub(Self::cost(entry.len()));
        Some(entry)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries, oldest first.
    pub fn to_json(&self) -> Value {
        json!(self.entries)
    }
}

impl EntryStore for Fifo {
    fn reserve(&mut self, eip: u64, event: u64, data_words: usize) -> Option<&mut [u64]> {
        let words = data_words
            .checked_add(HEAD_WORDS)
            .filter(|&words| words <= MAX_ENTRY_WORDS)?;
        if self.used.saturating_add(Self::cost(words)) > self.budget? {
            return None;
        }
        let mut entry = vec![0; words];
        entry[..HEAD_WORDS].copy_from_slice(&[eip, event]);
        self.push(entry);
        self.entries
            .back_mut()
            .and_then(|entry| entry.get_mut(HEAD_WORDS..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_twenty_bytes_an_entry() {
        let mut fifo = Fifo::new(2);
        assert!(fifo.write(1, 0, &[]));
        assert!(!fifo.write(2, 0, &[7]), "28 bytes do not fit into 20");
        assert!(fifo.write(2, 0, &[]));
        assert!(!fifo.write(3, 0, &[]));
        assert_eq!(fifo.pop(), Some(vec![1, 0]));
        assert!(fifo.write(3, 0, &[]));
    }

    #[test]
    fn long_entries_cost_a_second_header() {
        let mut fifo = Fifo::new(6);
        assert!(
            fifo.write(1, 0, &[0; 12]),
            "112 bytes of words and one header"
        );
        assert_eq!(fifo.used, 116);
        fifo.pop();
        assert!(
            !fifo.write(1, 0, &[0; 13]),
            "120 bytes of words and two headers"
        );
    }

    #[test]
    fn a_fifo_that_is_not_there_takes_nothing() {
        let mut fifo = Fifo::default();
        assert!(!fifo.write(1, 0, &[]));
        fifo.force(vec![1, 0]);
        assert_eq!(fifo.len(), 0);
    }

    #[test]
    fn an_entry_beyond_reason_is_refused_whatever_the_budget() {
        let mut fifo = Fifo::new(u64::MAX / 20);
        assert!(fifo.reserve(1, 0, usize::MAX).is_none());
        assert!(fifo.reserve(1, 0, 1 << 40).is_none());
        assert!(fifo.write(1, 0, &[]));
    }

    #[test]
    fn forced_entries_use_up_the_budget() {
        let mut fifo = Fifo::new(1);
        fifo.force(vec![1, 0]);
        fifo.force(vec![2, 0]);
        fifo.pop();
        assert!(!fifo.write(3, 0, &[]));
        assert_eq!(fifo.len(), 1);
    }
}
