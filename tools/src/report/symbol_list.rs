//! One line a symbol.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use oprofile_session::sample_path::ImageName;

use super::Options;
use super::numbers::{format_percent, percent, reaches, sum};
use crate::demangle::demangle;
use crate::names::{printable, short_name};
use crate::profile::{Selection, SymbolProfile, SymbolRow};

/// Width of the columns with numbers.
const NUMBER: usize = 9;
/// Width of the columns with names.
const NAME: usize = 25;

struct Row<'a> {
    row: &'a SymbolRow,
    name: String,
    address: u64,
}

pub(super) fn write(
    text: &mut String,
    selection: &Selection,
    profile: &SymbolProfile,
    options: &Options,
) {
    let classes = selection.classes.len();
    let total = sum(profile.rows.iter().map(|row| &row.counts), classes);
    let mut rows: Vec<Row<'_>> = profile
        .rows
        .iter()
        .filter(|row| reaches(&row.counts, &total, options.threshold))
        .map(|row| {
            let (name, address) = profile.symbol(row);
            let name = match std::str::from_utf8(&name) {
                Ok(name) => printable(demangle(name, options.demangle).as_bytes()),
                Err(_) => printable(&name),
            };
            Row { row, name, address }
        })
        .collect();
    rows.sort_by(|a, b| {
        Reverse(&a.row.counts)
            .cmp(&Reverse(&b.row.counts))
            .then_with(|| {
                (&a.row.app, &a.row.image, a.address, &a.name).cmp(&(
                    &b.row.app,
                    &b.row.image,
                    b.address,
                    &b.name,
                ))
            })
    });
    let show_image = rows
        .iter()
        .any(|row| row.row.app != row.row.image && !options.merge.lib);
    let show_app = selection.many_apps();
    let digits = if rows.iter().any(|row| row.address > u64::from(u32::MAX)) {
        16
    } else {
        8
    };
    let shown_name = |image: &ImageName| {
        if options.long_filenames {
            printable(selection.path(image).as_os_str().as_bytes())
        } else {
            printable(&short_name(image))
        }
    };
    if !options.no_header {
        let mut line = String::new();
        if options.show_address {
            cell(&mut line, "vma", NUMBER);
        }
        for _ in 0..classes {
            cell(&mut line, "samples", NUMBER);
            cell(&mut line, "%", NUMBER);
        }
        if show_image {
            cell(&mut line, "image name", NAME);
        }
        if show_app {
            cell(&mut line, "app name", NAME);
        }
        line.push_str("symbol name");
        text.push_str(&line);
        text.push('\n');
    }
    for Row { row, name, address } in &rows {
        if options.show_address {
            cell(text, &format!("{address:0digits$x}"), NUMBER);
        }
        for (count, total) in row.counts.iter().zip(&total) {
            cell(text, &count.to_string(), NUMBER);
            cell(
                text,
                &format!("{:>7}", format_percent(percent(*count, *total))),
                NUMBER,
            );
        }
        if show_image {
            cell(text, &shown_name(&row.image), NAME);
        }
        if show_app {
            cell(text, &shown_name(&row.app), NAME);
        }
        text.push_str(name);
        text.push('\n');
    }
}

/// A cell of the given width; what is wider is followed by one blank.
fn cell(line: &mut String, content: &str, width: usize) {
    // Infallible for a String.
    let _ = write!(line, "{content:<width$}");
    if content.chars().count() >= width {
        line.push(' ');
    }
}
