//! Functions of anonymous regions, in files where report tools look for those of just-in-time compilers: one for all regions of
//! a process that have the same name and program.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::CollectorError;
use super::directory::SessionDirectory;
use super::images::{ImageId, Region};
use super::store::FileKey;
use crate::guest::{GuestFiles, ImageKind, KernelImage, Symbol, SymbolKind};
use crate::sample_path::{AnonRange, ImageName};
use crate::symbol_elf;

/// Functions in one file from which on no further region gets names: some 100 MiB while the file is made.
const MAX_SYMBOLS: usize = 1 << 20;

/// Files that have been written, and a digest of what each is about.
#[derive(Debug, Default)]
pub(super) struct RegionSymbols {
    written: HashMap<PathBuf, u64>,
}

/// The regions of one file, by their addresses.
struct Group<'a> {
    /// A sample file of one of them.
    file: FileKey,
    regions: BTreeMap<(u64, u64), (&'a Region, Vec<u8>)>,
}

impl RegionSymbols {
    /// Writes the files of which more is known than what was written. `regions` are those with samples, once for each sample
    /// file; `path` is where that lies.
    pub(super) fn write<'a>(
        &mut self,
        directory: &mut SessionDirectory,
        regions: impl Iterator<Item = (FileKey, &'a Region, &'a ImageName)>,
        path: impl Fn(FileKey) -> PathBuf,
        files: &dyn GuestFiles,
    ) -> Result<(), CollectorError> {
        let mut groups: HashMap<(ImageId, &[u8], &[u8]), Group<'_>> = HashMap::new();
        for (file, region, image) in regions {
            if let ImageName::Anon { name, range } = image {
                let group = groups
                    .entry((file.app, name, &range.tgid))
                    .or_insert_with(|| Group {
                        file,
                        regions: BTreeMap::new(),
                    });
                group
                    .regions
                    .entry((region.start, region.end))
                    .or_insert_with(|| (region, shown(name, range)));
            }
        }
        for ((_, _, tgid), group) in groups {
            let Some(version) = group.version(files) else {
                continue;
            };
            // …/{anon:NAME}/TGID.START.END/FILE; the symbols are …/{anon:NAME}/TGID.jo.
            let sample_file = path(group.file);
            let name = [tgid, b".jo"].concat();
            let place = sample_file.parent().and_then(Path::parent);
            let Some(place) = place.map(|place| place.join(OsStr::from_bytes(&name))) else {
                continue;
            };
            if self.written.get(&place) == Some(&version) {
                continue;
            }
            let image = KernelImage {
                name: Vec::new(),
                kind: ImageKind::Module,
                start: group.regions.keys().map(|key| key.0).min().unwrap_or(0),
                end: group.regions.keys().map(|key| key.1).max().unwrap_or(0),
                symbols: group.symbols(files),
            };
            let elf = symbol_elf::encode(&image).map_err(|source| CollectorError::Symbols {
                image: place.display().to_string(),
                source,
            })?;
            directory.place_sample_file(&place, &elf)?;
            self.written.insert(place, version);
        }
        Ok(())
    }
}

impl Group<'_> {
    /// What is known of these regions, as one number; `None` when nothing is.
    fn version(&self, files: &dyn GuestFiles) -> Option<u64> {
        let mut digest = DefaultHasher::new();
        let mut is_known = false;
        for (region, _) in self.regions.values() {
            let version = files.region_version(region.cookie);
            is_known |= version != 0;
            (region.cookie, version).hash(&mut digest);
        }
        is_known.then(|| digest.finish())
    }

    /// Symbols that leave no address of the regions out: report tools give code to the symbol before it, whatever its size, so
    /// what belongs to no function is called by its region's name, as it would be without this file.
    fn symbols(&self, files: &dyn GuestFiles) -> Vec<Symbol> {
        let mut symbols = Vec::new();
        // Regions overlap when one has grown.
        let mut at = 0;
        for (region, name) in self.regions.values() {
            let from = region.start.max(at);
            if from >= region.end {
                continue;
            }
            let named = match symbols.len() {
                0..MAX_SYMBOLS => files.region_symbols(region.cookie, from..region.end),
                _ => Vec::new(),
            };
            fill(from..region.end, name, named, &mut symbols);
            at = region.end;
        }
        symbols
    }
}

/// A region's name in reports.
fn shown(name: &[u8], AnonRange { tgid, start, end }: &AnonRange) -> Vec<u8> {
    [name, b" (tgid:", tgid, b" range:", start, b"-", end, b")"].concat()
}

/// Adds the functions in `range`, and `rest` for what is between them.
fn fill(range: Range<u64>, rest: &[u8], mut named: Vec<Symbol>, symbols: &mut Vec<Symbol>) {
    named.sort_by_key(|symbol| symbol.address);
    let mut add = |range: Range<u64>, name: Vec<u8>| {
        symbols.push(Symbol {
            address: range.start,
            size: range.end - range.start,
            kind: SymbolKind::Function,
            name,
        });
    };
    let mut at = range.start;
    let mut named = named.into_iter().peekable();
    while let Some(symbol) = named.next() {
        let start = symbol.address.max(at);
        let next = named.peek().map_or(range.end, |next| next.address);
        let end = match symbol.size {
            0 => next,
            size => symbol.address.saturating_add(size),
        };
        let end = end.min(range.end);
        if start >= end || symbol.name.is_empty() {
            continue;
        }
        if at < start {
            add(at..start, rest.into());
        }
        add(start..end, symbol.name);
        at = end;
    }
    if at < range.end {
        add(at..range.end, rest.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn symbol(address: u64, size: u64, name: &str) -> Symbol {
        Symbol {
            address,
            size,
            kind: SymbolKind::Function,
            name: name.as_bytes().to_vec(),
        }
    }

    fn filled(range: Range<u64>, named: Vec<Symbol>) -> Vec<(u64, u64, String)> {
        let mut symbols = Vec::new();
        fill(range, b"rest", named, &mut symbols);
        let shown = |symbol: Symbol| {
            let name = String::from_utf8(symbol.name).unwrap();
            (symbol.address, symbol.address + symbol.size, name)
        };
        symbols.into_iter().map(shown).collect()
    }

    #[test]
    fn what_belongs_to_no_function_has_the_regions_name() {
        let named = vec![
            symbol(30, 5, "b"),
            symbol(5, 10, "a"),
            symbol(35, 0, "without size"),
            symbol(50, 1, ""),
            symbol(95, 50, "c"),
            symbol(200, 5, "elsewhere"),
        ];
        let expected = [
            (10, 15, "a"),
            (15, 30, "rest"),
            (30, 35, "b"),
            (35, 50, "without size"),
            (50, 95, "rest"),
            (95, 100, "c"),
        ];
        let expected = expected.map(|(start, end, name)| (start, end, name.to_owned()));
        assert_eq!(filled(10..100, named), expected);
        assert_eq!(filled(1..9, Vec::new()), [(1, 9, "rest".to_owned())]);
    }

    proptest! {
        #[test]
        fn each_address_of_a_region_has_one_name(
            named in prop::collection::vec((0u64..120, 0u64..30), 0..20),
        ) {
            let named = named.into_iter().map(|(at, size)| symbol(at, size, "f")).collect();
            let symbols = filled(10..100, named);
            prop_assert_eq!(symbols[0].0, 10);
            prop_assert_eq!(symbols.last().unwrap().1, 100);
            prop_assert!(symbols.windows(2).all(|pair| pair[0].1 == pair[1].0));
        }
    }
}
