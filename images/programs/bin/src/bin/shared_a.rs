//! Half of the time in its own function, half in the shared library's.
#![no_std]
#![no_main]

use guest_programs::{Plan, deadline, run_until};
use guest_rt::Failure;
use guest_rt::dl::Library;
use guest_truth::{LIBWORK, SHARED_A};

/// Where this program wants the library; the other user has another place for it.
const BASE: u64 = 0x10_0000_0000;

guest_spin::spin_fn!(
    /// The program's own work.
    own_a
);

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    // SAFETY: the library's functions are of this type, and it stays mapped.
    let library = unsafe { Library::load(LIBWORK, BASE, ["lib_mix"]) }
        .map_err(|error| Failure::Object(LIBWORK, error))?;
    let [lib_mix] = library.functions;
    let plan = Plan::new(&SHARED_A, ["own_a", "lib_mix"], [own_a, lib_mix]);
    run_until(&plan, deadline()?);
    Ok(())
}
