//! Guest virtual to guest physical addresses: the device's walk beside others, over the same page tables.

mod memflow;
mod ours;
mod plain;
mod tables;
mod vmi;

use std::error::Error;
use std::fmt;
use std::hint::black_box;

use super::{Failure, Job};
use crate::measure::{Figure, time};
use oprofile_workload::random::Random;

use tables::Tables;

/// Name of the job.
pub const NAME: &str = "translation";

/// Addresses that are translated in one measurement.
const ADDRESSES: usize = 65_536;

/// Pages that are hot.
const HOT_PAGES: usize = 64;

const PAGE_BYTES: u64 = 4_096;

/// The pattern in which nearly every address needs an entry of a table.
const RANDOM: &str = "random pages of 1 GiB";

/// The pattern in which a TLB knows all pages.
const HOT: &str = "64 hot pages";

/// An address and where it leads.
type Found = (u64, u64);

/// A way to translate addresses.
trait Translate {
    /// Its name in the table.
    fn name(&self) -> &'static str;

    /// For which pattern there is a target that it has to reach.
    fn has_target(&self, _pattern: &Pattern) -> bool {
        false
    }

    /// Gives `found` each of `addresses` that it can translate, with its physical address, in any order.
    fn each(&mut self, addresses: &[u64], found: impl FnMut(u64, u64));
}

/// The same behind a pointer, at one call for many addresses.
trait Translator {
    fn name(&self) -> &'static str;

    fn has_target(&self, pattern: &Pattern) -> bool;

    /// Sum of all physical addresses: what is done with them shall cost nothing.
    fn sum(&mut self, addresses: &[u64]) -> u64;

    /// Addresses and where they lead, ascending.
    fn sorted(&mut self, addresses: &[u64]) -> Vec<Found>;
}

impl<T: Translate> Translator for T {
    fn name(&self) -> &'static str {
        Translate::name(self)
    }

    fn has_target(&self, pattern: &Pattern) -> bool {
        Translate::has_target(self, pattern)
    }

    fn sum(&mut self, addresses: &[u64]) -> u64 {
        let mut sum = 0_u64;
        self.each(addresses, |_, gpa| sum = sum.wrapping_add(gpa));
        sum
    }

    fn sorted(&mut self, addresses: &[u64]) -> Vec<Found> {
        let mut found = Vec::new();
        self.each(addresses, |address, gpa| found.push((address, gpa)));
        found.sort_unstable();
        found
    }
}

/// Everything that is compared. Each is made over the same tables.
fn translators(tables: &'static Tables) -> Result<Vec<Box<dyn Translator>>, Failure> {
    Ok(vec![
        Box::new(plain::Plain::new(tables)),
        Box::new(ours::Remembering::new(tables)),
        Box::new(ours::Batched::new(tables)),
        Box::new(ours::Walk::new(tables)),
        Box::new(memflow::one_by_one(tables)),
        Box::new(memflow::batched(tables)),
        Box::new(memflow::cached(tables)?),
        Box::new(memflow::cached_batched(tables)?),
        Box::new(vmi::walk(tables)?),
        Box::new(vmi::cached_pages(tables)?),
        Box::new(vmi::cached(tables)?),
    ])
}

/// A pattern of addresses.
struct Pattern {
    name: &'static str,
    addresses: Vec<u64>,
    reach: f64,
    known: fn(&str) -> &'static str,
}

/// Translators disagree with the tables.
#[derive(Debug)]
struct Disagreement {
    name: &'static str,
    pattern: &'static str,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} translates {} wrongly", self.name, self.pattern)
    }
}

impl Error for Disagreement {}

/// Lays out 1 GiB of 4 KiB pages, and checks that all translators agree with what was laid out.
pub fn prepare() -> Result<Box<dyn Job>, Failure> {
    // Lives as long as the program.
    let tables: &'static Tables = Box::leak(Box::new(Tables::new()));
    let mut random = Random::new(1);
    let mut address = |page: u64| tables.page(page) + random.below(PAGE_BYTES);
    let mut pick = Random::new(2);
    let random_pages = (0..ADDRESSES)
        .map(|_| address(pick.below(Tables::PAGES)))
        .collect();
    let hot: Vec<u64> = (0..HOT_PAGES).map(|_| pick.below(Tables::PAGES)).collect();
    let hot_pages = (0..ADDRESSES)
        .map(|_| address(hot[pick.index(HOT_PAGES)]))
        .collect();
    let patterns = [
        Pattern {
            name: RANDOM,
            addresses: random_pages,
            reach: 10.0,
            known: |name| match name {
                plain::NAME => "4.2",
                memflow::NAME => "45–296",
                vmi::NAME => "45",
                _ => "",
            },
        },
        Pattern {
            name: HOT,
            addresses: hot_pages,
            reach: 2.0,
            known: |name| match name {
                plain::NAME => "2.4",
                memflow::NAME => "15–38",
                vmi::NAME => "39",
                _ => "",
            },
        },
    ];
    let mut translators = translators(tables)?;
    let mut figures = Vec::new();
    for pattern in &patterns {
        let mut expected: Vec<Found> = pattern
            .addresses
            .iter()
            .map(|&address| (address, tables.physical(address)))
            .collect();
        expected.sort_unstable();
        for translator in &mut translators {
            if translator.sorted(&pattern.addresses) != expected {
                return Err(Disagreement {
                    name: translator.name(),
                    pattern: pattern.name,
                }
                .into());
            }
            let name = format!("{}, {}", pattern.name, translator.name());
            let figure = Figure::new(name, "ns").known((pattern.known)(translator.name()));
            figures.push(match translator.has_target(pattern) {
                true => figure.reach(pattern.reach),
                false => figure,
            });
        }
    }
    // What each figure contains besides the work.
    figures.push(Figure::new("the loop over the addresses alone", "ns"));
    Ok(Box::new(Translation {
        translators,
        patterns,
        figures,
    }))
}

struct Translation {
    translators: Vec<Box<dyn Translator>>,
    patterns: [Pattern; 2],
    /// For each pattern, one a translator; and one without a translator.
    figures: Vec<Figure>,
}

impl Job for Translation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn round(&mut self) -> Result<(), Failure> {
        let count = self.translators.len();
        for (pattern, figures) in self.patterns.iter().zip(self.figures.chunks_mut(count)) {
            for (translator, figure) in self.translators.iter_mut().zip(figures) {
                // The first pass brings the tables, or their cache, back.
                black_box(translator.sum(&pattern.addresses));
                let (took, sum) = time(|| translator.sum(&pattern.addresses));
                black_box(sum);
                #[expect(clippy::cast_precision_loss, reason = "a small number")]
                figure.add(took / pattern.addresses.len() as f64);
            }
        }
        let [pattern, _] = &self.patterns;
        if let Some(figure) = self.figures.last_mut() {
            let sum = |sum: u64, &address: &u64| sum.wrapping_add(black_box(address));
            let (took, sum) = time(|| pattern.addresses.iter().fold(0, sum));
            black_box(sum);
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            figure.add(took / pattern.addresses.len() as f64);
        }
        Ok(())
    }

    fn figures(&self) -> &[Figure] {
        &self.figures
    }
}
