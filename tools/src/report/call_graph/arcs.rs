//! Who calls whom, and how often that was seen.

use std::collections::BTreeMap;

use crate::profile::Counts;

/// One end of an arc, seen from the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::report) struct Arc {
    /// Index of the function at the far end.
    pub function: usize,
    /// How often the arc was seen, by class.
    pub counts: Counts,
}

/// A function and its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::report) struct Node<F> {
    /// What it is.
    pub function: F,
    /// Samples in the function itself, by class. All 0 for one that was only seen below others.
    pub own: Counts,
    /// Functions that called it, the rarest first.
    pub callers: Vec<Arc>,
    /// Functions that it called, the most frequent first. A recursive function is its own callee.
    pub callees: Vec<Arc>,
}

/// Samples and arcs as they are read. Its size is bounded by what the sample files hold.
#[derive(Debug)]
pub(in crate::report) struct Arcs<F> {
    classes: usize,
    index: BTreeMap<F, usize>,
    own: Vec<Counts>,
    arcs: BTreeMap<(usize, usize), Counts>,
}

impl<F: Ord> Arcs<F> {
    /// Nothing yet, for counts of that many classes.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            index: BTreeMap::new(),
            own: Vec::new(),
            arcs: BTreeMap::new(),
        }
    }

    fn index_of(&mut self, function: F) -> usize {
        let next = self.own.len();
        let index = *self.index.entry(function).or_insert(next);
        if index == next {
            self.own.push(vec![0; self.classes]);
        }
        index
    }

    /// Counts samples in a function.
    pub fn add_samples(&mut self, function: F, counts: &[u64]) {
        let index = self.index_of(function);
        if let Some(own) = self.own.get_mut(index) {
            add(own, counts);
        }
    }

    /// Counts an arc of one class.
    pub fn add_arc(&mut self, caller: F, callee: F, class: usize, count: u64) {
        let ends = (self.index_of(caller), self.index_of(callee));
        let classes = self.classes;
        let counts = self.arcs.entry(ends).or_insert_with(|| vec![0; classes]);
        if let Some(sum) = counts.get_mut(class) {
            *sum = sum.saturating_add(count);
        }
    }

    /// The graph: nodes in no particular order, arcs by their counts, equal ones by `rank` (callers by its reverse).
    pub fn finish<K: Ord>(self, rank: impl Fn(&F) -> K) -> Vec<Node<F>> {
        let mut nodes: Vec<Option<Node<F>>> = Vec::new();
        nodes.resize_with(self.own.len(), || None);
        let mut own = self.own;
        for (function, index) in self.index {
            if let (Some(node), Some(own)) = (nodes.get_mut(index), own.get_mut(index)) {
                *node = Some(Node {
                    function,
                    own: std::mem::take(own),
                    callers: Vec::new(),
                    callees: Vec::new(),
                });
            }
        }
        // Each index was given to exactly one function, so none is missing.
        let mut nodes: Vec<Node<F>> = nodes.into_iter().flatten().collect();
        for ((caller, callee), counts) in self.arcs {
            if let Some(node) = nodes.get_mut(callee) {
                node.callers.push(Arc {
                    function: caller,
                    counts: counts.clone(),
                });
            }
            if let Some(node) = nodes.get_mut(caller) {
                node.callees.push(Arc {
                    function: callee,
                    counts,
                });
            }
        }
        let ranks: Vec<K> = nodes.iter().map(|node| rank(&node.function)).collect();
        let order = |a: &Arc, b: &Arc| {
            b.counts
                .cmp(&a.counts)
                .then_with(|| ranks.get(a.function).cmp(&ranks.get(b.function)))
        };
        for node in &mut nodes {
            node.callers.sort_by(|a, b| order(b, a));
            node.callees.sort_by(order);
        }
        nodes
    }
}

fn add(sums: &mut Counts, counts: &[u64]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arcs(arcs: &[Arc]) -> Vec<(usize, u64)> {
        arcs.iter()
            .map(|arc| (arc.function, arc.counts[0]))
            .collect()
    }

    #[test]
    fn callees_fall_and_callers_rise() {
        let mut graph = Arcs::new(1);
        graph.add_samples("main", &[5]);
        for (caller, callee, count) in [
            ("main", "a", 3),
            ("main", "b", 7),
            ("main", "a", 1),
            ("main", "c", 4),
            ("b", "a", 2),
        ] {
            graph.add_arc(caller, callee, 0, count);
        }
        let nodes = graph.finish(|name| *name);
        let names: Vec<_> = nodes.iter().map(|node| node.function).collect();
        assert_eq!(names, ["main", "a", "b", "c"]);
        assert_eq!(arcs(&nodes[0].callees), [(2, 7), (1, 4), (3, 4)]);
        assert_eq!(arcs(&nodes[1].callers), [(2, 2), (0, 4)]);
        assert_eq!(nodes[1].own, [0], "seen below others only");
    }

    #[test]
    fn recursive_function_is_its_own_caller() {
        let mut graph = Arcs::new(2);
        graph.add_samples("fib", &[9, 1]);
        graph.add_arc("fib", "fib", 1, 6);
        let nodes = graph.finish(|name| *name);
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].callers, nodes[0].callees);
        assert_eq!(nodes[0].callees[0].counts, [0, 6]);
        assert_eq!(nodes[0].own, [9, 1]);
    }

    #[test]
    fn counts_do_not_wrap() {
        let mut graph = Arcs::new(1);
        graph.add_arc(1, 2, 0, u64::MAX);
        graph.add_arc(1, 2, 0, 3);
        graph.add_samples(2, &[u64::MAX]);
        graph.add_samples(2, &[1]);
        let nodes = graph.finish(|number| *number);
        assert_eq!(nodes[0].callees[0].counts, [u64::MAX]);
        assert_eq!(nodes[1].own, [u64::MAX]);
    }

    proptest! {
        /// Whatever is added is found again from both ends.
        #[test]
        fn no_arc_is_lost(seen in proptest::collection::vec((0u8..9, 0u8..9, 0usize..3, 0u64..1000), 0..60)) {
            let mut graph = Arcs::new(3);
            for (caller, callee, class, count) in &seen {
                graph.add_arc(*caller, *callee, *class, *count);
            }
            let nodes = graph.finish(|number| *number);
            let total: u64 = seen.iter().map(|(.., count)| count).sum();
            let sum = |side: fn(&Node<u8>) -> &Vec<Arc>| {
                nodes.iter().flat_map(side).flat_map(|arc| &arc.counts).sum::<u64>()
            };
            prop_assert_eq!(sum(|node| &node.callers), total);
            prop_assert_eq!(sum(|node| &node.callees), total);
            for node in &nodes {
                prop_assert!(node.callees.windows(2).all(|pair| pair[0].counts >= pair[1].counts));
                prop_assert!(node.callers.windows(2).all(|pair| pair[0].counts <= pair[1].counts));
            }
        }
    }
}
