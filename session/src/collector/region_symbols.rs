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

/// Functions in one file from which on code is called by its region: some 200 MiB while the file is made, besides their names.
const MAX_SYMBOLS: usize = 1 << 20;

/// Bytes of functions' names in one file from which on it is so, too. A name counts for each piece of its function: one that others are
/// written into has many. A Java server of 50,000 methods has 5 MiB.
const MAX_NAME_BYTES: usize = 64 * 1024 * 1024;

/// Files that have been written, and a digest of what each is about.
#[derive(Debug, Default)]
pub(super) struct RegionSymbols {
    written: HashMap<PathBuf, u64>,
}

/// Regions by their first and last address, each with its name in reports.
type Regions<'a> = BTreeMap<(u64, u64), (&'a Region, Vec<u8>)>;

/// The regions of one file.
struct Group<'a> {
    /// A sample file of one of them.
    file: FileKey,
    regions: Regions<'a>,
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
                        regions: Regions::new(),
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
                symbols: symbols(&group.regions, files),
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
}

/// Symbols that leave no address of the regions out: report tools give code to the symbol before it, whatever its size, so
/// what belongs to no function is called by its region's name, as it would be without this file.
fn symbols(regions: &Regions<'_>, files: &dyn GuestFiles) -> Vec<Symbol> {
    // Regions overlap when one has grown or was split: those of which nothing is known get what is left.
    let (known, others): (Vec<_>, Vec<_>) = regions
        .values()
        .partition(|(region, _)| files.region_version(region.cookie) != 0);
    let mut symbols = Vec::new();
    let mut taken: Vec<Range<u64>> = Vec::new();
    let mut name_bytes = 0;
    let mut at = 0;
    for (region, name) in known {
        let from = region.start.max(at);
        if from >= region.end {
            continue;
        }
        let room = MAX_SYMBOLS.saturating_sub(symbols.len());
        let named = match room {
            0 => Vec::new(),
            _ if name_bytes > MAX_NAME_BYTES => Vec::new(),
            _ => files.region_symbols(region.cookie, from..region.end),
        };
        let fits = |symbol: &Symbol| {
            name_bytes += symbol.name.len();
            name_bytes <= MAX_NAME_BYTES
        };
        let named = named.into_iter().take(room).take_while(fits).collect();
        fill(from..region.end, name, named, &mut symbols);
        taken.push(from..region.end);
        at = region.end;
    }
    let mut at = 0;
    for (region, name) in others {
        let mut from = region.start.max(at);
        at = at.max(region.end);
        let first = taken.partition_point(|taken| taken.end <= from);
        for taken in &taken[first..] {
            if taken.start >= region.end {
                break;
            }
            fill(from..taken.start, name, Vec::new(), &mut symbols);
            from = taken.end;
        }
        fill(from..region.end, name, Vec::new(), &mut symbols);
    }
    symbols
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
        symbols.into_iter().map(shown).collect()
    }

    fn shown(symbol: Symbol) -> (u64, u64, String) {
        let name = String::from_utf8(symbol.name).unwrap();
        (symbol.address, symbol.address + symbol.size, name)
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

    /// Regions by their cookies: first and last address, and the functions that are known of it, if any are.
    struct Known(Vec<(Range<u64>, Option<Vec<Symbol>>)>);

    impl GuestFiles for Known {
        fn open(&self, _: &[u8]) -> Option<crate::guest::GuestFile<'_>> {
            None
        }

        fn region_version(&self, cookie: u64) -> u64 {
            u64::from(self.of(cookie).is_some())
        }

        fn region_symbols(&self, cookie: u64, _: Range<u64>) -> Vec<Symbol> {
            self.of(cookie).cloned().unwrap_or_default()
        }
    }

    impl Known {
        fn of(&self, cookie: u64) -> Option<&Vec<Symbol>> {
            self.0[usize::try_from(cookie).unwrap()].1.as_ref()
        }

        /// What the file says, by addresses. A region without a function is called by its cookie.
        fn symbols(&self) -> Vec<(u64, u64, String)> {
            let region = |(cookie, (range, _)): (u64, &(Range<u64>, _))| Region {
                start: range.start,
                end: range.end,
                cookie,
            };
            let regions: Vec<Region> = (0..).zip(&self.0).map(region).collect();
            let by_addresses = regions.iter().map(|region| {
                let name = format!("region {}", region.cookie);
                ((region.start, region.end), (region, name.into_bytes()))
            });
            let symbols = symbols(&by_addresses.collect(), self);
            let mut symbols: Vec<_> = symbols.into_iter().map(shown).collect();
            symbols.sort();
            symbols
        }
    }

    #[test]
    fn regions_of_which_nothing_is_known_take_no_names_from_others() {
        let function = |start| Some(vec![symbol(start, 5, "f")]);
        let known = Known(vec![
            (0..100, None),
            (20..40, function(25)),
            (60..80, function(60)),
            (70..120, None),
        ]);
        let expected = [
            (0, 20, "region 0"),
            (20, 25, "region 1"),
            (25, 30, "f"),
            (30, 40, "region 1"),
            (40, 60, "region 0"),
            (60, 65, "f"),
            (65, 80, "region 2"),
            (80, 100, "region 0"),
            (100, 120, "region 3"),
        ];
        let expected = expected.map(|(start, end, name)| (start, end, name.to_owned()));
        assert_eq!(known.symbols(), expected);
    }

    #[test]
    fn names_of_one_file_have_a_bound_and_the_rest_has_its_regions() {
        let name = "f".repeat(MAX_NAME_BYTES / 8);
        let functions = |start: u64| (start..start + 10).map(|at| symbol(at, 1, &name));
        let known = Known(vec![
            (0..20, Some(functions(0).collect())),
            (20..40, Some(functions(20).collect())),
        ]);
        let symbols = known.symbols();
        let (named, rest): (Vec<_>, Vec<_>) = symbols
            .into_iter()
            .partition(|(_, _, name)| name.starts_with('f'));
        assert_eq!(named.len(), 8);
        let expected = [(8, 20, "region 0"), (20, 40, "region 1")];
        let expected = expected.map(|(start, end, name)| (start, end, name.to_owned()));
        assert_eq!(rest, expected);
    }

    proptest! {
        #[test]
        fn each_address_of_regions_that_overlap_has_one_name(
            regions in prop::collection::btree_map(
                0u64..60, (1u64..30, any::<bool>()), 1..12,
            ),
        ) {
            let region = |(start, (size, is_known)): (&u64, &(u64, bool))| {
                let functions = is_known.then(|| vec![symbol(*start, 1, "f")]);
                (*start..start + size, functions)
            };
            let known = Known(regions.iter().map(region).collect());
            let symbols = known.symbols();
            for address in 0..100 {
                let holds = |range: &Range<u64>| range.contains(&address);
                let names: Vec<_> = symbols
                    .iter()
                    .filter(|(start, end, _)| holds(&(*start..*end)))
                    .map(|(_, _, name)| &name[..])
                    .collect();
                let of = |is_known| {
                    let mut regions = known.0.iter();
                    regions.any(|(range, found)| holds(range) && found.is_some() == is_known)
                };
                prop_assert_eq!(names.len(), usize::from(of(true) || of(false)));
                if of(true) {
                    let number = names[0].strip_prefix("region ").map(|text| text.parse::<usize>());
                    prop_assert!(number.is_none_or(|number| known.0[number.unwrap()].1.is_some()));
                }
            }
        }

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
