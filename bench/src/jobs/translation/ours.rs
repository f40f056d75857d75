//! The device's own.

use std::sync::Arc;

use oprofile_device::guest::memory::Ram;
use oprofile_device::guest::paging::{self, WalkError};
use oprofile_device::guest::translator::Translator;
use vm_memory::GuestMemoryMmap;

use super::tables::Tables;
use super::{HOT, Pattern, RANDOM, Translate};

/// Addresses of one call: as many as call chains of a few samples have.
const BATCH: usize = 256;

/// The page walk, as `oprofile_device::guest::paging` offers it.
pub struct Walk {
    tables: &'static Tables,
    memory: Arc<GuestMemoryMmap>,
}

impl Walk {
    /// Walks `tables` in guest RAM.
    pub fn new(tables: &'static Tables) -> Self {
        Self {
            memory: tables.memory(),
            tables,
        }
    }
}

impl Translate for Walk {
    fn name(&self) -> &'static str {
        "page walk of the device"
    }

    fn each(&mut self, addresses: &[u64], mut found: impl FnMut(u64, u64)) {
        let (levels, root) = (self.tables.levels(), self.tables.root());
        let mut ram = Ram::new(&*self.memory, u32::MAX);
        for &address in addresses {
            if let Ok(translation) = paging::translate(&mut ram, levels, root, address) {
                found(address, translation.gpa);
            }
        }
    }
}

/// The translator with its TLB and its memory of page tables.
pub struct Remembering {
    tables: &'static Tables,
    memory: Arc<GuestMemoryMmap>,
    translator: Translator,
}

impl Remembering {
    /// Translates by `tables` in guest RAM.
    pub fn new(tables: &'static Tables) -> Self {
        Self {
            memory: tables.memory(),
            translator: Translator::new(tables.levels()),
            tables,
        }
    }
}

impl Translate for Remembering {
    fn name(&self) -> &'static str {
        "translator of the device"
    }

    fn has_target(&self, pattern: &Pattern) -> bool {
        pattern.name == HOT
    }

    fn each(&mut self, addresses: &[u64], mut found: impl FnMut(u64, u64)) {
        let root = self.tables.root();
        let mut ram = Ram::new(&*self.memory, u32::MAX);
        for &address in addresses {
            if let Ok(translation) = self.translator.translate(&mut ram, root, address) {
                found(address, translation.gpa);
            }
        }
    }
}

/// The same translator, many addresses in one call.
pub struct Batched(Remembering);

impl Batched {
    /// Translates by `tables` in guest RAM.
    pub fn new(tables: &'static Tables) -> Self {
        Self(Remembering::new(tables))
    }
}

impl Translate for Batched {
    fn name(&self) -> &'static str {
        "translator of the device, batched"
    }

    fn has_target(&self, pattern: &Pattern) -> bool {
        pattern.name == RANDOM
    }

    fn each(&mut self, addresses: &[u64], mut found: impl FnMut(u64, u64)) {
        let Remembering {
            tables,
            memory,
            translator,
        } = &mut self.0;
        let root = tables.root();
        let mut ram = Ram::new(&**memory, u32::MAX);
        let mut results = [Err(WalkError::NotPresent(0)); BATCH];
        for addresses in addresses.chunks(BATCH) {
            translator.translate_all(&mut ram, root, addresses, &mut results);
            for (&address, result) in addresses.iter().zip(&results) {
                if let Ok(translation) = result {
                    found(address, translation.gpa);
                }
            }
        }
    }
}
