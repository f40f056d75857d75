//! One row a symbol, for all images at once: names and numbers only, so that millions fit.

use std::cmp::{Ordering, Reverse};
use std::ops::Range;

use rayon::prelude::*;

use crate::error::ToolError;
use crate::lines::SourceLine;
use crate::names::{printable, sort_name};
use crate::options::{Kind, Options, SortKey};
use crate::profile::{Counts, ImageId, ImageProfile, Selection};
use crate::shown_names::ShownNames;
use crate::symbols::CodeSymbol;

/// The rows of one image.
#[derive(Debug, Default)]
pub struct ImageRows {
    /// The image.
    pub image: ImageId,
    /// By program, then address.
    pub rows: Vec<Row>,
    /// Of each row, as many as there are classes.
    counts: Vec<u64>,
    /// Shown names of all symbols, one behind the other.
    names: String,
    /// Names as in the symbol table; only when asked for.
    raw_names: Vec<Vec<u8>>,
    /// Source line of each row; only when asked for.
    lines: Vec<Option<SourceLine>>,
    details: Vec<Detail>,
    detail_counts: Vec<u64>,
    /// What the user ought to know about the binary.
    pub warning: Option<String>,
}

/// A symbol of one program.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The program.
    pub app: u32,
    name_start: u32,
    name_length: u32,
    /// The first of [`ImageRows`]' details that is behind this row's.
    details_end: u32,
    /// Address of the symbol.
    pub address: u64,
}

/// A position in a symbol.
#[derive(Debug, Clone)]
pub struct Detail {
    /// Its address.
    pub address: u64,
    /// Its line, when asked for.
    pub line: Option<SourceLine>,
}

impl ImageRows {
    /// The counts of a row.
    pub fn counts(&self, row: usize, classes: usize) -> &[u64] {
        let from = row.saturating_mul(classes);
        self.counts.get(from..from + classes).unwrap_or_default()
    }

    /// The shown name of a row's symbol.
    pub fn name(&self, row: &Row) -> &str {
        let start = row.name_start as usize;
        self.names
            .get(start..start + row.name_length as usize)
            .unwrap_or_default()
    }

    /// The name of a row's symbol as in the symbol table, if they were kept.
    pub fn raw_name(&self, row: usize) -> &[u8] {
        self.raw_names
            .get(row)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// The source line of a row's symbol.
    pub fn line(&self, row: usize) -> Option<&SourceLine> {
        self.lines.get(row)?.as_ref()
    }

    /// The positions in a row's symbol with their counts.
    pub fn details(&self, row: usize, classes: usize) -> impl Iterator<Item = (&Detail, &[u64])> {
        let end = |row: usize| self.rows.get(row).map_or(0, |row| row.details_end as usize);
        let range = row.checked_sub(1).map_or(0, end)..end(row);
        range.filter_map(move |index| {
            let from = index * classes;
            Some((
                self.details.get(index)?,
                self.detail_counts.get(from..from + classes)?,
            ))
        })
    }
}

/// All rows of a report and the order they are shown in.
#[derive(Debug)]
pub struct SymbolRows {
    /// By image.
    pub images: Vec<ImageRows>,
    /// Image (an index into `images`) and row.
    pub order: Vec<(u32, u32)>,
    /// Sum over all rows, also those that are not shown.
    pub total: Counts,
    /// Number of classes.
    pub classes: usize,
}

/// What decides between rows of the same count.
const NATURAL: [SortKey; 4] = [
    SortKey::AppName,
    SortKey::Image,
    SortKey::Vma,
    SortKey::Symbol,
];

impl SymbolRows {
    /// Reads all images, on all processors. What of an image is not in a row is dropped before the next is read.
    pub fn read(selection: &Selection, options: &Options, raw: bool) -> Result<Self, ToolError> {
        let classes = selection.classes.len();
        let shown = ShownNames::new(options.demangle);
        selection.progress.expect(selection.files.len());
        let images = (0..selection.images.len())
            .into_par_iter()
            .filter(|image| !selection.files_of(*image).is_empty())
            .map(|image| {
                let profile = selection.read_image(image)?;
                image_rows(&profile, options, &shown, classes, raw)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut total = vec![0u64; classes];
        for image in &images {
            for row in image.counts.chunks_exact(classes.max(1)) {
                for (sum, count) in total.iter_mut().zip(row) {
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        Ok(Self {
            images,
            order: Vec::new(),
            total,
            classes,
        })
    }

    /// Decides which rows are shown, and in which order.
    pub fn arrange(
        &mut self,
        selection: &Selection,
        options: &Options,
        shown: impl Fn(&[u64], &Counts) -> bool,
    ) {
        let ranks = ranks(selection, options.long_filenames);
        let natural = self.natural_order(&ranks, shown);
        let mut keys = options.sort.clone();
        for last in [SortKey::Sample].iter().chain(&NATURAL) {
            if !keys.contains(last) {
                keys.push(*last);
            }
        }
        keys.truncate(keys.len() - natural_tail(&keys));
        // Many rows have the same count: what decides then is beside it, not in three other places.
        let mut order: Vec<(u64, u32)> = natural
            .iter()
            .zip(0..)
            .map(|(entry, place)| {
                let (image, row) = self.at(*entry);
                let count = image.counts(row, self.classes).first().copied();
                (count.unwrap_or(0), place)
            })
            .collect();
        if keys == [SortKey::Sample] {
            order.par_sort_unstable_by_key(|(count, place)| (Reverse(*count), *place));
        } else {
            let this = &*self;
            order.par_sort_unstable_by(|a, b| {
                keys.iter()
                    .map(|key| match key {
                        SortKey::Sample => b.0.cmp(&a.0),
                        key => {
                            let [a, b] = [a, b].map(|entry| natural[entry.1 as usize]);
                            this.compare(a, b, *key, &ranks)
                        }
                    })
                    .find(|order| order.is_ne())
                    .unwrap_or_else(|| a.1.cmp(&b.1))
            });
        }
        // No two rows are equal, so this is the order by everything reversed.
        if options.reverse {
            order.reverse();
        }
        self.order = order
            .into_iter()
            .map(|(_, place)| natural[place as usize])
            .collect();
    }

    /// All rows that are shown in the order of [`NATURAL`]. Most of that is what they lie in: of one image and program they
    /// are sorted by address.
    fn natural_order(
        &self,
        ranks: &[usize],
        shown: impl Fn(&[u64], &Counts) -> bool,
    ) -> Vec<(u32, u32)> {
        let mut runs: Vec<(usize, usize, u32, Range<usize>)> = Vec::new();
        for (image, rows) in (0u32..).zip(&self.images) {
            let mut start = 0;
            for run in rows.rows.chunk_by(|a, b| a.app == b.app) {
                let app = run.first().map_or(0, |row| row.app as usize);
                let end = start + run.len();
                runs.push((ranks[app], ranks[rows.image], image, start..end));
                start = end;
            }
        }
        runs.sort_unstable_by_key(|(app, image, index, rows)| (*app, *image, *index, rows.start));
        let mut natural: Vec<(u32, u32)> = Vec::new();
        for runs in runs.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let from = natural.len();
            for (_, _, image, rows) in runs {
                let counts = |row| self.images[*image as usize].counts(row, self.classes);
                natural.extend(
                    (rows.clone())
                        .filter(|row| shown(counts(*row), &self.total))
                        .map(|row| (*image, u32::try_from(row).unwrap_or(u32::MAX))),
                );
            }
            // Images of one name, and files whose sections lie in another order than their addresses.
            let same_names = &mut natural[from..];
            let compare = |a: &(u32, u32), b: &(u32, u32)| {
                self.compare(*a, *b, SortKey::Vma, ranks)
                    .then_with(|| self.compare(*a, *b, SortKey::Symbol, ranks))
                    // Rows that nothing tells apart keep the order of the images.
                    .then_with(|| a.cmp(b))
            };
            if !same_names.is_sorted_by(|a, b| compare(a, b).is_lt()) {
                same_names.par_sort_unstable_by(compare);
            }
        }
        natural
    }

    /// The image's rows and the row's number of an entry of [`SymbolRows::order`].
    pub fn at(&self, entry: (u32, u32)) -> (&ImageRows, usize) {
        (&self.images[entry.0 as usize], entry.1 as usize)
    }

    fn compare(&self, a: (u32, u32), b: (u32, u32), key: SortKey, ranks: &[usize]) -> Ordering {
        let ((image_a, row_a), (image_b, row_b)) = (self.at(a), self.at(b));
        let (x, y) = (&image_a.rows[row_a], &image_b.rows[row_b]);
        match key {
            SortKey::Vma => x.address.cmp(&y.address),
            SortKey::Sample => image_b
                .counts(row_b, self.classes)
                .first()
                .cmp(&image_a.counts(row_a, self.classes).first()),
            SortKey::Image => ranks[image_a.image].cmp(&ranks[image_b.image]),
            SortKey::AppName => ranks[x.app as usize].cmp(&ranks[y.app as usize]),
            SortKey::Symbol => image_a.name(x).cmp(image_b.name(y)),
            SortKey::Debug => image_a.line(row_a).cmp(&image_b.line(row_b)),
        }
    }
}

/// The places of all images in the order of their names; those of one name have the same.
fn ranks(selection: &Selection, long: bool) -> Vec<usize> {
    let names: Vec<Vec<u8>> = (0..selection.images.len())
        .map(|image| sort_name(selection, image, long))
        .collect();
    let mut sorted: Vec<&Vec<u8>> = names.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    names
        .iter()
        .map(|name| sorted.binary_search(&name).unwrap_or(usize::MAX))
        .collect()
}

/// How many keys at the end of `keys` are in the order of [`NATURAL`], with everything that is left out decided before them.
fn natural_tail(keys: &[SortKey]) -> usize {
    let place = |key: &SortKey| NATURAL.iter().position(|other| other == key);
    let mut next = NATURAL.len();
    keys.iter()
        .rev()
        .take_while(|key| match place(key) {
            Some(place) if place < next => {
                next = place;
                true
            }
            _ => false,
        })
        .count()
}

fn image_rows(
    profile: &ImageProfile,
    options: &Options,
    shown: &ShownNames,
    classes: usize,
    raw: bool,
) -> Result<ImageRows, ToolError> {
    let mut rows = ImageRows {
        image: profile.image,
        warning: profile.symbols.warning.clone(),
        ..ImageRows::default()
    };
    // Only --debug-info has lines read: without it --sort=debug finds none, as in OProfile.
    let want_lines = options.debug_info;
    let lines = want_lines.then(|| profile.symbols.load_lines()).flatten();
    let line_of = |symbol: Option<&CodeSymbol>, address: u64| {
        profile.symbols.line(lines.as_ref()?, symbol?, address)
    };
    // Symbols keep their place in the names from one program to the next.
    let mut named: std::collections::HashMap<Option<usize>, (u32, u32)> =
        std::collections::HashMap::new();
    let many_apps = profile.apps.len() > 1;
    for app in &profile.apps {
        for samples in &app.symbols {
            let symbol = profile.symbols.symbol(samples.symbol);
            let name = profile.symbols.name(symbol);
            if !options.filter.is_empty() && !options.filter.selects(&name) {
                continue;
            }
            let known = if many_apps {
                named.get(&samples.symbol).copied()
            } else {
                None
            };
            let (name_start, name_length) = match known {
                Some(place) => place,
                None => {
                    let start = rows.names.len();
                    match symbol {
                        Some(_) => shown.push(&mut rows.names, &name),
                        None => rows.names.push_str(&printable(&name)),
                    }
                    let place = (short(start)?, short(rows.names.len() - start)?);
                    if many_apps {
                        named.insert(samples.symbol, place);
                    }
                    place
                }
            };
            if raw {
                rows.raw_names.push(name.into_owned());
            }
            let address = symbol.map_or(0, |symbol| symbol.address);
            if want_lines {
                rows.lines.push(line_of(symbol, address));
            }
            if options.kind == Kind::Details {
                for sample in samples.samples.clone() {
                    let position = app.counts.positions[sample];
                    let address = profile.symbols.address(symbol, position);
                    rows.details.push(Detail {
                        address,
                        line: line_of(symbol, address),
                    });
                    rows.detail_counts
                        .extend_from_slice(app.counts.counts(sample));
                }
            }
            rows.counts.extend_from_slice(&samples.counts);
            rows.rows.push(Row {
                app: short(app.app)?,
                name_start,
                name_length,
                details_end: short(rows.details.len())?,
                address,
            });
        }
    }
    debug_assert_eq!(rows.counts.len(), rows.rows.len() * classes);
    rows.names.shrink_to_fit();
    rows.rows.shrink_to_fit();
    rows.counts.shrink_to_fit();
    Ok(rows)
}

fn short(number: usize) -> Result<u32, ToolError> {
    u32::try_from(number).map_err(|_| ToolError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_the_natural_order_decides_are_not_compared() {
        use SortKey::{AppName, Image, Sample, Symbol, Vma};
        for (keys, expected) in [
            (&[Sample, AppName, Image, Vma, Symbol][..], 4),
            (&[Vma, Sample, AppName, Image, Symbol], 3),
            (&[Symbol, Sample, AppName, Image, Vma], 3),
            (&[AppName, Image, Vma, Symbol, Sample], 0),
            // The image comes before the program, so only what follows the program is decided.
            (&[Image, AppName, Sample, Vma, Symbol], 2),
            (&[Sample, Image, AppName, Vma, Symbol], 3),
        ] {
            assert_eq!(natural_tail(keys), expected, "{keys:?}");
        }
    }
}
