//! The trap: two files take turns at one address. A profiler that resolves a sample after the munmap names the wrong
//! file, and nothing looks amiss.
#![no_std]
#![no_main]

use guest_programs::deadline;
use guest_programs::random::Random;
use guest_rt::dl::Library;
use guest_rt::{Failure, sys};
use guest_truth::{TRAP_A, TRAP_B};

/// Where both go.
const BASE: u64 = 0x20_0000_0000;

/// Least and most iterations of a turn, the same for both files: from less than a sampling period to a few.
const ITERATIONS: (u64, u64) = (40_000, 360_000);

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    let deadline = deadline()?;
    let mut random = Random::new(deadline);
    while sys::clock_ns() < deadline {
        let iterations = random.between(ITERATIONS.0, ITERATIONS.1);
        turn(TRAP_A, "trap_a", iterations)?;
        turn(TRAP_B, "trap_b", iterations)?;
    }
    Ok(())
}

fn turn(path: &'static str, function: &'static str, iterations: u64) -> Result<(), Failure> {
    let refused = |error| Failure::Object(path, error);
    // SAFETY: the object's function is of this type and called before the object goes, not after.
    let library = unsafe { Library::load(path, BASE, [function]) }.map_err(refused)?;
    let [work] = library.functions;
    work(iterations);
    library.unload().map_err(refused)
}
