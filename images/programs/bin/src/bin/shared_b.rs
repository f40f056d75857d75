//! A quarter of the time in its own function, the rest in two of the shared library's.
#![no_std]
#![no_main]

use guest_programs::{Plan, deadline, run_until};
use guest_rt::Failure;
use guest_rt::dl::Library;
use guest_truth::{LIBWORK, SHARED_B};

/// Where this program wants the library; the other user has another place for it.
const BASE: u64 = 0x7654_3210_0000;

guest_spin::spin_fn!(
    /// The program's own work.
    own_b
);

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    // SAFETY: the library's functions are of this type, and it stays mapped.
    let library = unsafe { Library::load(LIBWORK, BASE, ["lib_mix", "lib_fold"]) }
        .map_err(|error| Failure::Object(LIBWORK, error))?;
    let [lib_mix, lib_fold] = library.functions;
    let names = ["own_b", "lib_mix", "lib_fold"];
    let plan = Plan::new(&SHARED_B, names, [own_b, lib_mix, lib_fold]);
    run_until(&plan, deadline()?);
    Ok(())
}
