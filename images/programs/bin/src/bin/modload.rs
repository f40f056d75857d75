//! Loads a kernel module and has it do most of the work.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use guest_programs::{Plan, deadline, run_until};
use guest_rt::{Errno, Failure, sys};
use guest_truth::{MODULE, MODULE_FILE};

guest_spin::spin_fn!(
    /// The part done in user mode.
    user_part
);

/// The module's id.
static ID: AtomicU64 = AtomicU64::new(0);
/// The last error number of a call, or 0.
static FAILED: AtomicI64 = AtomicI64::new(0);

/// Functions of the module by their index in address order.
const COOL: u64 = 0;
const HOT: u64 = 1;

fn call(index: u64, iterations: u64) -> u64 {
    match sys::call_module(ID.load(Ordering::Relaxed), index, iterations) {
        Ok(result) => result,
        Err(errno) => {
            FAILED.store(errno.0, Ordering::Relaxed);
            0
        }
    }
}

extern "C" fn hot(iterations: u64) -> u64 {
    call(HOT, iterations)
}

extern "C" fn cool(iterations: u64) -> u64 {
    call(COOL, iterations)
}

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    let id = sys::load_module(MODULE_FILE).map_err(|e| Failure::Call("load_module", e))?;
    ID.store(id, Ordering::Relaxed);
    let names = ["user_part", "mod_hot", "mod_cool"];
    run_until(
        &Plan::new(&MODULE, names, [user_part, hot, cool]),
        deadline()?,
    );
    match FAILED.load(Ordering::Relaxed) {
        0 => Ok(()),
        errno => Err(Failure::Call("call_module", Errno(errno))),
    }
}
