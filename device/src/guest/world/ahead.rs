//! Look-ups that are searched for side by side.

use super::super::tables::{Index, Table};
use crate::sync::LANES;

/// What was found for addresses that will be asked for.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    addresses: [u64; LANES],
    found: [Index; LANES],
    next: usize,
}

impl Ahead {
    /// Searches `table` for them.
    #[inline]
    pub fn new(table: &Table, addresses: [u64; LANES]) -> Self {
        Self {
            found: table.find_all(addresses),
            addresses,
            next: 0,
        }
    }

    /// Where `address`, which is asked for now, was then.
    #[inline]
    pub fn take(&mut self, address: u64) -> Index {
        let at = self.next % LANES;
        self.next = at + 1;
        match self.addresses[at] == address {
            true => self.found[at],
            false => Index::NONE,
        }
    }
}
