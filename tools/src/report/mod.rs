//! Reports as text, XML and JSON.

mod banner;
mod call_graph;
mod columns;
mod differential;
mod json;
mod numbers;
mod summary;
mod symbol_list;
mod xml;

use std::io::{self, Write};

use crate::classes::Merge;
use crate::error::ToolError;
pub use crate::options::Options;
use crate::options::{Kind, SortKey};
use crate::profile::Selection;
use crate::rows::SymbolRows;
use crate::session::Places;
use crate::spec::Specification;

pub use banner::Banner;
pub use numbers::{format_percent, percent, reaches};

/// Where the output goes: a report to a file or terminal, and beside it what the user ought to know.
pub struct Sink<'a> {
    /// The report.
    pub out: &'a mut dyn Write,
    /// Takes warnings, one or more lines each.
    pub tell: &'a mut dyn FnMut(&str),
}

impl std::fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink<'_> {
    /// Writes to the report.
    pub fn write(&mut self, text: &str) -> Result<(), ToolError> {
        self.out
            .write_all(text.as_bytes())
            .map_err(ToolError::Output)
    }
}

/// Makes the report on a session.
pub fn report(
    places: &Places,
    spec: &Specification,
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    options.check()?;
    let mut selection = Selection::new(places, spec, options.merge, options.exclude_dependent)?;
    if options.xml && options.merge.lib && xml::by_threads(&selection) {
        // The element of a thread holds all its images, whether or not those are merged.
        let merge = Merge {
            lib: false,
            ..options.merge
        };
        selection = Selection::new(places, spec, merge, options.exclude_dependent)?;
    }
    for warning in places.warnings() {
        (sink.tell)(&warning);
    }
    let banner = Banner::read(&selection)?;
    for warning in &banner.warnings {
        (sink.tell)(warning);
    }
    if options.xml {
        return xml::write(&selection, &banner, options, sink);
    }
    if options.kind == Kind::CallGraph {
        return call_graph::write(&selection, &banner, options, sink);
    }
    if options.kind == Kind::Summary {
        let programs = summary::Programs::read(&selection, options)?;
        if options.json {
            return json::write_programs(&selection, &banner, &programs, options, sink);
        }
        let mut text = banner_text(&banner, &selection, options);
        summary::write(&mut text, &selection, &programs, options);
        return sink.write(&text);
    }
    let mut rows = SymbolRows::read(&selection, options, options.json)?;
    tell_images(&selection, &rows, sink);
    rows.arrange(&selection, options, |counts, total| {
        reaches(counts, total, options.threshold)
    });
    if options.json {
        return json::write_symbols(&selection, &banner, &rows, options, sink);
    }
    sink.write(&banner_text(&banner, &selection, options))?;
    symbol_list::write(&selection, &rows, options, sink)
}

/// Makes the report on what changed from the samples of one specification to those of another.
pub fn compare(
    before: (&Places, &Specification),
    after: (&Places, &Specification),
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    options.check_differential()?;
    options.check()?;
    let select = |(places, spec): (&Places, &Specification)| {
        Selection::new(places, spec, options.merge, options.exclude_dependent)
    };
    let (before_selection, after_selection) = (select(before)?, select(after)?);
    for places in [before.0, after.0] {
        for warning in places.warnings() {
            (sink.tell)(&warning);
        }
    }
    let banner = Banner::read(&after_selection)?;
    sink.write(&banner_text(&banner, &after_selection, options))?;
    differential::write(&before_selection, &after_selection, options, sink)
}

fn banner_text(banner: &Banner, selection: &Selection, options: &Options) -> String {
    if options.no_header {
        String::new()
    } else {
        banner.text(selection)
    }
}

/// Warns about images without symbols and binaries that may be others, by name.
fn tell_images(selection: &Selection, rows: &SymbolRows, sink: &mut Sink<'_>) {
    let mut warnings: Vec<(Vec<u8>, &str)> = rows
        .images
        .iter()
        .filter_map(|rows| {
            let warning = rows.warning.as_deref()?;
            Some((selection.images[rows.image].long_name(), warning))
        })
        .collect();
    warnings.sort();
    for (_, warning) in warnings {
        (sink.tell)(warning);
    }
}

/// Whether rows are ordered by name instead of by count.
fn by_name(options: &Options) -> bool {
    matches!(
        options.sort.first(),
        Some(SortKey::Image | SortKey::AppName | SortKey::Symbol)
    )
}

/// A reader that has seen enough closes the pipe; that is no error.
pub fn ignore_closed_pipe(result: Result<(), ToolError>) -> Result<(), ToolError> {
    match result {
        Err(ToolError::Output(source)) if source.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
