//! One line a symbol, and below it one a position if they are asked for.

use rayon::prelude::*;

use super::Sink;
use super::columns::Columns;
use super::numbers::{format_percent, percent};
use crate::error::ToolError;
use crate::options::{Kind, Options};
use crate::profile::{Counts, Selection};
use crate::rows::{ImageRows, Row, SymbolRows};

/// Rows that one processor writes at a time.
const CHUNK: usize = 4096;
/// Rows that are looked up together: they lie all over the memory, and so the waits for them overlap.
const LOOK_AHEAD: usize = 16;
/// Chunks that are in memory at a time.
const CHUNKS: usize = 16;

pub(super) fn write(
    selection: &Selection,
    rows: &SymbolRows,
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    let mut columns = Columns::new(selection, options);
    columns.address |= options.kind == Kind::Details;
    for entry in &rows.order {
        let (image, row) = rows.at(*entry);
        let row = &image.rows[row];
        columns.see(row.app as usize, image.image, row.address, options);
    }
    if !options.no_header {
        sink.write(&columns.headings())?;
    }
    let mut sums = vec![0u64; rows.classes];
    for batch in rows.order.chunks(CHUNK * CHUNKS) {
        let mut chunks: Vec<(Counts, &[(u32, u32)])> = Vec::new();
        for chunk in batch.chunks(CHUNK) {
            chunks.push((sums.clone(), chunk));
            if options.accumulated {
                for entry in chunk {
                    let (image, row) = rows.at(*entry);
                    add(&mut sums, image.counts(row, rows.classes));
                }
            }
        }
        let texts: Vec<String> = chunks
            .into_par_iter()
            .map(|(sums, chunk)| chunk_text(rows, &columns, options, sums, chunk))
            .collect();
        for text in texts {
            sink.write(&text)?;
        }
    }
    Ok(())
}

fn add(sums: &mut [u64], counts: &[u64]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}

/// A row, looked up.
struct Shown<'a> {
    image: &'a ImageRows,
    number: usize,
    row: &'a Row,
    counts: &'a [u64],
    name: &'a str,
}

impl<'a> Shown<'a> {
    fn new(rows: &'a SymbolRows, entry: (u32, u32)) -> Self {
        let (image, number) = rows.at(entry);
        let row = &image.rows[number];
        Self {
            image,
            number,
            row,
            counts: image.counts(number, rows.classes),
            name: image.name(row),
        }
    }
}

fn chunk_text(
    rows: &SymbolRows,
    columns: &Columns,
    options: &Options,
    mut sums: Counts,
    chunk: &[(u32, u32)],
) -> String {
    let mut text = String::with_capacity(chunk.len() * 80);
    let mut percents = Percents::default();
    let shown = chunk.chunks(LOOK_AHEAD).flat_map(|entries| {
        let look_up = |entry: &(u32, u32)| Shown::new(rows, *entry);
        entries.iter().map(look_up).collect::<Vec<_>>()
    });
    for Shown {
        image,
        number,
        row,
        counts,
        name,
    } in shown
    {
        if options.accumulated {
            add(&mut sums, counts);
        }
        columns.write_address(&mut text, row.address);
        write_counts(
            &mut text,
            columns,
            &mut percents,
            counts,
            &rows.total,
            &sums,
            &rows.total,
        );
        columns.write_line(&mut text, image.line(number));
        columns.write_names(&mut text, row.app as usize, image.image);
        text.push_str(name);
        text.push('\n');
        if options.kind != Kind::Details {
            continue;
        }
        let total = if options.global_percent {
            &rows.total[..]
        } else {
            counts
        };
        // Within the symbol.
        let mut sums = vec![0u64; rows.classes];
        for (detail, counts) in image.details(number, rows.classes) {
            add(&mut sums, counts);
            text.push_str("  ");
            columns.write_address(&mut text, detail.address);
            write_counts(
                &mut text,
                columns,
                &mut percents,
                counts,
                total,
                &sums,
                total,
            );
            columns.write_line(&mut text, detail.line.as_ref());
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
    }
    text
}

pub(super) fn write_counts(
    text: &mut String,
    columns: &Columns,
    percents: &mut Percents,
    counts: &[u64],
    total: &[u64],
    sums: &[u64],
    sums_total: &[u64],
) {
    for (class, (count, total)) in counts.iter().zip(total).enumerate() {
        let accumulated = columns.accumulated.then(|| {
            let sum = sums.get(class).copied().unwrap_or(0);
            let total = sums_total.get(class).copied().unwrap_or(0);
            (sum, format_percent(percent(sum, total)))
        });
        columns.write_count(text, *count, percents.text(*count, *total), accumulated);
    }
}

/// Remembers the last percentage: rows are sorted by count, and many have the same.
#[derive(Debug, Default)]
pub(super) struct Percents {
    of: (u64, u64),
    text: String,
}

impl Percents {
    fn text(&mut self, count: u64, total: u64) -> &str {
        if self.text.is_empty() || self.of != (count, total) {
            self.of = (count, total);
            self.text = format_percent(percent(count, total));
        }
        &self.text
    }
}
