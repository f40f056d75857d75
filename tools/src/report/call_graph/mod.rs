//! Symbols with their callers and callees.

mod arcs;
mod graph;
mod table;

pub(super) use graph::{Callee, Graph};

use super::{Banner, Sink, banner_text};
use crate::error::ToolError;
use crate::options::Options;
use crate::profile::Selection;

pub(super) fn write(
    selection: &Selection,
    banner: &Banner,
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    let graph = Graph::read(selection, options, sink)?;
    sink.write(&banner_text(banner, selection, options))?;
    table::write(selection, &graph, options, sink)
}
