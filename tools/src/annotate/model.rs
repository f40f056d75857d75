//! What is annotated: symbols, their samples, and the source lines of both.

use std::collections::{BTreeMap, HashMap};

use crate::profile::Counts;

/// A line of a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Number of the file, see [`Model::files`].
    pub file: usize,
    /// Line, from 1; 0 is code that belongs to no line.
    pub line: u32,
}

/// Samples at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Address in the image.
    pub address: u64,
    /// One count for each class.
    pub counts: Counts,
    /// Where the instruction comes from.
    pub place: Option<Place>,
}

/// A symbol that was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The name to show, safe to print.
    pub name: String,
    /// Number of the image, see [`Model::images`].
    pub image: usize,
    /// Whether the symbol table has it; if not it is the image as a whole.
    pub known: bool,
    /// First address.
    pub start: u64,
    /// Address behind the last one.
    pub end: u64,
    /// Samples in it.
    pub counts: Counts,
    /// Where its first instruction comes from.
    pub place: Option<Place>,
    /// Its samples, by address.
    pub samples: Vec<Sample>,
}

/// A profile with source lines.
#[derive(Debug, Default)]
pub struct Model {
    /// Classes, that is columns.
    pub classes: usize,
    /// Names of source files as the debug information has them.
    pub files: Vec<Vec<u8>>,
    /// The binaries.
    pub images: Vec<std::path::PathBuf>,
    /// The symbols by image, program and address.
    pub symbols: Vec<Symbol>,
    /// Samples in all symbols.
    pub total: Counts,
    numbers: HashMap<Vec<u8>, usize>,
}

impl Model {
    /// A model of nothing.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            total: vec![0; classes],
            ..Self::default()
        }
    }

    /// The number of a source file.
    pub fn file(&mut self, name: &[u8]) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.files.len();
        self.files.push(name.to_vec());
        self.numbers.insert(name.to_vec(), number);
        number
    }

    /// Adds a symbol and its samples to the total.
    pub fn push(&mut self, symbol: Symbol) {
        add(&mut self.total, &symbol.counts);
        self.symbols.push(symbol);
    }
}

/// Adds `counts` class by class.
pub fn add(sum: &mut Counts, counts: &Counts) {
    for (sum, count) in sum.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}

/// A source file's part of the profile.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FileProfile {
    /// Samples in all its lines.
    pub counts: Counts,
    /// Line → samples.
    pub lines: BTreeMap<u32, Counts>,
    /// Line → symbols that begin there, in the order of [`Model::symbols`].
    pub symbols: BTreeMap<u32, Vec<usize>>,
}

/// The profile by source file; files without samples are left out.
pub fn by_file(model: &Model) -> BTreeMap<usize, FileProfile> {
    let mut files: BTreeMap<usize, FileProfile> = BTreeMap::new();
    for symbol in &model.symbols {
        for sample in &symbol.samples {
            let Some(place) = sample.place else { continue };
            let file = files.entry(place.file).or_insert_with(|| FileProfile {
                counts: vec![0; model.classes],
                ..FileProfile::default()
            });
            add(&mut file.counts, &sample.counts);
            let line = file
                .lines
                .entry(place.line)
                .or_insert_with(|| vec![0; model.classes]);
            add(line, &sample.counts);
        }
    }
    for (number, symbol) in model.symbols.iter().enumerate() {
        if let Some(place) = symbol.place
            && let Some(file) = files.get_mut(&place.file)
        {
            file.symbols.entry(place.line).or_default().push(number);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_sample_with_a_line_is_in_one_line_of_one_file(
            samples in prop::collection::vec(
                (0..4usize, prop::option::of((0..3usize, 0..5u32)), 0..1000u64), 0..60),
        ) {
            let mut model = Model::new(1);
            let files: Vec<usize> = ["a", "b", "c"].map(|name| model.file(name.as_bytes())).into();
            for symbol in 0..4 {
                let own: Vec<Sample> = samples
                    .iter()
                    .filter(|(number, ..)| *number == symbol)
                    .map(|(_, place, count)| Sample {
                        address: 0,
                        counts: vec![*count],
                        place: place.map(|(file, line)| Place { file: files[file], line }),
                    })
                    .collect();
                model.push(Symbol {
                    name: String::new(),
                    image: 0,
                    known: true,
                    start: 0,
                    end: 0,
                    counts: vec![own.iter().map(|sample| sample.counts[0]).sum()],
                    place: None,
                    samples: own,
                });
            }
            let by_file = by_file(&model);
            let mut placed = 0;
            for file in by_file.values() {
                let lines: u64 = file.lines.values().map(|counts| counts[0]).sum();
                prop_assert_eq!(lines, file.counts[0]);
                placed += lines;
            }
            let elsewhere: u64 = samples
                .iter()
                .filter(|(_, place, _)| place.is_none())
                .map(|(_, _, count)| count)
                .sum();
            prop_assert_eq!(placed + elsewhere, model.total[0]);
        }
    }
}
