//! Three functions with 60, 30 and 10 % of the time.
#![no_std]
#![no_main]

use guest_programs::{Plan, deadline, run_until};
use guest_rt::Failure;

guest_spin::spin_fn!(
    /// Most of the work.
    hot
);
guest_spin::spin_fn!(
    /// Some of it.
    warm
);
guest_spin::spin_fn!(
    /// The rest.
    cool
);

const PLAN: Plan<3> = Plan::new(
    &guest_truth::SHARES,
    ["hot", "warm", "cool"],
    [hot, warm, cool],
);

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    run_until(&PLAN, deadline()?);
    Ok(())
}
