//! The memflow crate: its virtual translation over memory that is mapped here, with and without its translation cache,
//! address by address and all at once.

use memflow::architecture::x86::{X86VirtualTranslate, x64};
use memflow::cglue::CTup2;
use memflow::connector::MappedPhysicalMemory;
use memflow::mem::virt_translate::VirtualTranslation;
use memflow::mem::{
    CachedVirtualTranslate, DirectTranslate, MemoryMap, VirtualDma, VirtualTranslate,
    VirtualTranslate2,
};
use memflow::types::Address;
use memflow::types::cache::CountCacheValidator;
use zerocopy::IntoBytes;

use super::tables::Tables;
use super::{Failure, Translate};

/// Name in the table.
pub const NAME: &str = "memflow";

/// Calls for which its cache may believe an entry: more than there are in a run.
const VALID_CALLS: usize = 1 << 40;

type Memory = MappedPhysicalMemory<&'static [u8], MemoryMap<&'static [u8]>>;

/// memflow's translation through `V`.
pub struct Memflow<V> {
    name: &'static str,
    batched: bool,
    dma: VirtualDma<Memory, V, X86VirtualTranslate>,
}

fn memflow<V: VirtualTranslate2>(
    tables: &'static Tables,
    name: &'static str,
    batched: bool,
    vat: V,
) -> Memflow<V> {
    let mut map = MemoryMap::new();
    map.push(Address::null(), tables.words().as_bytes());
    let translator = x64::new_translator(Address::from(tables.root()));
    let memory = Memory::with_info(map);
    Memflow {
        name,
        batched,
        dma: VirtualDma::with_vat(memory, x64::ARCH, translator, vat),
    }
}

/// Without a cache, one call an address.
pub fn one_by_one(tables: &'static Tables) -> impl Translate + use<> {
    memflow(tables, NAME, false, DirectTranslate::new())
}

/// Without a cache, all addresses in one call.
pub fn batched(tables: &'static Tables) -> impl Translate + use<> {
    memflow(tables, "memflow, batched", true, DirectTranslate::new())
}

/// With its cache, one call an address.
pub fn cached(tables: &'static Tables) -> Result<impl Translate + use<>, Failure> {
    Ok(memflow(tables, "memflow, cache", false, cache()?))
}

/// With its cache, all addresses in one call.
pub fn cached_batched(tables: &'static Tables) -> Result<impl Translate + use<>, Failure> {
    Ok(memflow(tables, "memflow, cache, batched", true, cache()?))
}

fn cache() -> Result<impl VirtualTranslate2, Failure> {
    Ok(CachedVirtualTranslate::builder(DirectTranslate::new())
        .arch(x64::ARCH)
        .validator(CountCacheValidator::new(VALID_CALLS))
        .build()?)
}

impl<V: VirtualTranslate2> Translate for Memflow<V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn each(&mut self, addresses: &[u64], mut found: impl FnMut(u64, u64)) {
        if !self.batched {
            for &address in addresses {
                if let Ok(physical) = self.dma.virt_to_phys(Address::from(address)) {
                    found(address, physical.to_umem());
                }
            }
            return;
        }
        let ranges: Vec<_> = addresses
            .iter()
            .map(|&address| CTup2(Address::from(address), 1))
            .collect();
        let mut push = |translation: VirtualTranslation| {
            let physical = translation.out_physical.to_umem();
            found(translation.in_virtual.to_umem(), physical);
            true
        };
        self.dma
            .virt_to_phys_list(&ranges, (&mut push).into(), (&mut |_| true).into());
    }
}
