//! The kernel and its modules: which of them are the same, and how many of their symbols are kept.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use super::images::{Full, ImageId};
use crate::guest::{ImageKind, KernelImage};
use crate::guest_path;
use crate::sample_path::ImageName;

/// Most symbols kept of all kernel images of a session: twice what a device holds at a time, for a kernel and the one that
/// it reboots into. A guest may send as many others as it likes.
const MAX_SYMBOLS: usize = 1 << 21;
/// Most bytes of their names.
const MAX_SYMBOL_NAME_BYTES: usize = 128 << 20;
/// Most descriptions remembered by their address, so that they need not be compared again: a kernel and its modules. A few
/// bytes each.
const MAX_RESOLVED: usize = 8_192;

/// Symbols, and bytes of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Volume {
    symbols: usize,
    name_bytes: usize,
}

impl Volume {
    fn of(image: &KernelImage) -> Self {
        Self {
            symbols: image.symbols.len(),
            name_bytes: image.symbols.iter().map(|symbol| symbol.name.len()).sum(),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            symbols: self.symbols.saturating_add(other.symbols),
            name_bytes: self.name_bytes.saturating_add(other.name_bytes),
        }
    }

    fn minus(self, other: Self) -> Option<Self> {
        Some(Self {
            symbols: self.symbols.checked_sub(other.symbols)?,
            name_bytes: self.name_bytes.checked_sub(other.name_bytes)?,
        })
    }
}

/// What a description was found to be. The weak reference keeps its address from being used again.
type Resolved = (Weak<KernelImage>, Result<ImageId, Full>);

/// The kernel images of a session.
#[derive(Debug)]
pub(super) struct KernelImages {
    by_name: HashMap<(ImageKind, Vec<u8>), Vec<ImageId>>,
    /// By the address of the description.
    resolved: HashMap<usize, Resolved>,
    /// What may still be kept.
    room: Volume,
    without_symbols: u64,
}

impl Default for KernelImages {
    fn default() -> Self {
        Self {
            by_name: HashMap::new(),
            resolved: HashMap::new(),
            room: Volume {
                symbols: MAX_SYMBOLS,
                name_bytes: MAX_SYMBOL_NAME_BYTES,
            },
            without_symbols: 0,
        }
    }
}

impl KernelImages {
    /// What this very description was found to be, if it has been looked at.
    pub(super) fn resolved(&self, found: &Arc<KernelImage>) -> Option<Result<ImageId, Full>> {
        let (_, result) = self.resolved.get(&Arc::as_ptr(found).addr())?;
        Some(*result)
    }

    /// Remembers what a description was found to be.
    pub(super) fn resolve(&mut self, found: &Arc<KernelImage>, result: Result<ImageId, Full>) {
        if self.resolved.len() >= MAX_RESOLVED {
            self.resolved.clear();
        }
        let key = Arc::as_ptr(found).addr();
        self.resolved.insert(key, (Arc::downgrade(found), result));
    }

    /// The images of the same name and kind.
    pub(super) fn namesakes(&self, found: &KernelImage) -> &[ImageId] {
        let name = (found.kind, found.name.clone());
        self.by_name.get(&name).map_or(&[], |ids| ids)
    }

    /// Adds an image.
    pub(super) fn add(&mut self, found: &KernelImage, id: ImageId) {
        let name = (found.kind, found.name.clone());
        self.by_name.entry(name).or_default().push(id);
    }

    /// What is kept of a new image: all of it, or when there is no room for its symbols, all but these.
    pub(super) fn take_symbols(&mut self, found: &Arc<KernelImage>) -> Arc<KernelImage> {
        if let Some(left) = self.room.minus(Volume::of(found)) {
            self.room = left;
            return Arc::clone(found);
        }
        if self.without_symbols == 0 {
            tracing::warn!(
                "too many symbols of kernel images; some images have none in this session"
            );
        }
        self.without_symbols += 1;
        Arc::new(KernelImage {
            name: found.name.clone(),
            symbols: Vec::new(),
            ..**found
        })
    }

    /// Whether there is room for the symbols of `new` in place of those of `old`; it is taken then.
    pub(super) fn replace_symbols(&mut self, old: &KernelImage, new: &KernelImage) -> bool {
        let left = self.room.plus(Volume::of(old)).minus(Volume::of(new));
        if let Some(left) = left {
            self.room = left;
        }
        left.is_some()
    }

    /// Sets another limit than [`MAX_SYMBOLS`], before any image is taken in.
    #[cfg(test)]
    pub(super) fn limit_symbols(&mut self, symbols: usize) {
        self.room.symbols = symbols;
    }

    /// Images that were taken in without their symbols.
    pub(super) fn without_symbols(&self) -> u64 {
        self.without_symbols
    }
}

/// How a description relates to one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// Another image, or another build of it.
    Different,
    /// The same image.
    Same,
    /// The same image, of which more symbols are known now.
    MoreSymbols,
}

/// Where a symbol lies in its image, its size and name.
type RelativeSymbol<'a> = (u64, u64, &'a [u8]);

/// Compares a description with others by what does not depend on the load address.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    found: &'a KernelImage,
    /// Its symbols, once they are needed.
    symbols: Option<HashSet<RelativeSymbol<'a>>>,
}

impl<'a> Comparison<'a> {
    /// Compares `found`.
    pub(super) const fn new(found: &'a KernelImage) -> Self {
        Self {
            found,
            symbols: None,
        }
    }

    /// How `known` relates to it.
    pub(super) fn with(&mut self, known: &KernelImage) -> Relation {
        let found = self.found;
        let size = |image: &KernelImage| image.end.wrapping_sub(image.start);
        if known.name != found.name || known.kind != found.kind || size(known) != size(found) {
            return Relation::Different;
        }
        if relative_symbols(known).eq(relative_symbols(found)) {
            return Relation::Same;
        }
        let new = self
            .symbols
            .get_or_insert_with(|| relative_symbols(found).collect());
        let old: HashSet<RelativeSymbol<'_>> = relative_symbols(known).collect();
        if new.is_subset(&old) {
            Relation::Same
        } else if old.is_subset(new) {
            Relation::MoreSymbols
        } else {
            Relation::Different
        }
    }
}

/// The symbols with their offsets in the image.
fn relative_symbols(image: &KernelImage) -> impl Iterator<Item = RelativeSymbol<'_>> {
    image.symbols.iter().map(|symbol| {
        (
            symbol.address.wrapping_sub(image.start),
            symbol.size,
            &symbol.name[..],
        )
    })
}

/// Name in the session of the image that is the `incarnation`th of its name, from 1 on.
pub(super) fn name(image: &KernelImage, incarnation: u32) -> ImageName {
    let mut name = image.name.clone();
    if incarnation > 1 {
        name.extend_from_slice(format!("~{incarnation}").as_bytes());
    }
    let directory: &[u8] = match image.kind {
        ImageKind::Kernel => b"/boot/",
        ImageKind::Module => {
            name.extend_from_slice(b".ko");
            b"/lib/modules/"
        }
    };
    ImageName::Root([directory, &guest_path::escape_component(&name)].concat())
}
