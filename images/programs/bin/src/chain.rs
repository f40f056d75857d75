//! One stage of the exec chain.

use guest_rt::dl::Work;
use guest_rt::io::Argument;
use guest_rt::{Failure, sys};
use guest_truth::EXEC;

use crate::arguments::pair;
use crate::random::Random;

/// Least and most iterations of a stage: long beside an exec, 10 to 40 milliseconds in the lab.
const ITERATIONS: (u64, u64) = (1_000_000, 3_000_000);

/// Does the work of stage `stage` (from 1) and execs the next, the last one the first until the deadline: whole cycles
/// only, and the same number of iterations in each stage of a cycle, so that all stages get equal time.
///
/// # Errors
/// When the argument or an exec fails.
pub fn stage(stage: usize, work: Work) -> Result<(), Failure> {
    let argument = Argument::get()?;
    // Init knows nothing of cycles and gives the deadline alone.
    let (deadline, cycle) = match argument.text().parse() {
        Ok(deadline) => (deadline, 0),
        Err(_) => pair(argument.text())?,
    };
    work(Random::new(cycle).between(ITERATIONS.0, ITERATIONS.1));
    let (next, cycle) = if stage < EXEC.shares.len() {
        (stage + 1, cycle)
    } else if sys::clock_ns() < deadline {
        (1, cycle.wrapping_add(1))
    } else {
        return Ok(());
    };
    let path = Argument::format(format_args!("/bin/exec{next}"))?;
    let argument = Argument::format(format_args!("{deadline}:{cycle}"))?;
    match sys::exec(path.text(), argument.text()) {
        Err(errno) => Err(Failure::Call("exec", errno)),
    }
}
