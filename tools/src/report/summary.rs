//! One line a program, with a line for each image below it.

use std::cmp::Reverse;
use std::fmt::Write as _;

use oprofile_session::sample_path::ImageName;

use super::Options;
use super::numbers::{format_percent, percent, reaches, sum};
use crate::error::ToolError;
use crate::names::{long_name, printable, short_name};
use crate::profile::{Counts, Selection};

/// Characters of a column's heading, without the bar behind it.
const HEADING: usize = 17;

pub(super) fn write(
    text: &mut String,
    selection: &Selection,
    options: &Options,
) -> Result<(), ToolError> {
    let apps = selection.by_image()?;
    let classes = selection.classes.len();
    let mut rows: Vec<_> = apps
        .iter()
        .map(|(app, images)| (app, images, sum(images.values(), classes)))
        .collect();
    rows.sort_by_key(|(app, _, counts)| (Reverse(counts.clone()), name(app, options)));
    let total = sum(rows.iter().map(|(_, _, counts)| counts), classes);
    headings(text, "", selection, options);
    for (app, images, counts) in rows {
        if !reaches(&counts, &total, options.threshold) {
            continue;
        }
        line(text, "", &counts, &total, &name(app, options));
        // The program alone needs no second line.
        if images.len() == 1 && images.contains_key(app) {
            continue;
        }
        headings(text, "\t", selection, options);
        let mut images: Vec<_> = images.iter().collect();
        images.sort_by_key(|(image, counts)| (Reverse((*counts).clone()), name(image, options)));
        for (image, own) in images {
            line(text, "\t", own, &counts, &name(image, options));
        }
    }
    Ok(())
}

fn name(image: &ImageName, options: &Options) -> String {
    printable(&if options.long_filenames {
        long_name(image)
    } else {
        short_name(image)
    })
}

fn headings(text: &mut String, indent: &str, selection: &Selection, options: &Options) {
    if options.no_header {
        return;
    }
    let headings = selection.classes.headings();
    text.push_str(indent);
    for heading in &headings {
        let mut heading = printable(heading.as_bytes());
        if heading.chars().count() > HEADING {
            heading = heading
                .chars()
                .take(HEADING - 3)
                .chain("...".chars())
                .collect();
        }
        // Infallible for a String, here and below.
        let _ = write!(text, "{heading:>HEADING$}|");
    }
    let _ = writeln!(
        text,
        "\n{indent}{}",
        "  samples|      %|".repeat(headings.len())
    );
    let _ = writeln!(
        text,
        "{indent}{}",
        "-".repeat((HEADING + 1) * headings.len())
    );
}

fn line(text: &mut String, indent: &str, counts: &Counts, total: &Counts, name: &str) {
    text.push_str(indent);
    for (count, total) in counts.iter().zip(total) {
        let _ = write!(
            text,
            "{count:>9} {:>7} ",
            format_percent(percent(*count, *total))
        );
    }
    text.push_str(name);
    text.push('\n');
}
