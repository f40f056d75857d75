//! The call graph as text: a block a function, with its callers above it and its callees below.

use super::graph::{Callee, Graph};
use crate::error::ToolError;
use crate::options::Options;
use crate::profile::{Counts, Selection};
use crate::report::Sink;
use crate::report::columns::Columns;
use crate::report::numbers::sum;
use crate::report::symbol_list::{Percents, write_counts};

/// Between two blocks.
const RULE: &str =
    "-------------------------------------------------------------------------------\n";

pub(super) fn write(
    selection: &Selection,
    graph: &Graph,
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    let mut columns = Columns::new(selection, options);
    for block in &graph.blocks {
        let function = graph.nodes[*block].function;
        let address = graph.labels[*block].address;
        columns.see(function.app, function.image, address, options);
    }
    if !options.no_header {
        sink.write(&columns.headings())?;
    }
    let table = Table {
        graph,
        columns,
        options,
    };
    sink.write(RULE)?;
    let mut sums = vec![0u64; graph.total.len()];
    for block in &graph.blocks {
        let mut text = String::new();
        table.block(&mut text, *block, &mut sums);
        text.push_str(RULE);
        sink.write(&text)?;
    }
    Ok(())
}

struct Table<'a> {
    graph: &'a Graph,
    columns: Columns,
    options: &'a Options,
}

impl Table<'_> {
    fn block(&self, text: &mut String, block: usize, sums: &mut Counts) {
        let node = &self.graph.nodes[block];
        let callers: Vec<Callee<'_>> = node.callers.iter().map(Callee::call).collect();
        self.side(text, &callers);
        add(sums, &node.own);
        self.line(text, block, &node.own, &self.graph.total, sums);
        text.push('\n');
        self.side(text, &self.graph.callees(block));
    }

    /// Lines of one side, in percent of that side.
    fn side(&self, text: &mut String, neighbours: &[Callee<'_>]) {
        let classes = self.graph.total.len();
        let side = sum(neighbours.iter().map(|neighbour| neighbour.counts), classes);
        let total = if self.options.global_percent {
            &self.graph.total
        } else {
            &side
        };
        let mut sums = vec![0u64; classes];
        for neighbour in neighbours {
            add(&mut sums, neighbour.counts);
            text.push_str("  ");
            self.line(text, neighbour.function, neighbour.counts, total, &sums);
            if neighbour.is_self {
                text.push_str(" [self]");
            }
            text.push('\n');
        }
    }

    fn line(&self, text: &mut String, node: usize, counts: &[u64], total: &[u64], sums: &[u64]) {
        let function = self.graph.nodes[node].function;
        let label = &self.graph.labels[node];
        self.columns.write_address(text, label.address);
        let mut percents = Percents::default();
        write_counts(
            text,
            &self.columns,
            &mut percents,
            counts,
            total,
            sums,
            total,
        );
        self.columns.write_line(text, label.line.as_ref());
        self.columns.write_names(text, function.app, function.image);
        text.push_str(&label.name);
    }
}

fn add(sums: &mut Counts, counts: &[u64]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}
