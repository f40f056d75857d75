//! What a sample costs in guests of ever more vCPUs, each with as many samples.

use oprofile_device::Settings;
use oprofile_device::test_utils::{GuestShape, LINUX_6_1_LAYOUT, SyntheticGuest};
use oprofile_wire::layout::VmaStore;
use oprofile_workload::loopback::Loopback;
use oprofile_workload::ram::WorldInRam;
use oprofile_workload::{Shape, Switches, Workload};

use super::{Failure, Job, WrongCount};
use crate::measure::{Figure, RATIO, add_time};

/// Name of the job.
pub const NAME: &str = "vcpus";

/// Sizes of guests: of those with samples in programs, and of those with samples in the kernel only.
const VCPUS: [u16; 4] = [1, 4, 16, 64];
const KERNEL_VCPUS: [u16; 2] = [1, 64];

/// Samples of a vCPU between two syncs: as many as 10 kHz brings in OProfile's sync period. They fill four buffers of the
/// default size.
const SAMPLES: usize = 1_000;

/// Syncs of one vCPU that a round measures: more of them in small guests.
const SYNCS: usize = 128;

/// Mappings of a task: a small program with its libraries.
const VMAS: usize = 24;

const RAM_BYTES: u64 = 256 * 1024 * 1024;

/// A guest in which each vCPU runs a task of its own.
struct Guest {
    vcpus: u16,
    workload: Workload,
    world: WorldInRam,
    loopback: Loopback,
    words: Vec<u64>,
}

impl Guest {
    fn new(vcpus: u16, is_kernel_only: bool) -> Result<Self, Failure> {
        // A batch is what a vCPU takes between two syncs.
        let mut workload = Workload::generate(&Shape {
            tasks: vcpus.into(),
            vmas: VMAS,
            samples: SAMPLES * usize::from(vcpus),
            batch: SAMPLES,
            switches: Switches::WithBatch,
        });
        if is_kernel_only {
            for sample in &mut workload.samples {
                sample.is_kernel = true;
            }
        }
        let mut guest = SyntheticGuest::with_shape(GuestShape {
            layout: LINUX_6_1_LAYOUT.to_vec(),
            store: VmaStore::Maple,
            ram_bytes: RAM_BYTES,
            ..GuestShape::default()
        });
        let world = WorldInRam::lay_out(&mut guest, &workload);
        let settings = Settings {
            vcpus,
            // Room for what all vCPUs bring at once.
            buffer_size: 1 << 20,
            ..Settings::default()
        };
        let words = Vec::with_capacity(settings.buffer_size);
        Ok(Self {
            vcpus,
            workload,
            world,
            loopback: Loopback::new(guest, settings)?,
            words,
        })
    }

    /// Nanoseconds a sample.
    fn time(&mut self) -> f64 {
        let times = SYNCS / usize::from(self.vcpus);
        let mut took = 0.0;
        for _ in 0..times {
            for (vcpu, batch) in (0..).zip(self.workload.batches()) {
                self.loopback
                    .on_vcpu(vcpu, |vcpu| self.world.sample(vcpu, &self.workload, batch));
            }
            add_time(&mut took, || self.loopback.device().tick());
            self.words.clear();
            self.loopback.read(&mut self.words);
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 samples")]
        let samples = (times * self.workload.samples.len()) as f64;
        took / samples
    }

    /// Each sample of a pass has been resolved.
    fn check(&mut self) -> Result<(), Failure> {
        let resolved = |loopback: &Loopback| {
            let account = loopback.device().account();
            account.sync.kernel + account.sync.file + account.sync.anonymous
        };
        let before = resolved(&self.loopback);
        self.time();
        let expected = SYNCS * SAMPLES;
        let found = resolved(&self.loopback) - before;
        if found != expected as u64 {
            return Err(WrongCount { expected, found }.into());
        }
        Ok(())
    }
}

/// Guests of 1 to 64 vCPUs.
pub fn prepare() -> Result<Box<dyn Job>, Failure> {
    let family = |what: &str, sizes: &[u16], is_kernel_only| -> Result<Family, Failure> {
        let mut guests = Vec::new();
        for &vcpus in sizes {
            let mut guest = Guest::new(vcpus, is_kernel_only)?;
            guest.check()?;
            guests.push(guest);
        }
        let each = sizes.iter().map(|vcpus| {
            let name = format!("{what}, {SAMPLES} samples on each of {vcpus} vCPUs");
            Figure::new(name, "ns/sample")
        });
        let ratio = Figure::new(format!("{what}, most ÷ fewest vCPUs"), RATIO).reach(1.3);
        Ok(Family {
            guests,
            figures: each.chain([ratio]).collect(),
        })
    };
    Ok(Box::new(MoreVcpus {
        families: [
            family("programs", &VCPUS, false)?,
            family("kernel", &KERNEL_VCPUS, true)?,
        ],
        figures: Vec::new(),
    }))
}

/// Guests that differ in size alone.
struct Family {
    guests: Vec<Guest>,
    /// One a guest, then the ratio of the last to the first.
    figures: Vec<Figure>,
}

struct MoreVcpus {
    families: [Family; 2],
    /// Those of all families.
    figures: Vec<Figure>,
}

impl Job for MoreVcpus {
    fn name(&self) -> &'static str {
        NAME
    }

    fn round(&mut self) -> Result<(), Failure> {
        for Family { guests, figures } in &mut self.families {
            let mut values = Vec::new();
            for guest in guests {
                guest.time();
                values.push(guest.time());
            }
            if let [first, .., last] = values[..] {
                values.push(last / first);
            }
            for (figure, value) in figures.iter_mut().zip(values) {
                figure.add(value);
            }
        }
        let all = self.families.iter().flat_map(|family| &family.figures);
        self.figures = all.cloned().collect();
        Ok(())
    }

    fn figures(&self) -> &[Figure] {
        &self.figures
    }
}
