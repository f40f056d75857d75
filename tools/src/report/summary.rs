//! One line a program, with a line for each image below it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use oprofile_session::sample_file::read_total;
use rayon::prelude::*;

use super::numbers::{format_percent, percent, reaches, sum};
use super::{Options, by_name};
use crate::error::ToolError;
use crate::names::printable;
use crate::profile::{Counts, ImageId, Selection};

/// Characters of a column's heading, without the bar behind it.
const HEADING: usize = 17;

/// All programs, in the order they are shown in.
pub(super) struct Programs {
    pub apps: Vec<AppCounts>,
    /// Sum over all of them, by class.
    pub total: Counts,
    /// Shown names of all images.
    names: Vec<String>,
}

impl Programs {
    /// Reads the totals of all files.
    pub fn read(selection: &Selection, options: &Options) -> Result<Self, ToolError> {
        let mut apps: Vec<AppCounts> = by_image(selection)?;
        let names: Vec<String> = (0..selection.images.len())
            .map(|image| {
                let image = &selection.images[image];
                printable(&if options.long_filenames {
                    image.long_name()
                } else {
                    image.short_name()
                })
            })
            .collect();
        let order = |image: ImageId, counts: &Counts| {
            let count = if by_name(options) {
                Counts::new()
            } else {
                counts.clone()
            };
            (Reverse(count), names[image].clone(), image)
        };
        apps.sort_by_cached_key(|app| order(app.app, &app.counts));
        for app in &mut apps {
            app.images
                .sort_by_cached_key(|(image, counts)| order(*image, counts));
            if options.reverse {
                app.images.reverse();
            }
        }
        if options.reverse {
            apps.reverse();
        }
        let total = sum(apps.iter().map(|app| &app.counts), selection.classes.len());
        Ok(Self { apps, total, names })
    }
}

pub(super) fn write(
    text: &mut String,
    selection: &Selection,
    programs: &Programs,
    options: &Options,
) {
    let Programs { apps, total, names } = programs;
    headings(text, "", selection, options);
    for app in apps {
        if !reaches(&app.counts, total, options.threshold) {
            continue;
        }
        line(text, "", &app.counts, total, &names[app.app]);
        // The program alone needs no second line.
        if let [(image, _)] = &app.images[..]
            && *image == app.app
        {
            continue;
        }
        headings(text, "\t", selection, options);
        for (image, own) in &app.images {
            line(text, "\t", own, &app.counts, &names[*image]);
        }
    }
}

/// A program and the images it used.
pub(super) struct AppCounts {
    pub app: ImageId,
    pub counts: Counts,
    /// In the order they are shown in.
    pub images: Vec<(ImageId, Counts)>,
}

/// Sums up all files, on all processors; no symbol is looked at.
fn by_image(selection: &Selection) -> Result<Vec<AppCounts>, ToolError> {
    selection.progress.expect(selection.files.len());
    let totals = selection
        .files
        .par_iter()
        .map(|file| {
            selection.progress.advance(1);
            read_total(&file.path)
                .map(|(_, total)| total)
                .map_err(|source| ToolError::sample_file(&file.path, source))
        })
        .collect::<Result<Vec<u64>, _>>()?;
    let classes = selection.classes.len();
    let mut sums: BTreeMap<(ImageId, ImageId), Counts> = BTreeMap::new();
    for (file, (total, class)) in totals.iter().zip(&selection.classes.of_file).enumerate() {
        let counts = sums
            .entry(selection.app_and_image(file))
            .or_insert_with(|| vec![0; classes]);
        counts[*class] = counts[*class].saturating_add(*total);
    }
    let mut apps: Vec<AppCounts> = Vec::new();
    for ((app, image), counts) in sums {
        match apps.last_mut() {
            Some(last) if last.app == app => {
                last.counts = sum([&last.counts, &counts].into_iter(), classes);
                last.images.push((image, counts));
            }
            _ => apps.push(AppCounts {
                app,
                counts: counts.clone(),
                images: vec![(image, counts)],
            }),
        }
    }
    Ok(apps)
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
