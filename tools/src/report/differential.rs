//! What changed from one profile to another: one line a symbol.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::columns::Columns;
use super::numbers::{format_percent, percent};
use super::{Sink, tell_images};
use crate::error::ToolError;
use crate::options::{Options, SortKey};
use crate::profile::{ImageId, Selection};
use crate::rows::SymbolRows;

/// A symbol that is in one of the profiles or in both.
struct Row<'a> {
    counts: &'a [u64],
    /// Counts in the earlier profile; `None` when it is new.
    before: Option<&'a [u64]>,
    vanished: bool,
    app: ImageId,
    image: ImageId,
    address: u64,
    name: &'a str,
    line: Option<&'a crate::lines::SourceLine>,
}

/// What makes a symbol the same one in both profiles. The number tells symbols of one name apart, by their addresses.
type Key<'a> = (Vec<u8>, Vec<u8>, &'a [u8], u32);

pub(super) fn write(
    before_selection: &Selection,
    after_selection: &Selection,
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    if before_selection.classes.len() != after_selection.classes.len() {
        return Err(ToolError::Usage(
            "different profiles must have the same number of columns; use --merge".to_owned(),
        ));
    }
    let before = SymbolRows::read(before_selection, options, true)?;
    let after = SymbolRows::read(after_selection, options, true)?;
    tell_images(before_selection, &before, sink);
    tell_images(after_selection, &after, sink);
    let classes = after.classes;
    let mut known: HashMap<Key<'_>, (usize, usize)> =
        keys(before_selection, &before).into_iter().collect();
    let mut rows: Vec<Row<'_>> = Vec::new();
    for (key, (image, row)) in keys(after_selection, &after) {
        let image = &after.images[image];
        let counts = image.counts(row, classes);
        let was = known
            .remove(&key)
            .map(|(image, row)| before.images[image].counts(row, classes));
        let changes = counts.iter().enumerate().any(|(class, count)| {
            let was = was.map(|was| {
                percent(
                    was.get(class).copied().unwrap_or(0),
                    before.total.get(class).copied().unwrap_or(0),
                )
            });
            let now = percent(*count, after.total.get(class).copied().unwrap_or(0));
            // The threshold is one of the change; what is new has no other measure than being there.
            relative(was, now).is_none_or(|change| change.abs() >= options.threshold)
        });
        if changes {
            rows.push(Row {
                counts,
                before: was,
                vanished: false,
                app: image.rows[row].app as usize,
                image: image.image,
                address: image.rows[row].address,
                name: image.name(&image.rows[row]),
                line: image.line(row),
            });
        }
    }
    for (image, row) in known.into_values() {
        let image = &before.images[image];
        let counts = image.counts(row, classes);
        rows.push(Row {
            counts,
            before: None,
            vanished: true,
            app: image.rows[row].app as usize,
            image: image.image,
            address: image.rows[row].address,
            name: image.name(&image.rows[row]),
            line: image.line(row),
        });
    }
    let name_of = |row: &Row<'_>, image: ImageId| {
        let selection = if row.vanished {
            before_selection
        } else {
            after_selection
        };
        crate::names::sort_name(selection, image, options.long_filenames)
    };
    rows.sort_by_cached_key(|row| {
        let mut key: Vec<SortPart> = options
            .sort
            .iter()
            .map(|key| sort_part(row, *key, &name_of))
            .collect();
        for last in [
            SortKey::Sample,
            SortKey::AppName,
            SortKey::Image,
            SortKey::Vma,
            SortKey::Symbol,
        ] {
            key.push(sort_part(row, last, &name_of));
        }
        key
    });
    if options.reverse {
        rows.reverse();
    }
    let mut columns = Columns::new(after_selection, options);
    let mut before_columns = Columns::new(before_selection, options);
    columns.difference = true;
    columns.app |= before_columns.app;
    for row in &rows {
        columns.see(row.app, row.image, row.address, options);
    }
    (before_columns.image, before_columns.app) = (columns.image, columns.app);
    if !options.no_header {
        sink.write(&columns.headings())?;
    }
    let mut text = String::new();
    for row in &rows {
        columns.write_address(&mut text, row.address);
        for (class, count) in row.counts.iter().enumerate() {
            let total = after.total.get(class).copied().unwrap_or(0);
            if row.vanished {
                columns.write_difference(&mut text, *count, "---", "---");
                continue;
            }
            let now = percent(*count, total);
            let was = row.before.map(|counts| {
                percent(
                    counts.get(class).copied().unwrap_or(0),
                    before.total.get(class).copied().unwrap_or(0),
                )
            });
            columns.write_difference(&mut text, *count, &format_percent(now), &change(was, now));
        }
        columns.write_line(&mut text, row.line);
        if row.vanished {
            before_columns.write_names(&mut text, row.app, row.image);
        } else {
            columns.write_names(&mut text, row.app, row.image);
        }
        text.push_str(row.name);
        text.push('\n');
    }
    sink.write(&text)
}

/// The change from one percentage to another, in percent of the first. `None` when there was nothing.
fn relative(was: Option<f64>, now: f64) -> Option<f64> {
    was.filter(|was| *was > 0.0)
        .map(|was| (now - was) / was * 100.0)
}

fn change(was: Option<f64>, now: f64) -> String {
    match relative(was, now) {
        Some(0.0) => "0".to_owned(),
        Some(change) => format!("{change:+.4}"),
        None => "+++".to_owned(),
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortPart {
    Number(u64),
    Largest(Reverse<u64>),
    Name(Vec<u8>),
    Line(Option<crate::lines::SourceLine>),
}

fn sort_part(
    row: &Row<'_>,
    key: SortKey,
    name_of: &impl Fn(&Row<'_>, ImageId) -> Vec<u8>,
) -> SortPart {
    match key {
        SortKey::Vma => SortPart::Number(row.address),
        SortKey::Sample => SortPart::Largest(Reverse(row.counts.first().copied().unwrap_or(0))),
        SortKey::Image => SortPart::Name(name_of(row, row.image)),
        SortKey::AppName => SortPart::Name(name_of(row, row.app)),
        SortKey::Symbol => SortPart::Name(row.name.as_bytes().to_vec()),
        SortKey::Debug => SortPart::Line(row.line.cloned()),
    }
}

fn keys<'a>(selection: &Selection, rows: &'a SymbolRows) -> Vec<(Key<'a>, (usize, usize))> {
    let mut numbers: HashMap<Key<'a>, u32> = HashMap::new();
    let mut keys = Vec::new();
    for (index, image) in rows.images.iter().enumerate() {
        for (number, row) in image.rows.iter().enumerate() {
            let mut key: Key<'a> = (
                selection.images[row.app as usize].long_name(),
                selection.images[image.image].long_name(),
                image.raw_name(number),
                0,
            );
            let same = numbers.entry(key.clone()).or_default();
            key.3 = *same;
            *same += 1;
            keys.push((key, (index, number)));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_is_relative_to_the_earlier_percentage() {
        for (was, now, text) in [
            (Some(10.0), 15.0, "+50.0000"),
            (Some(10.0), 5.0, "-50.0000"),
            (Some(0.0), 5.0, "+++"),
            (None, 5.0, "+++"),
        ] {
            assert_eq!(change(was, now), text);
        }
    }
}
