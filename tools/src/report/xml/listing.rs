//! The programs and their symbols.

use std::collections::{BTreeMap, HashMap};

use super::document::{Call, Calls, Detail, Document, Module, Program, Symbol, SymbolData};
use super::head::{Division, divisions};
use crate::lines::SourceLine;
use crate::profile::{Counts, ImageId, Selection};
use crate::report::call_graph::{Callee, Graph};
use crate::rows::SymbolRows;

/// The symbols that were referred to so far. Those of one name in one image are one; the first gives the address.
#[derive(Debug, Default)]
struct Ids {
    known: HashMap<(ImageId, String), usize>,
    symbols: Vec<SymbolData>,
    images: Vec<ImageId>,
}

impl Ids {
    fn id(&mut self, image: ImageId, name: &str, address: u64, line: Option<&SourceLine>) -> usize {
        let next = self.symbols.len();
        let id = *self.known.entry((image, name.to_owned())).or_insert(next);
        if id == next {
            self.images.push(image);
            self.symbols.push(SymbolData {
                name: name.as_bytes().to_vec(),
                address,
                line: line.map(source),
                ..SymbolData::default()
            });
        }
        id
    }
}

fn source(line: &SourceLine) -> (Vec<u8>, u32) {
    (line.file.as_bytes().to_vec(), line.line)
}

/// A symbol of a program, before it is put into its division.
struct Item {
    app: ImageId,
    image: ImageId,
    symbol: Symbol,
}

/// Adds all rows. Returns the image of each symbol of the document.
pub(super) fn list_rows(
    selection: &Selection,
    rows: &SymbolRows,
    document: &mut Document,
) -> Vec<ImageId> {
    let mut ids = Ids::default();
    let mut items = Vec::with_capacity(rows.order.len());
    let mut order = rows.order.clone();
    order.sort_by_key(|entry| {
        let (image, row) = rows.at(*entry);
        image.rows[row].app
    });
    for entry in order {
        let (image, number) = rows.at(entry);
        let row = &image.rows[number];
        let id = ids.id(
            image.image,
            image.name(row),
            row.address,
            image.line(number),
        );
        let details = document
            .details
            .then(|| {
                add_details(
                    &mut ids.symbols[id].details,
                    image.details(number, rows.classes),
                )
            })
            .flatten();
        items.push(Item {
            app: row.app as usize,
            image: image.image,
            symbol: Symbol {
                id,
                counts: image.counts(number, rows.classes).to_vec(),
                details,
                calls: None,
            },
        });
    }
    document.symbols = ids.symbols;
    document.programs = programs(selection, items);
    ids.images
}

/// One entry an address and class. Returns the first and the last.
fn add_details<'a>(
    details: &mut Vec<Detail>,
    found: impl Iterator<Item = (&'a crate::rows::Detail, &'a [u64])>,
) -> Option<(usize, usize)> {
    let first = details.len();
    for (detail, counts) in found {
        for (class, count) in counts.iter().enumerate() {
            if *count != 0 {
                details.push(Detail {
                    address: detail.address,
                    line: detail.line.as_ref().map(source),
                    class,
                    count: *count,
                });
            }
        }
    }
    (details.len() > first).then(|| (first, details.len() - 1))
}

/// Adds all blocks of a call graph.
pub(super) fn list_graph(selection: &Selection, graph: &Graph, document: &mut Document) {
    let names: Vec<Vec<u8>> = selection
        .images
        .iter()
        .map(|image| image.long_name())
        .collect();
    let mut ids = Ids::default();
    let mut blocks = graph.blocks.clone();
    blocks.sort_by_key(|block| graph.nodes[*block].function.app);
    let mut items = Vec::with_capacity(blocks.len());
    for block in blocks {
        let node = &graph.nodes[block];
        let mut id = |node: usize| {
            let label = &graph.labels[node];
            let image = graph.nodes[node].function.image;
            ids.id(image, &label.name, label.address, label.line.as_ref())
        };
        let own = id(block);
        let mut call = |callee: Callee<'_>| Call {
            id: id(callee.function),
            image: names[graph.nodes[callee.function].function.image].clone(),
            is_self: callee.is_self,
            counts: callee.counts.clone(),
        };
        let calls = Calls {
            callers: node
                .callers
                .iter()
                .map(|arc| call(Callee::call(arc)))
                .collect(),
            callees: graph.callees(block).into_iter().map(call).collect(),
        };
        items.push(Item {
            app: node.function.app,
            image: node.function.image,
            symbol: Symbol {
                id: own,
                counts: node.own.clone(),
                details: None,
                calls: Some(calls),
            },
        });
    }
    document.symbols = ids.symbols;
    document.programs = programs(selection, items);
}

/// Symbols by program, and by thread where threads are told apart.
fn programs(selection: &Selection, items: Vec<Item>) -> Vec<Program> {
    let mut programs = Vec::new();
    for division in divisions(selection) {
        let mut apps: BTreeMap<ImageId, BTreeMap<ImageId, Vec<Symbol>>> = BTreeMap::new();
        for item in &items {
            if let Some(symbol) = part(&item.symbol, &division) {
                apps.entry(item.app)
                    .or_default()
                    .entry(item.image)
                    .or_default()
                    .push(symbol);
            }
        }
        for (app, mut images) in apps {
            // A thread has its program's own image among the others.
            let own = if division.thread.is_none() {
                images.remove(&app).unwrap_or_default()
            } else {
                Vec::new()
            };
            programs.push(Program {
                name: selection.images[app].long_name(),
                thread: division.thread.clone(),
                own,
                modules: images
                    .into_iter()
                    .map(|(image, symbols)| Module {
                        name: selection.images[image].long_name(),
                        symbols,
                    })
                    .collect(),
            });
        }
    }
    programs
}

/// What of a symbol belongs to a division; `None` when that is nothing.
fn part(symbol: &Symbol, division: &Division) -> Option<Symbol> {
    let Some(class) = division.class else {
        return Some(symbol.clone());
    };
    let of = |counts: &Counts| counts.get(class).copied().unwrap_or(0);
    let side = |calls: &[Call]| -> Vec<Call> {
        calls
            .iter()
            .filter(|call| call.is_self || of(&call.counts) != 0)
            .map(|call| Call {
                counts: vec![of(&call.counts)],
                ..call.clone()
            })
            .collect()
    };
    let calls = symbol.calls.as_ref().map(|calls| Calls {
        callers: side(&calls.callers),
        callees: side(&calls.callees),
    });
    let called = calls.as_ref().is_some_and(|calls| {
        !calls.callers.is_empty() || calls.callees.iter().any(|call| !call.is_self)
    });
    let count = of(&symbol.counts);
    (count != 0 || called).then(|| Symbol {
        counts: vec![count],
        calls,
        ..symbol.clone()
    })
}
