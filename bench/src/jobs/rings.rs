//! What the device does with a sample besides finding out what it means: rings, copies, checks, the event buffer. The samples
//! are those of a kernel thread, for which nothing is looked up.

use oprofile_device::Settings;
use oprofile_device::test_utils::{KERNEL_START, SyntheticGuest};
use oprofile_guest_agent::Sample;
use oprofile_wire::sample::MAX_BUFFER_BYTES;
use oprofile_workload::loopback::Loopback;

use super::{Failure, Job, WrongCount};
use crate::measure::{Figure, add_time};

/// Name of the job.
pub const NAME: &str = "rings";

/// Samples between two syncs, and syncs of a pass.
const BATCH: usize = 2_048;
const SYNCS: usize = 25;

/// A vCPU that runs a kernel thread.
struct Vcpu {
    loopback: Loopback,
    sample: Sample,
    words: Vec<u64>,
}

impl Vcpu {
    fn new(sample_buffer_bytes: u32) -> Result<Self, Failure> {
        let guest = SyntheticGuest::default();
        let settings = Settings {
            sample_buffer_bytes,
            ..Settings::default()
        };
        Ok(Self {
            sample: Sample {
                pc: KERNEL_START,
                is_kernel: true,
                event: 0,
                task: guest.init_task(),
            },
            words: Vec::with_capacity(settings.buffer_size),
            loopback: Loopback::new(guest, settings)?,
        })
    }

    /// Nanoseconds a sample.
    fn time(&mut self) -> f64 {
        let mut took = 0.0;
        for _ in 0..SYNCS {
            self.loopback.on_vcpu(0, |vcpu| {
                for _ in 0..BATCH {
                    vcpu.sample(&self.sample, 0, &[]);
                }
                vcpu.post();
            });
            add_time(&mut took, || self.loopback.device().tick());
            self.words.clear();
            self.loopback.read(&mut self.words);
        }
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let samples = (SYNCS * BATCH) as f64;
        took / samples
    }
}

/// Buffers of the default size and of the largest.
pub fn prepare() -> Result<Box<dyn Job>, Failure> {
    let default = Settings::default().sample_buffer_bytes;
    let largest = u32::try_from(MAX_BUFFER_BYTES)?;
    let mut vcpus = [Vcpu::new(default)?, Vcpu::new(largest)?];
    for vcpu in &mut vcpus {
        vcpu.time();
        let expected = SYNCS * BATCH;
        let found = vcpu.loopback.device().account().sync.kernel;
        if found != expected as u64 {
            return Err(WrongCount { expected, found }.into());
        }
    }
    let figure = |bytes| {
        let name = format!("kernel threads, buffers of {} KiB", bytes / 1_024);
        Figure::new(name, "ns/sample").known("C FIFO, kernel only: 7.9")
    };
    Ok(Box::new(Rings {
        vcpus,
        figures: [figure(default), figure(largest)],
    }))
}

struct Rings {
    vcpus: [Vcpu; 2],
    figures: [Figure; 2],
}

impl Job for Rings {
    fn name(&self) -> &'static str {
        NAME
    }

    fn round(&mut self) -> Result<(), Failure> {
        for (vcpu, figure) in self.vcpus.iter_mut().zip(&mut self.figures) {
            vcpu.time();
            figure.add(vcpu.time());
        }
        Ok(())
    }

    fn figures(&self) -> &[Figure] {
        &self.figures
    }
}
