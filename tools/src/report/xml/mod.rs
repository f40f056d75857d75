//! Reports for programs to read, in OProfile's schema 3.1.
//!
//! [`document`] is what is said, [`head`], [`listing`] and [`code`] find it, [`writer`] makes it text.

mod code;
mod document;
mod head;
mod listing;
mod text;
mod writer;

pub(super) use head::by_threads;

use super::call_graph::Graph;
use super::{Banner, Sink, reaches, tell_images};
use crate::error::ToolError;
use crate::options::{Kind, Options};
use crate::profile::Selection;
use crate::rows::SymbolRows;

pub(super) fn write(
    selection: &Selection,
    banner: &Banner,
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    let mut document = head::head(selection, banner, options);
    if options.kind == Kind::CallGraph {
        let graph = Graph::read(selection, options, sink)?;
        listing::list_graph(selection, &graph, &mut document);
    } else {
        // The summary too has all symbols.
        let mut rows = SymbolRows::read(selection, options, false)?;
        tell_images(selection, &rows, sink);
        rows.arrange(selection, options, |counts, total| {
            reaches(counts, total, options.threshold)
        });
        let images = listing::list_rows(selection, &rows, &mut document);
        if document.details
            && let Some(warning) = code::add(selection, &images, &mut document.symbols)
        {
            (sink.tell)(&warning);
        }
    }
    writer::write(&document, &mut *sink.out).map_err(ToolError::Output)
}
