//! The agent's half: from a sample to the words of an open buffer in guest RAM, posting included.

use std::error::Error;
use std::fmt;

use oprofile_device::Settings;
use oprofile_device::test_utils::SyntheticGuest;
use oprofile_guest_agent::Sample;
use oprofile_workload::loopback::{Loopback, Sampler};
use oprofile_workload::{MIXED, ScriptedWorld, Workload};

use super::{Failure, Job};
use crate::measure::{Figure, add_time};

/// Name of the job.
pub const NAME: &str = "writer";

/// Samples between two looks of the device: fewer than half of the default buffers hold, so that the agent never kicks.
const BATCH: usize = 2_048;

/// Samples of a pass.
const SAMPLES: usize = 25 * BATCH;

/// The agent lost samples: then it did not write them all.
#[derive(Debug)]
struct Lost(u64);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agent lost {} samples", self.0)
    }
}

impl Error for Lost {}

/// The samples of the mixed load through a vCPU's agent, one task and the recorded ones.
pub fn prepare() -> Result<Box<dyn Job>, Failure> {
    let guest = SyntheticGuest::default();
    let one_task = guest.init_task();
    let loopback = Loopback::new(guest, Settings::default())?;
    let workload = Workload::load(&MIXED)?;
    let sample = |sample: &oprofile_workload::Sample| Sample {
        pc: sample.pc,
        is_kernel: sample.is_kernel,
        event: sample.event.into(),
        task: ScriptedWorld::task_pointer(sample.task),
    };
    let mixed: Vec<Sample> = workload.samples.iter().take(SAMPLES).map(sample).collect();
    let one = |sample: &Sample| Sample {
        is_kernel: false,
        task: one_task,
        ..*sample
    };
    let plain = mixed.iter().map(one).collect();
    Ok(Box::new(Writing {
        loopback,
        loads: [mixed, plain],
        words: Vec::new(),
        figures: [
            Figure::new("agent, mixed load", "ns/sample")
                .reach(8.0)
                .known("C FIFO 8"),
            Figure::new("agent, one task in user mode", "ns/sample")
                .reach(8.0)
                .known("C FIFO 5.7"),
        ],
    }))
}

/// Loads and the agent that writes them.
struct Writing {
    loopback: Loopback,
    loads: [Vec<Sample>; 2],
    words: Vec<u64>,
    figures: [Figure; 2],
}

/// Takes `samples`, and has the buffers taken away, which is not timed.
fn pass(loopback: &mut Loopback, samples: &[Sample], words: &mut Vec<u64>) -> f64 {
    let mut took = 0.0;
    for batch in samples.chunks(BATCH) {
        loopback.on_vcpu(0, |vcpu: &mut Sampler<'_>| {
            add_time(&mut took, || {
                for sample in batch {
                    vcpu.sample(sample, sample.task, &[]);
                }
                vcpu.post();
            });
        });
        loopback.device().tick();
        words.clear();
        loopback.read(words);
    }
    took
}

impl Job for Writing {
    fn name(&self) -> &'static str {
        NAME
    }

    fn round(&mut self) -> Result<(), Failure> {
        for (samples, figure) in self.loads.iter().zip(&mut self.figures) {
            pass(&mut self.loopback, samples, &mut self.words);
            let took = pass(&mut self.loopback, samples, &mut self.words);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52 samples")]
            let count = samples.len() as f64;
            figure.add(took / count);
        }
        match self.loopback.on_vcpu(0, |vcpu| vcpu.lost()) {
            0 => Ok(()),
            lost => Err(Lost(lost).into()),
        }
    }

    fn figures(&self) -> &[Figure] {
        &self.figures
    }
}
