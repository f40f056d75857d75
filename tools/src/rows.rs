//! One row a symbol, for all images at once: names and numbers only, so that millions fit.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::demangle::demangle;
use crate::error::ToolError;
use crate::lines::SourceLine;
use crate::names::printable;
use crate::options::{Kind, Options, SortKey};
use crate::profile::{Counts, ImageId, ImageProfile, Selection};
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

impl SymbolRows {
    /// Reads all images, on all processors. What of an image is not in a row is dropped before the next is read.
    pub fn read(selection: &Selection, options: &Options, raw: bool) -> Result<Self, ToolError> {
        let classes = selection.classes.len();
        let images = (0..selection.images.len())
            .into_par_iter()
            .filter(|image| !selection.files_of(*image).is_empty())
            .map(|image| {
                let profile = selection.read_image(image)?;
                image_rows(&profile, options, classes, raw)
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
        let mut order = Vec::new();
        for (image, rows) in (0u32..).zip(&self.images) {
            for row in 0..rows.rows.len() {
                if shown(rows.counts(row, self.classes), &self.total) {
                    order.push((image, u32::try_from(row).unwrap_or(u32::MAX)));
                }
            }
        }
        let paths: Vec<Vec<u8>> = (0..selection.images.len())
            .map(|image| crate::names::sort_name(selection, image, options.long_filenames))
            .collect();
        let mut keys = options.sort.clone();
        for last in [
            SortKey::Sample,
            SortKey::AppName,
            SortKey::Image,
            SortKey::Vma,
            SortKey::Symbol,
        ] {
            if !keys.contains(&last) {
                keys.push(last);
            }
        }
        let this = &*self;
        order.par_sort_unstable_by(|a, b| {
            let order = keys
                .iter()
                .map(|key| this.compare(*a, *b, *key, &paths))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
                // Two classes may tell rows apart that the first does not; the position decides at last.
                .then_with(|| a.cmp(b));
            if options.reverse {
                order.reverse()
            } else {
                order
            }
        });
        self.order = order;
    }

    /// The image's rows and the row's number of an entry of [`SymbolRows::order`].
    pub fn at(&self, entry: (u32, u32)) -> (&ImageRows, usize) {
        (&self.images[entry.0 as usize], entry.1 as usize)
    }

    fn compare(&self, a: (u32, u32), b: (u32, u32), key: SortKey, paths: &[Vec<u8>]) -> Ordering {
        let ((image_a, row_a), (image_b, row_b)) = (self.at(a), self.at(b));
        let (x, y) = (&image_a.rows[row_a], &image_b.rows[row_b]);
        match key {
            SortKey::Vma => x.address.cmp(&y.address),
            SortKey::Sample => image_b
                .counts(row_b, self.classes)
                .first()
                .cmp(&image_a.counts(row_a, self.classes).first()),
            SortKey::Image => paths[image_a.image].cmp(&paths[image_b.image]),
            SortKey::AppName => paths[x.app as usize].cmp(&paths[y.app as usize]),
            SortKey::Symbol => image_a.name(x).cmp(image_b.name(y)),
            SortKey::Debug => image_a.line(row_a).cmp(&image_b.line(row_b)),
        }
    }
}

fn image_rows(
    profile: &ImageProfile,
    options: &Options,
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
                    let shown = match std::str::from_utf8(&name) {
                        Ok(name) if symbol.is_some() => {
                            printable(demangle(name, options.demangle).as_bytes())
                        }
                        _ => printable(&name),
                    };
                    let place = (short(rows.names.len())?, short(shown.len())?);
                    rows.names.push_str(&shown);
                    if many_apps {
                        named.insert(samples.symbol, place);
                    }
                    place
                }
            };
            if raw {
                rows.raw_names.push(name);
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
