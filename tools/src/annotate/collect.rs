//! From the sample files of a session to what is annotated.

use oprofile_session::sample_path::ImageName;
use rayon::prelude::*;

use super::model::{Model, Place, Sample, Symbol};
use crate::demangle::{Demangle, demangle};
use crate::error::ToolError;
use crate::lines::SourceLine;
use crate::names::printable;
use crate::options::SymbolFilter;
use crate::profile::{ImageId, Selection};

/// The addresses of the kernel that runs here; nothing can be annotated with them.
const KALLSYMS: &[u8] = b"/proc/kallsyms";

/// Which symbols are annotated, and under which names.
#[derive(Debug, Clone, Default)]
pub struct CollectOptions {
    /// Which symbols are counted.
    pub filter: SymbolFilter,
    /// How their names are shown.
    pub demangle: Demangle,
    /// Whether source lines are wanted.
    pub lines: bool,
}

/// The model, and what the user ought to know.
#[derive(Debug, Default)]
pub struct Collected {
    /// The profile.
    pub model: Model,
    /// Warnings, one or more lines each.
    pub warnings: Vec<String>,
    /// Whether any binary has line numbers; not looked for when no lines are wanted.
    pub debug_info: bool,
}

/// Reads all images of a selection, on all processors.
pub fn collect(selection: &Selection, options: &CollectOptions) -> Result<Collected, ToolError> {
    let mut collected = Collected {
        model: Model::new(selection.classes.len()),
        ..Collected::default()
    };
    let mut wanted: Vec<ImageId> = Vec::new();
    for (id, image) in selection.images.iter().enumerate() {
        if selection.files_of(id).is_empty() {
            continue;
        }
        if image.name == ImageName::Root(KALLSYMS.to_vec()) {
            collected.warnings.push(format!(
                "Cannot annotate pseudo file {} -- ignoring.",
                printable(KALLSYMS)
            ));
            continue;
        }
        wanted.push(id);
    }
    wanted.sort_by_key(|id| {
        selection
            .images
            .get(*id)
            .map(crate::profile::Image::long_name)
    });
    let files = wanted.iter().map(|id| selection.files_of(*id).len());
    selection.progress.expect(files.sum());
    let parts = wanted
        .par_iter()
        .map(|id| Part::read(selection, *id, options))
        .collect::<Result<Vec<_>, _>>()?;
    for part in parts {
        collected.warnings.extend(part.warning);
        collected.debug_info |= part.debug_info;
        let model = &mut collected.model;
        let image = model.images.len();
        model.images.push(part.path);
        for symbol in part.symbols {
            let place = |model: &mut Model, line: Option<SourceLine>| {
                line.map(|line| Place {
                    file: model.file(line.file.as_bytes()),
                    line: line.line,
                })
            };
            let samples = symbol
                .samples
                .into_iter()
                .map(|(address, counts, line)| Sample {
                    address,
                    counts,
                    place: place(model, line),
                })
                .collect();
            let place = place(model, symbol.line);
            model.push(Symbol {
                name: symbol.name,
                image,
                known: symbol.known,
                start: symbol.start,
                end: symbol.end,
                counts: symbol.counts,
                place,
                samples,
            });
        }
    }
    Ok(collected)
}

/// One image's part.
struct Part {
    path: std::path::PathBuf,
    symbols: Vec<PartSymbol>,
    warning: Option<String>,
    debug_info: bool,
}

struct PartSymbol {
    name: String,
    known: bool,
    start: u64,
    end: u64,
    counts: Vec<u64>,
    line: Option<SourceLine>,
    samples: Vec<(u64, Vec<u64>, Option<SourceLine>)>,
}

impl Part {
    fn read(
        selection: &Selection,
        id: ImageId,
        options: &CollectOptions,
    ) -> Result<Self, ToolError> {
        let profile = selection.read_image(id)?;
        let image = &profile.symbols;
        let lines = options.lines.then(|| image.load_lines()).flatten();
        let mut symbols = Vec::new();
        for app in &profile.apps {
            for samples in &app.symbols {
                let symbol = image.symbol(samples.symbol);
                let raw = image.name(symbol);
                if !options.filter.selects(&raw) {
                    continue;
                }
                let line = |address| image.line(lines.as_ref()?, symbol?, address);
                let name = match std::str::from_utf8(&raw) {
                    Ok(name) if symbol.is_some() => {
                        printable(demangle(name, options.demangle).as_bytes())
                    }
                    _ => printable(&raw),
                };
                let start = symbol.map_or(0, |symbol| symbol.address);
                let size = symbol.map_or(0, |symbol| symbol.end.saturating_sub(symbol.start));
                symbols.push(PartSymbol {
                    name,
                    known: symbol.is_some(),
                    start,
                    end: start.saturating_add(size),
                    counts: samples.counts.clone(),
                    line: line(start),
                    samples: samples
                        .samples
                        .clone()
                        .filter_map(|sample| {
                            let position = *app.counts.positions.get(sample)?;
                            let address = image.address(symbol, position);
                            Some((address, app.counts.counts(sample).to_vec(), line(address)))
                        })
                        .collect(),
                });
            }
        }
        Ok(Self {
            path: selection.path(id),
            symbols,
            warning: image.warning.clone(),
            debug_info: lines.is_some(),
        })
    }
}
