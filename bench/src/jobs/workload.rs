//! A recorded load: samples → words → event words, over a world of sorted arrays.

use oprofile_workload::{MIXED, Recorded, Replay, TRACE, Workload};

use super::{Failure, Job};
use crate::measure::{Figure, add_time};

/// Name of the job of mixed samples.
pub const MIXED_NAME: &str = "mixed";
/// Name of the job of call chains.
pub const TRACE_NAME: &str = "trace";

/// The load of user and kernel samples.
pub fn mixed() -> Result<Box<dyn Job>, Failure> {
    let figures = [
        Figure::new("write: samples → words", "ns/sample").known("C 9.0"),
        Figure::new("sync: words → event words", "ns/sample")
            .reach(20.0)
            .known("C 44.0"),
        Figure::new("read: event buffer → reader", "ns/sample").known("C 0.6"),
    ];
    Words::prepare(MIXED_NAME, &MIXED, figures)
}

/// The load of call chains.
pub fn trace() -> Result<Box<dyn Job>, Failure> {
    let figures = [
        Figure::new("write: samples → words", "ns/sample").known("C 53.3"),
        Figure::new("sync: words → event words", "ns/sample")
            .reach(120.0)
            .known("C 225.2"),
        Figure::new("read: event buffer → reader", "ns/sample").known("C 3.5"),
    ];
    Words::prepare(TRACE_NAME, &TRACE, figures)
}

/// A load and the steps that it goes through.
struct Words {
    name: &'static str,
    workload: &'static Workload,
    replay: Replay<'static>,
    figures: [Figure; 3],
}

impl Words {
    fn prepare(
        name: &'static str,
        recorded: &Recorded,
        figures: [Figure; 3],
    ) -> Result<Box<dyn Job>, Failure> {
        // Lives as long as the program.
        let workload: &'static Workload = Box::leak(Box::new(Workload::load(recorded)?));
        let mut replay = Replay::new(workload)?;
        recorded.check(&replay.run())?;
        Ok(Box::new(Self {
            name,
            workload,
            replay,
            figures,
        }))
    }

    /// Nanoseconds that each step takes for the whole load.
    fn pass(&mut self) -> [f64; 3] {
        let [mut write, mut sync, mut read] = [0.0; 3];
        let replay = &mut self.replay;
        for batch in self.workload.batches() {
            add_time(&mut write, || replay.write(batch));
            add_time(&mut sync, || replay.sync());
            add_time(&mut read, || replay.read(false));
        }
        add_time(&mut read, || replay.read(true));
        [write, sync, read]
    }
}

impl Job for Words {
    fn name(&self) -> &'static str {
        self.name
    }

    fn round(&mut self) -> Result<(), Failure> {
        // The first pass brings the world back into the caches.
        self.pass();
        let times = self.pass();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 samples")]
        let samples = self.workload.samples.len() as f64;
        for (figure, time) in self.figures.iter_mut().zip(times) {
            figure.add(time / samples);
        }
        Ok(())
    }

    fn figures(&self) -> &[Figure] {
        &self.figures
    }
}
