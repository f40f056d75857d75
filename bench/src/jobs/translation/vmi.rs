//! The vmi crate: its translation over a driver that hands out pages of memory that is mapped here, with and without its
//! caches.

use std::ops::Deref;

use vmi::arch::amd64::Amd64;
use vmi::driver::{VmiDriver, VmiRead};
use vmi::{AddressContext, Gfn, Pa, Va, VmiCore, VmiError, VmiInfo, VmiMappedPage};
use zerocopy::IntoBytes;

use super::tables::Tables;
use super::{Failure, PAGE_BYTES, Translate};

/// Name in the table.
pub const NAME: &str = "vmi";

/// Pages whose contents vmi may keep: all tables.
const CACHED_PAGES: usize = 8_192;

/// Translations that vmi may keep: its own default.
const CACHED_TRANSLATIONS: usize = 8_192;

/// Hands out pages without copying them.
struct Driver {
    bytes: &'static [u8],
}

struct Page(&'static [u8]);

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl VmiDriver for Driver {
    type Architecture = Amd64;

    fn info(&self) -> Result<VmiInfo, VmiError> {
        Ok(VmiInfo {
            page_size: PAGE_BYTES,
            page_shift: PAGE_BYTES.ilog2().into(),
            max_gfn: Gfn(self.bytes.len() as u64 / PAGE_BYTES),
            vcpus: 1,
        })
    }
}

impl VmiRead for Driver {
    fn read_page(&self, gfn: Gfn) -> Result<VmiMappedPage, VmiError> {
        let byte =
            |page: u64| usize::try_from(page * PAGE_BYTES).map_err(|_| VmiError::OutOfBounds);
        let page = self.bytes.get(byte(gfn.0)?..byte(gfn.0 + 1)?);
        Ok(VmiMappedPage::new(Page(page.ok_or(VmiError::OutOfBounds)?)))
    }
}

/// vmi's translation.
pub struct Vmi {
    name: &'static str,
    core: VmiCore<Driver>,
    root: Pa,
}

fn vmi(tables: &'static Tables, name: &'static str) -> Result<Vmi, Failure> {
    let bytes = tables.words().as_bytes();
    Ok(Vmi {
        name,
        core: VmiCore::new(Driver { bytes })?
            .with_gfn_cache(CACHED_PAGES)
            .with_v2p_cache(CACHED_TRANSLATIONS),
        root: Pa(tables.root()),
    })
}

/// Without a cache.
pub fn walk(tables: &'static Tables) -> Result<Vmi, Failure> {
    let mut vmi = vmi(tables, "vmi, no cache")?;
    vmi.core.disable_gfn_cache();
    vmi.core.disable_v2p_cache();
    Ok(vmi)
}

/// With its cache of pages.
pub fn cached_pages(tables: &'static Tables) -> Result<Vmi, Failure> {
    let mut vmi = vmi(tables, "vmi, page cache")?;
    vmi.core.disable_v2p_cache();
    Ok(vmi)
}

/// With both of its caches, as it comes.
pub fn cached(tables: &'static Tables) -> Result<Vmi, Failure> {
    vmi(tables, NAME)
}

impl Translate for Vmi {
    fn name(&self) -> &'static str {
        self.name
    }

    fn each(&mut self, addresses: &[u64], mut found: impl FnMut(u64, u64)) {
        for &address in addresses {
            let context = AddressContext {
                va: Va(address),
                root: self.root,
            };
            if let Ok(physical) = self.core.translate_address(context) {
                found(address, physical.0);
            }
        }
    }
}
