//! The call graph of all programs of a report.

use std::cmp::Ordering;

use oprofile_session::sample_file::read_sorted;
use rayon::prelude::*;

use super::arcs::{Arc, Arcs, Node};
use crate::demangle::demangle;
use crate::error::ToolError;
use crate::lines::SourceLine;
use crate::names::{printable, sort_name};
use crate::options::{Options, SortKey};
use crate::profile::{ArcImages, Counts, ImageId, ImageSymbols, Selection};
use crate::report::{Sink, reaches};

/// A symbol of a program. `symbol` is `None` where the image has none and is one as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::report) struct Function {
    pub app: ImageId,
    pub image: ImageId,
    pub symbol: Option<usize>,
}

/// What is shown of a function.
#[derive(Debug)]
pub(in crate::report) struct Label {
    /// Demangled and safe to print.
    pub name: String,
    /// Address of the symbol.
    pub address: u64,
    /// Its source line, when asked for.
    pub line: Option<SourceLine>,
}

/// All functions with their neighbours.
#[derive(Debug)]
pub(in crate::report) struct Graph {
    /// Referred to by index.
    pub nodes: Vec<Node<Function>>,
    /// Of each node.
    pub labels: Vec<Label>,
    /// The nodes that have a block of their own, in their order.
    pub blocks: Vec<usize>,
    /// Samples in all nodes that the symbol filter selects.
    pub total: Counts,
}

/// A line on one side of a function.
#[derive(Debug, Clone, Copy)]
pub(in crate::report) struct Callee<'a> {
    /// Index of the node.
    pub function: usize,
    /// How often, by class.
    pub counts: &'a Counts,
    /// Whether these are the function's own samples and no call.
    pub is_self: bool,
}

impl<'a> Callee<'a> {
    /// A call.
    pub fn call(arc: &'a Arc) -> Self {
        Self {
            function: arc.function,
            counts: &arc.counts,
            is_self: false,
        }
    }
}

/// The symbols of each image that was needed.
type Loaded = Vec<Option<ImageSymbols>>;

impl Graph {
    /// Reads all samples and arcs.
    pub fn read(
        selection: &Selection,
        options: &Options,
        sink: &mut Sink<'_>,
    ) -> Result<Self, ToolError> {
        let files = selection.files.len() + selection.arcs.len();
        selection.progress.expect(files);
        let mut arcs = Arcs::new(selection.classes.len());
        let mut loaded = read_samples(selection, &mut arcs)?;
        let lost = read_arcs(selection, options, &mut loaded, &mut arcs)?;
        tell_images(selection, &loaded, sink);
        if lost != 0 {
            (sink.tell)(&format!(
                "warning: {lost} calls are not shown: they lead from or to code outside all symbols."
            ));
        }
        let nodes = arcs.finish(|function| *function);
        let (labels, selected) = labels(options, &loaded, &nodes);
        let mut total = vec![0u64; selection.classes.len()];
        for (node, _) in nodes
            .iter()
            .zip(&selected)
            .filter(|(_, selected)| **selected)
        {
            for (sum, count) in total.iter_mut().zip(&node.own) {
                *sum = sum.saturating_add(*count);
            }
        }
        let mut graph = Self {
            blocks: (0..nodes.len())
                .filter(|index| selected[*index])
                .filter(|index| reaches(&nodes[*index].own, &total, options.threshold))
                .collect(),
            nodes,
            labels,
            total,
        };
        graph.arrange(selection, options);
        Ok(graph)
    }

    /// Whom a function called, the most frequent first; its own samples are among them, before a call as frequent.
    pub fn callees(&self, node: usize) -> Vec<Callee<'_>> {
        let own = &self.nodes[node].own;
        let mut callees: Vec<Callee<'_>> =
            self.nodes[node].callees.iter().map(Callee::call).collect();
        let place = callees.partition_point(|callee| callee.counts > own);
        callees.insert(
            place,
            Callee {
                function: node,
                counts: own,
                is_self: true,
            },
        );
        callees
    }

    fn arrange(&mut self, selection: &Selection, options: &Options) {
        let names: Vec<Vec<u8>> = (0..selection.images.len())
            .map(|image| sort_name(selection, image, options.long_filenames))
            .collect();
        let mut keys = options.sort.clone();
        for last in [
            SortKey::Sample,
            SortKey::AppName,
            SortKey::Image,
            SortKey::Vma,
            SortKey::Symbol,
        ] {
            if !keys.contains(&last) {
                keys.push(last);
            }
        }
        let mut blocks = std::mem::take(&mut self.blocks);
        blocks.sort_by(|a, b| {
            let order = keys
                .iter()
                .map(|key| self.compare(*a, *b, *key, &names))
                .find(|order| order.is_ne())
                .unwrap_or_else(|| a.cmp(b));
            if options.reverse {
                order.reverse()
            } else {
                order
            }
        });
        self.blocks = blocks;
    }

    fn compare(&self, a: usize, b: usize, key: SortKey, names: &[Vec<u8>]) -> Ordering {
        let (x, y) = (&self.nodes[a], &self.nodes[b]);
        let (label_x, label_y) = (&self.labels[a], &self.labels[b]);
        match key {
            SortKey::Vma => label_x.address.cmp(&label_y.address),
            SortKey::Sample => y.own.cmp(&x.own),
            SortKey::Image => names[x.function.image].cmp(&names[y.function.image]),
            SortKey::AppName => names[x.function.app].cmp(&names[y.function.app]),
            SortKey::Symbol => label_x.name.cmp(&label_y.name),
            SortKey::Debug => label_x.line.cmp(&label_y.line),
        }
    }
}

/// Counts the samples of all images and keeps their symbols, for arcs may lead anywhere.
fn read_samples(selection: &Selection, arcs: &mut Arcs<Function>) -> Result<Loaded, ToolError> {
    let images = (0..selection.images.len())
        .into_par_iter()
        .map(|image| {
            if selection.files_of(image).is_empty() {
                return Ok((None, Vec::new()));
            }
            let profile = selection.read_image(image)?;
            let mut samples = Vec::new();
            for app in profile.apps {
                for found in app.symbols {
                    let function = Function {
                        app: app.app,
                        image,
                        symbol: found.symbol,
                    };
                    samples.push((function, found.counts));
                }
            }
            Ok((Some(profile.symbols), samples))
        })
        .collect::<Result<Vec<_>, ToolError>>()?;
    let mut loaded = Loaded::new();
    for (symbols, samples) in images {
        loaded.push(symbols);
        for (function, counts) in samples {
            arcs.add_samples(function, &counts);
        }
    }
    Ok(loaded)
}

/// Counts the arcs of all call-graph files. Returns the number of calls that have an end outside all symbols.
fn read_arcs(
    selection: &Selection,
    options: &Options,
    loaded: &mut Loaded,
    arcs: &mut Arcs<Function>,
) -> Result<u64, ToolError> {
    let mut lost = 0u64;
    for (file, images) in selection.arcs.iter().zip(selection.arc_images()) {
        selection.progress.advance(1);
        let Some(class) = selection.classes.class_of(&file.name.spec) else {
            continue;
        };
        if options.exclude_dependent && images.callee != images.app {
            continue;
        }
        for image in [images.caller, images.callee] {
            if loaded[image].is_none() {
                loaded[image] = Some(selection.read_symbols(image));
            }
        }
        let (Some(caller), Some(callee)) = (&loaded[images.caller], &loaded[images.callee]) else {
            continue;
        };
        let (header, counts) =
            read_sorted(&file.path).map_err(|source| ToolError::sample_file(&file.path, source))?;
        let bases = (
            caller.base(header.is_kernel, header.anon_start),
            callee.base(header.cg_to_is_kernel, header.cg_to_anon_start),
        );
        for (key, count) in counts {
            // The caller's position is in the upper half, the callee's in the lower.
            let ends = (
                symbol_at(caller, bases.0.wrapping_add(key >> 32)),
                symbol_at(callee, bases.1.wrapping_add(key & 0xffff_ffff)),
            );
            let (Some(from), Some(to)) = ends else {
                lost = lost.saturating_add(count);
                continue;
            };
            let (from, to) = functions(selection, images, from, to);
            arcs.add_arc(from, to, class, count);
        }
    }
    Ok(lost)
}

/// The symbol at a position, `Some(None)` in an image that has no symbols.
fn symbol_at(symbols: &ImageSymbols, position: u64) -> Option<Option<usize>> {
    match &symbols.table {
        None => Some(None),
        Some(table) => table.find(position).map(|(number, _)| Some(number)),
    }
}

/// Both ends of an arc. With `--merge=lib` each image is its own program.
fn functions(
    selection: &Selection,
    images: &ArcImages,
    from: Option<usize>,
    to: Option<usize>,
) -> (Function, Function) {
    let function = |image: ImageId, symbol| Function {
        app: if selection.merge.lib {
            image
        } else {
            images.app
        },
        image,
        symbol,
    };
    (function(images.caller, from), function(images.callee, to))
}

fn tell_images(selection: &Selection, loaded: &Loaded, sink: &mut Sink<'_>) {
    let mut warnings: Vec<(Vec<u8>, &str)> = loaded
        .iter()
        .enumerate()
        .filter_map(|(image, symbols)| {
            let warning = symbols.as_ref()?.warning.as_deref()?;
            Some((selection.images[image].long_name(), warning))
        })
        .collect();
    warnings.sort();
    for (_, warning) in warnings {
        (sink.tell)(warning);
    }
}

/// What is shown of each node, and whether the symbol filter selects it: here it takes names as shown, as OProfile does.
fn labels(options: &Options, loaded: &Loaded, nodes: &[Node<Function>]) -> (Vec<Label>, Vec<bool>) {
    let mut labels = Vec::with_capacity(nodes.len());
    let mut selected = Vec::with_capacity(nodes.len());
    for node in nodes {
        let symbols = loaded[node.function.image].as_ref();
        let symbol = symbols.and_then(|symbols| symbols.symbol(node.function.symbol));
        let raw = symbols
            .map(|symbols| symbols.name(symbol))
            .unwrap_or_default();
        let name = match std::str::from_utf8(&raw) {
            Ok(name) if symbol.is_some() => demangle(name, options.demangle).into_bytes(),
            _ => raw.into_owned(),
        };
        selected.push(options.filter.is_empty() || options.filter.selects(&name));
        labels.push(Label {
            name: printable(&name),
            address: symbol.map_or(0, |symbol| symbol.address),
            line: None,
        });
    }
    if options.debug_info || options.sort.contains(&SortKey::Debug) {
        add_lines(loaded, nodes, &mut labels);
    }
    (labels, selected)
}

/// Looks lines up, one image after the other: line tables are large.
fn add_lines(loaded: &Loaded, nodes: &[Node<Function>], labels: &mut [Label]) {
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|node| nodes[*node].function.image);
    for group in order.chunk_by(|a, b| nodes[*a].function.image == nodes[*b].function.image) {
        let image = group.first().map(|node| nodes[*node].function.image);
        let Some(symbols) = image.and_then(|image| loaded[image].as_ref()) else {
            continue;
        };
        let Some(lines) = symbols.load_lines() else {
            continue;
        };
        for node in group {
            let label = &mut labels[*node];
            label.line = symbols
                .symbol(nodes[*node].function.symbol)
                .and_then(|symbol| symbols.line(&lines, symbol, label.address));
        }
    }
}
