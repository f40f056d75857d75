//! The least that a walk can do: four loads, without any check that a hostile guest would make necessary.

use super::Translate;
use super::tables::Tables;

/// Name in the table.
pub const NAME: &str = "plain walk over a slice";

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Four levels in a slice.
pub struct Plain {
    words: &'static [u64],
    root: u64,
}

impl Plain {
    /// Walks `tables`.
    pub fn new(tables: &'static Tables) -> Self {
        Self {
            words: tables.words(),
            root: tables.root(),
        }
    }

    #[inline]
    fn walk(&self, address: u64) -> Option<u64> {
        let mut table = self.root;
        for level in [3, 2, 1, 0] {
            let shift = 12 + 9 * level;
            let index = (address >> shift) & 0x1ff;
            let entry = *self.words.get(usize::try_from(table / 8 + index).ok()?)?;
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 0 || entry & LARGE != 0 {
                let offset = (1 << shift) - 1;
                return Some(entry & ADDRESS_MASK & !offset | address & offset);
            }
            table = entry & ADDRESS_MASK;
        }
        None
    }
}

impl Translate for Plain {
    fn name(&self) -> &'static str {
        NAME
    }

    fn each(&mut self, addresses: &[u64], mut found: impl FnMut(u64, u64)) {
        for &address in addresses {
            if let Some(gpa) = self.walk(address) {
                found(address, gpa);
            }
        }
    }
}
