//! A process of a few milliseconds: its last samples are the ones that a profiler loses.
#![no_std]
#![no_main]

use guest_programs::{Plan, run_until};
use guest_rt::{Failure, sys};
use guest_truth::STORM;

/// How long it lives.
const LIFE_NS: u64 = 8_000_000;

guest_spin::spin_fn!(
    /// Most of its life.
    short_long
);
guest_spin::spin_fn!(
    /// The rest.
    short_brief
);

const NAMES: [&str; 2] = ["short_long", "short_brief"];
const PLAN: Plan<2> = Plan::new(&STORM, NAMES, [short_long, short_brief]);

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    run_until(&PLAN, sys::clock_ns() + LIFE_NS);
    Ok(())
}
