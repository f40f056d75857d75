//! The device's own.

use std::sync::Arc;

use oprofile_device::guest::memory::Ram;
use oprofile_device::guest::paging;
use oprofile_device::guest::translator::Translator;
use vm_memory::GuestMemoryMmap;

use super::Translate;
use super::tables::Tables;

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

    fn is_ours(&self) -> bool {
        true
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
