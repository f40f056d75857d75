//! Loads like the recorded one, of any size: the same distributions, other random numbers.

use crate::file::{ANONYMOUS, Sample, Task, Vma, Workload};
use crate::random::Random;

const PAGE_BYTES: u64 = 4_096;
/// Where the first mapping of every task may lie.
const FIRST_ADDRESS: u64 = 0x40_0000;
/// Where kernel addresses begin, and how many bytes they spread over.
const KERNEL_TEXT: u64 = 0xffff_ffff_8100_0000;
const KERNEL_TEXT_BYTES: u64 = 0x80_0000;
/// Most pages of a mapping, and of the gap in front of it.
const MAX_PAGES: u64 = 256;
/// Files that are mapped.
const FILES: u64 = 160;
/// One sample in so many is the kernel's.
const KERNEL_SHARE: u64 = 4;
/// Samples in a row of one task, on average, when tasks switch at random.
const RUN: u64 = 16;

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Processes of one task each.
    pub tasks: u32,
    /// Mappings of each: 1 to 256 pages, three in four of a file, a gap before one in three.
    pub vmas: usize,
    /// Samples; one in four of the kernel, Zipf over the mappings of their task.
    pub samples: usize,
    /// Samples between two syncs.
    pub batch: usize,
    /// When another task is sampled.
    pub switches: Switches,
}

/// When another task is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switches {
    /// At random, 16 samples in a row on average.
    AtRandom,
    /// With each batch, in turn: as if each batch were another CPU's.
    WithBatch,
}

/// Zipf's distribution with exponent 1: the chance of index n is proportional to 1 / (n + 1).
#[derive(Clone, Debug)]
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count)
            .map(|rank| {
                #[expect(clippy::cast_precision_loss, reason = "a small number")]
                let rank = rank as f64;
                sum += 1.0 / rank;
                sum
            })
            .collect();
        Self { sums }
    }

    fn pick(&self, random: &mut Random) -> usize {
        let total = self.sums.last().copied().unwrap_or(0.0);
        let at = random.part() * total;
        let index = self.sums.partition_point(|&sum| sum <= at);
        index.min(self.sums.len().saturating_sub(1))
    }
}

impl Workload {
    /// A load of this shape; the same shape makes the same load.
    #[must_use]
    pub fn generate(shape: &Shape) -> Self {
        let mut random = Random::new(u64::from(shape.tasks) << 32 | shape.vmas as u64);
        let tasks: Vec<Task> = (0..shape.tasks)
            .map(|_| task(&mut random, shape.vmas))
            .collect();
        // Which mapping is the most popular is another one for each task.
        let orders: Vec<Vec<usize>> = tasks
            .iter()
            .map(|task| permutation(&mut random, task.vmas.len()))
            .collect();
        let zipf = Zipf::new(shape.vmas);
        let mut current = 0;
        let samples = (0..shape.samples)
            .map(|index| {
                match shape.switches {
                    Switches::AtRandom if random.below(RUN) == 0 => {
                        current = random.index(tasks.len());
                    }
                    Switches::AtRandom => {}
                    Switches::WithBatch => current = index / shape.batch % tasks.len(),
                }
                let is_kernel = random.below(KERNEL_SHARE) == 0;
                let pc = if is_kernel {
                    KERNEL_TEXT + random.below(KERNEL_TEXT_BYTES)
                } else {
                    let vma = &tasks[current].vmas[orders[current][zipf.pick(&mut random)]];
                    vma.start + random.below(vma.end - vma.start)
                };
                Sample {
                    pc,
                    task: u32::try_from(current).unwrap_or(0),
                    is_kernel,
                    event: 0,
                    frames: 0,
                    first_frame: 0,
                }
            })
            .collect();
        Self {
            tasks,
            files: FILES,
            depth: 0,
            samples,
            frames: Vec::new(),
            batch: shape.batch,
        }
    }
}

fn task(random: &mut Random, vmas: usize) -> Task {
    let mut next = FIRST_ADDRESS;
    let vmas = (0..vmas)
        .map(|_| {
            if random.below(3) == 0 {
                next += PAGE_BYTES * (1 + random.below(MAX_PAGES));
            }
            let start = next;
            next += PAGE_BYTES * (1 + random.below(MAX_PAGES));
            let is_file = random.below(4) != 0;
            Vma {
                start,
                end: next,
                page_offset: if is_file { random.below(MAX_PAGES) } else { 0 },
                file: if is_file {
                    random.below(FILES)
                } else {
                    ANONYMOUS
                },
            }
        })
        .collect();
    let exe = random.below(FILES);
    Task { exe, vmas }
}

fn permutation(random: &mut Random, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    random.shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Replay;

    const SHAPE: Shape = Shape {
        tasks: 8,
        vmas: 50,
        samples: 20_000,
        batch: 1_000,
        switches: Switches::AtRandom,
    };

    #[test]
    fn each_sample_lies_in_a_mapping_of_its_task_or_in_the_kernel() {
        let workload = Workload::generate(&SHAPE);
        let mut replay = Replay::new(&workload).unwrap();
        let _ = replay.run();
        let account = replay.account();
        assert_eq!(account.kernel + account.file + account.anonymous, 20_000);
        assert!((4_000..6_000).contains(&account.kernel), "{account:?}");
        assert!(account.anonymous * 2 < account.file, "{account:?}");
    }

    #[test]
    fn popular_mappings_get_the_share_that_zipf_gives_them() {
        let mut random = Random::new(1);
        let zipf = Zipf::new(200);
        let mut counts = [0; 200];
        for _ in 0..100_000 {
            counts[zipf.pick(&mut random)] += 1;
        }
        // 1 / 5.878 and half of it.
        assert!((16_000..18_000).contains(&counts[0]), "{}", counts[0]);
        assert!((8_000..9_000).contains(&counts[1]), "{}", counts[1]);
        assert!(counts.iter().all(|&count| count > 0));
    }

    #[test]
    fn the_same_shape_makes_the_same_load() {
        let [one, other] = [0, 1].map(|_| Workload::generate(&SHAPE));
        assert_eq!(one.samples, other.samples);
        assert_eq!(one.tasks, other.tasks);
    }
}
