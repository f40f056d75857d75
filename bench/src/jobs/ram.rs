//! A load whose world lies in guest RAM: agent → rings → device → event words.

use oprofile_device::Settings;
use oprofile_device::test_utils::{GuestShape, LINUX_6_1_LAYOUT, SyntheticGuest};
use oprofile_wire::layout::{LayoutEntry, VmaStore};
use oprofile_wire::sample::MAX_BUFFER_BYTES;
use oprofile_workload::loopback::Loopback;
use oprofile_workload::ram::WorldInRam;
use oprofile_workload::{
    MIXED, Recorded, Replay, Shape, StreamHash, Switches, TRACE, Workload, WrongStream,
};

use super::{Failure, Job};
use crate::measure::{Figure, RATIO, add_time};

/// Name of the job of the recorded loads.
pub const NAME: &str = "ram";
/// Name of the job of many mappings.
pub const VMAS_NAME: &str = "vmas";

/// RAM of a guest: what is not touched costs nothing. Each device that is made anew takes some for its rings and buffers.
const RAM_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// How a kernel keeps its mappings.
struct Kernel {
    name: &'static str,
    store: VmaStore,
    layout: &'static [LayoutEntry],
}

const LINUX_6_1: Kernel = Kernel {
    name: "Linux 6.1, maple tree",
    store: VmaStore::Maple,
    layout: LINUX_6_1_LAYOUT,
};

/// A load laid out in a guest, and what runs it.
struct InGuest {
    workload: Workload,
    world: WorldInRam,
    settings: Settings,
    /// Empty only while a device is exchanged.
    loopback: Option<Loopback>,
    words: Vec<u64>,
}

impl InGuest {
    fn new(workload: Workload, kernel: &Kernel) -> Result<Self, Failure> {
        let mut guest = SyntheticGuest::with_shape(GuestShape {
            layout: kernel.layout.to_vec(),
            store: kernel.store,
            ram_bytes: RAM_BYTES,
            ..GuestShape::default()
        });
        let world = WorldInRam::lay_out(&mut guest, &workload);
        let settings = Settings {
            backtrace_depth: u32::try_from(workload.depth)?,
            // What is synced at once is one buffer, as with the original: each buffer tells mode and task anew.
            sample_buffer_bytes: u32::try_from(MAX_BUFFER_BYTES)?,
            ..Settings::default()
        };
        let words = Vec::with_capacity(settings.buffer_size);
        Ok(Self {
            loopback: Some(Loopback::new(guest, settings.clone())?),
            workload,
            world,
            settings,
            words,
        })
    }

    /// Has a new device meet the guest, one that knows nothing of it.
    fn renew(&mut self) -> Result<(), Failure> {
        if let Some(loopback) = self.loopback.take() {
            let guest = loopback.into_guest();
            self.loopback = Some(Loopback::new(guest, self.settings.clone())?);
        }
        Ok(())
    }

    /// The whole load; nanoseconds a sample that the device takes. `see` gets the words.
    fn pass(&mut self, mut see: impl FnMut(&mut WorldInRam, &[u64], &Loopback)) -> f64 {
        let Some(loopback) = &mut self.loopback else {
            return 0.0;
        };
        let mut took = 0.0;
        for batch in self.workload.batches() {
            loopback.on_vcpu(0, |vcpu| self.world.sample(vcpu, &self.workload, batch));
            add_time(&mut took, || loopback.device().tick());
            self.words.clear();
            loopback.read(&mut self.words);
            see(&mut self.world, &self.words, loopback);
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 samples")]
        let samples = self.workload.samples.len() as f64;
        took / samples
    }

    fn time(&mut self) -> f64 {
        self.pass(|_, _, _| ())
    }

    fn stream(&mut self) -> StreamHash {
        let mut stream = StreamHash::default();
        self.pass(|world, words, loopback| world.add(&mut stream, words, loopback));
        stream
    }
}

/// The recorded loads in a Linux guest, with a device that knows the guest and one that meets it.
pub fn recorded() -> Result<Box<dyn Job>, Failure> {
    let load = |recorded: &Recorded| -> Result<InGuest, Failure> {
        let mut load = InGuest::new(Workload::load(recorded)?, &LINUX_6_1)?;
        recorded.check(&load.stream())?;
        Ok(load)
    };
    let name = LINUX_6_1.name;
    Ok(Box::new(RecordedLoads {
        loads: [load(&MIXED)?, load(&TRACE)?],
        figures: [
            Figure::new(format!("mixed load, {name}, warm"), "ns/sample")
                .reach(25.0)
                .known("C, native pointers: 40–67"),
            Figure::new(
                format!("mixed load, {name}, every mm for the first time"),
                "ns/sample",
            )
            .reach(150.0),
            Figure::new(format!("call chains, {name}, warm"), "ns/sample")
                .known("C, native pointers: 225"),
            Figure::new(
                format!("call chains, {name}, every mm for the first time"),
                "ns/sample",
            ),
        ],
    }))
}

struct RecordedLoads {
    loads: [InGuest; 2],
    figures: [Figure; 4],
}

impl Job for RecordedLoads {
    fn name(&self) -> &'static str {
        NAME
    }

    fn round(&mut self) -> Result<(), Failure> {
        for (load, figures) in self.loads.iter_mut().zip(self.figures.chunks_mut(2)) {
            let [warm, cold] = figures else {
                continue;
            };
            load.renew()?;
            cold.add(load.time());
            warm.add(load.time());
        }
        Ok(())
    }

    fn figures(&self) -> &[Figure] {
        &self.figures
    }
}

/// Mappings of a task: few and many.
const VMAS: [usize; 2] = [200, 2_000];

/// A load like the recorded one with more mappings.
const SHAPE: Shape = Shape {
    tasks: 64,
    vmas: 0,
    samples: 100_000,
    batch: 4_096,
    switches: Switches::AtRandom,
};

/// Generated loads with few and many mappings a task, over sorted arrays and in a Linux guest.
pub fn vmas() -> Result<Box<dyn Job>, Failure> {
    let load = |vmas| -> Result<Load, Failure> {
        let workload = Workload::generate(&Shape { vmas, ..SHAPE });
        // Lives as long as the program.
        let kept: &'static Workload = Box::leak(Box::new(workload.clone()));
        let mut replay = Replay::new(kept)?;
        let expected = replay.run();
        let mut in_guest = InGuest::new(workload, &LINUX_6_1)?;
        let stream = in_guest.stream();
        if (stream.words(), stream.hash()) != (expected.words(), expected.hash()) {
            return Err(WrongStream {
                name: "a generated load",
                words: stream.words(),
                hash: stream.hash(),
                expected_words: expected.words(),
                expected_hash: expected.hash(),
            }
            .into());
        }
        Ok(Load {
            kept,
            replay,
            in_guest,
        })
    };
    let [few, many] = VMAS;
    let name = LINUX_6_1.name;
    // The arrays are this benchmark's own, so there is no target for them: they show what a plain search costs.
    let figure = |what: &str, vmas: usize| Figure::new(format!("{what}, {vmas} VMAs"), "ns/sample");
    let ratio = |what: &str| Figure::new(format!("{what}, {many} ÷ {few} VMAs"), RATIO);
    Ok(Box::new(MoreVmas {
        loads: [load(few)?, load(many)?],
        figures: [
            figure("sorted arrays", few),
            figure("sorted arrays", many),
            ratio("sorted arrays").known("C 2.8"),
            figure(name, few),
            figure(name, many),
            ratio(name).reach(1.5).known("C 2.8"),
        ],
    }))
}

/// A load, ready for both ways.
struct Load {
    kept: &'static Workload,
    replay: Replay<'static>,
    in_guest: InGuest,
}

impl Load {
    /// Nanoseconds a sample of the pipeline over sorted arrays.
    fn time_arrays(&mut self) -> f64 {
        let mut took = 0.0;
        for batch in self.kept.batches() {
            self.replay.write(batch);
            add_time(&mut took, || self.replay.sync());
            self.replay.read(true);
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 samples")]
        let samples = self.kept.samples.len() as f64;
        took / samples
    }
}

struct MoreVmas {
    loads: [Load; 2],
    figures: [Figure; 6],
}

impl Job for MoreVmas {
    fn name(&self) -> &'static str {
        VMAS_NAME
    }

    fn round(&mut self) -> Result<(), Failure> {
        let ways: [fn(&mut Load) -> f64; 2] = [Load::time_arrays, |load| load.in_guest.time()];
        for (way, figures) in ways.into_iter().zip(self.figures.chunks_mut(3)) {
            let [few, many] = self.loads.each_mut().map(|load| {
                way(load);
                way(load)
            });
            for (figure, value) in figures.iter_mut().zip([few, many, many / few]) {
                figure.add(value);
            }
        }
        Ok(())
    }

    fn figures(&self) -> &[Figure] {
        &self.figures
    }
}
