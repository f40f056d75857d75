//! What this machine can do, taken in the same rounds as everything else.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::measure::{Figure, time};
use oprofile_workload::random::Random;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Sizes to copy: within a second-level cache, and far beyond every cache.
const COPIES: [(&str, usize, u32); 2] = [
    ("copy of 256 KiB", 256 * KIB, 64),
    ("copy of 64 MiB", 64 * MIB, 1),
];

/// Sizes to chase pointers in: within first-, second- and third-level caches of today's processors, and beyond them.
const CHASES: [(&str, usize); 4] = [
    ("dependent load in 16 KiB (L1)", 16 * KIB),
    ("dependent load in 512 KiB (L2)", 512 * KIB),
    ("dependent load in 8 MiB (L3)", 8 * MIB),
    ("dependent load in 256 MiB (DRAM)", 256 * MIB),
];

/// Loads of one measurement.
const LOADS: u32 = 200_000;

/// Atomic additions of one measurement.
const ADDITIONS: u32 = 100_000;

/// Rounds of independent operations of one measurement.
const OPERATIONS: u32 = 200_000;

/// Words of a cache line.
const LINE_WORDS: usize = 8;

/// A cycle through all cache lines of a piece of memory, in random order.
struct Chase {
    words: Vec<u64>,
    at: usize,
}

impl Chase {
    fn new(bytes: usize) -> Self {
        let lines = bytes / 64;
        let mut order: Vec<usize> = (0..lines).collect();
        Random::new(bytes as u64).shuffle(&mut order);
        let mut words = vec![0; lines * LINE_WORDS];
        for (index, &line) in order.iter().enumerate() {
            let next = order[(index + 1) % lines];
            words[line * LINE_WORDS] = (next * LINE_WORDS) as u64;
        }
        Self { words, at: 0 }
    }

    /// Nanoseconds a load.
    fn round(&mut self) -> f64 {
        let (took, ()) = time(|| {
            for _ in 0..LOADS {
                #[expect(clippy::cast_possible_truncation, reason = "an index")]
                let next = self.words[self.at] as usize;
                self.at = next;
            }
        });
        black_box(self.at);
        took / f64::from(LOADS)
    }
}

/// A buffer to copy from and one to copy to.
struct Copies {
    from: Vec<u8>,
    into: Vec<u8>,
    times: u32,
}

impl Copies {
    fn new(bytes: usize, times: u32) -> Self {
        Self {
            from: vec![1; bytes],
            into: vec![2; bytes],
            times,
        }
    }

    /// Gigabytes a second.
    fn round(&mut self) -> f64 {
        let (took, ()) = time(|| {
            for _ in 0..self.times {
                self.into.copy_from_slice(black_box(&self.from));
                black_box(&mut self.into);
            }
        });
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        let bytes = self.from.len() as f64 * f64::from(self.times);
        bytes / took
    }
}

/// The limits of this machine.
pub struct Machine {
    copies: Vec<Copies>,
    chases: Vec<Chase>,
    /// In the order in which a round measures them.
    pub figures: Vec<Figure>,
}

impl Machine {
    /// Allocates what is to be copied and chased through.
    pub fn new() -> Self {
        let copies = COPIES.iter().map(|&(name, ..)| Figure::new(name, "GB/s"));
        let chases = CHASES.iter().map(|&(name, _)| Figure::new(name, "ns"));
        let rest = [
            Figure::new("twelve independent operations", "ns"),
            Figure::new("atomic addition, no other processor", "ns"),
            Figure::new("reading the clock", "ns"),
        ];
        Self {
            figures: copies.chain(chases).chain(rest).collect(),
            copies: COPIES
                .iter()
                .map(|&(_, bytes, times)| Copies::new(bytes, times))
                .collect(),
            chases: CHASES.iter().map(|&(_, bytes)| Chase::new(bytes)).collect(),
        }
    }

    /// Measures each limit once.
    pub fn round(&mut self) {
        let copies = self.copies.iter_mut().map(Copies::round);
        let chases = self.chases.iter_mut().map(Chase::round);
        let rest = [
            independent_operations(),
            atomic_addition(),
            reading_the_clock(),
        ];
        let values: Vec<f64> = copies.chain(chases).chain(rest).collect();
        for (figure, value) in self.figures.iter_mut().zip(values) {
            figure.add(value);
        }
    }
}

/// What shows a neighbour on the same core: more operations that wait for nothing than its units take at once.
fn independent_operations() -> f64 {
    let mut words = [1_u64, 2, 3, 4, 5, 6];
    let (took, ()) = time(|| {
        for step in 0..u64::from(OPERATIONS) {
            for word in &mut words {
                *word = word.rotate_left(5) ^ step;
            }
        }
    });
    black_box(words);
    took / f64::from(OPERATIONS)
}

fn atomic_addition() -> f64 {
    let counter = AtomicU64::new(0);
    let (took, ()) = time(|| {
        for _ in 0..ADDITIONS {
            black_box(&counter).fetch_add(1, Ordering::AcqRel);
        }
    });
    took / f64::from(ADDITIONS)
}

/// What each measurement contains besides the work.
fn reading_the_clock() -> f64 {
    const READINGS: u32 = 1_000;
    let mut total = 0.0;
    for _ in 0..READINGS {
        total += time(|| ()).0;
    }
    total / f64::from(READINGS)
}
