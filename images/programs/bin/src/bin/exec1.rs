//! Stage 1 of a process that becomes five programs in turn.
#![no_std]
#![no_main]

use guest_rt::Failure;

guest_spin::spin_fn!(
    /// The work of this stage.
    stage_one
);

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    guest_programs::chain::stage(1, stage_one)
}
