//! The columns of a table of symbols.

use std::fmt::Write as _;

use crate::lines::{SourceLine, short_file};
use crate::names::{printable, shown_name};
use crate::options::Options;
use crate::profile::{ImageId, Selection};

/// Width of the columns with numbers.
const NUMBER: usize = 9;
const ACCUMULATED_COUNT: usize = 14;
const ACCUMULATED_PERCENT: usize = 11;
const DIFFERENCE: usize = 10;
const LINE: usize = 28;
/// Width of the columns with names.
const NAME: usize = 25;
/// Stands for a line that is not known.
const NO_LINE: &str = "(no location information)";

/// Which columns there are, and what they show of images.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) address: bool,
    pub(super) accumulated: bool,
    pub(super) difference: bool,
    pub(super) line: bool,
    pub(super) image: bool,
    pub(super) app: bool,
    pub(super) classes: usize,
    long: bool,
    digits: usize,
    /// Shown names of all images.
    names: Vec<String>,
}

impl Columns {
    /// The columns that `options` ask for. Images and programs are shown when they tell rows apart; addresses have 16 digits when one needs
    /// them.
    pub(super) fn new(selection: &Selection, options: &Options) -> Self {
        Self {
            address: options.show_address,
            accumulated: options.accumulated,
            difference: false,
            line: options.debug_info,
            image: false,
            app: selection.many_apps(),
            classes: selection.classes.len(),
            long: options.long_filenames,
            digits: 8,
            names: (0..selection.images.len())
                .map(|image| shown_name(selection, image, options.long_filenames))
                .collect(),
        }
    }

    /// Takes a row that is shown into account.
    pub(super) fn see(&mut self, app: ImageId, image: ImageId, address: u64, options: &Options) {
        self.image |= app != image && !options.merge.lib;
        if address > u64::from(u32::MAX) {
            self.digits = 16;
        }
    }

    /// The line above the table.
    pub(super) fn headings(&self) -> String {
        let mut line = String::new();
        if self.address {
            cell(&mut line, "vma", NUMBER);
        }
        for _ in 0..self.classes {
            cell(&mut line, "samples", NUMBER);
            if self.accumulated {
                cell(&mut line, "cum. samples", ACCUMULATED_COUNT);
            }
            cell(&mut line, "%", NUMBER);
            if self.difference {
                cell(&mut line, "diff %", DIFFERENCE);
            }
            if self.accumulated {
                cell(&mut line, "cum. %", ACCUMULATED_PERCENT);
            }
        }
        if self.line {
            cell(&mut line, "linenr info", LINE);
        }
        if self.image {
            cell(&mut line, "image name", NAME);
        }
        if self.app {
            cell(&mut line, "app name", NAME);
        }
        line.push_str("symbol name\n");
        line
    }

    pub(super) fn write_address(&self, line: &mut String, address: u64) {
        if self.address {
            cell(
                line,
                &format!("{address:0digits$x}", digits = self.digits),
                NUMBER,
            );
        }
    }

    pub(super) fn write_line(&self, line: &mut String, at: Option<&SourceLine>) {
        if !self.line {
            return;
        }
        match at {
            Some(SourceLine { file, line: number }) => {
                let file = if self.long {
                    std::borrow::Cow::Borrowed(&**file)
                } else {
                    short_file(file)
                };
                let text = format!("{}:{number}", printable(file.as_bytes()));
                cell(line, &text, LINE);
            }
            None => cell(line, NO_LINE, LINE),
        }
    }

    pub(super) fn write_names(&self, line: &mut String, app: ImageId, image: ImageId) {
        for (shown, id) in [(self.image, image), (self.app, app)] {
            if shown {
                let name = self.names.get(id).map(String::as_str).unwrap_or_default();
                cell(line, name, NAME);
            }
        }
    }

    /// The columns of one class. `accumulated` has sum and percentage of all rows so far.
    pub(super) fn write_count(
        &self,
        line: &mut String,
        count: u64,
        percent: &str,
        accumulated: Option<(u64, String)>,
    ) {
        number(line, count, NUMBER);
        if let Some((sum, _)) = &accumulated {
            number(line, *sum, ACCUMULATED_COUNT);
        }
        right(line, percent, NUMBER);
        if let Some((_, percent)) = &accumulated {
            right(line, percent, ACCUMULATED_PERCENT);
        }
    }

    /// The columns of one class in a comparison.
    pub(super) fn write_difference(
        &self,
        line: &mut String,
        count: u64,
        percent: &str,
        difference: &str,
    ) {
        number(line, count, NUMBER);
        if percent.starts_with('-') {
            cell(line, percent, NUMBER);
        } else {
            right(line, percent, NUMBER);
        }
        cell(line, difference, DIFFERENCE);
    }
}

fn number(line: &mut String, value: u64, width: usize) {
    let from = line.len();
    // Infallible for a String, here and below.
    let _ = write!(line, "{value}");
    pad(line, from, width);
}

/// Percentages are aligned at their point.
fn right(line: &mut String, percent: &str, width: usize) {
    let from = line.len();
    let _ = write!(line, "{percent:>7}");
    pad(line, from, width);
}

/// Fills the ASCII text from `from` up to `width`; what is wider is followed by one blank.
fn pad(line: &mut String, from: usize, width: usize) {
    let blanks = width.saturating_sub(line.len() - from).max(1);
    for _ in 0..blanks {
        line.push(' ');
    }
}

/// A cell of the given width; what is wider is followed by one blank.
pub(super) fn cell(line: &mut String, content: &str, width: usize) {
    line.push_str(content);
    let blanks = width.saturating_sub(content.chars().count()).max(1);
    for _ in 0..blanks {
        line.push(' ');
    }
}
