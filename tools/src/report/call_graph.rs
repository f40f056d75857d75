//! Symbols with their callers and callees.

use super::{Banner, Sink};
use crate::error::ToolError;
use crate::options::Options;
use crate::profile::Selection;

pub(super) fn write(
    _selection: &Selection,
    _banner: &Banner,
    _options: &Options,
    _sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    Err(ToolError::NotThereYet("--callgraph"))
}
