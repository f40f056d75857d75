//! The first program: runs the scenario that the kernel command line names (`init=NAME:DURATION`), says how each of its
//! programs ended, and powers the machine off, with code 0 when all went well.
#![no_std]
#![no_main]

use guest_programs::arguments;
use guest_rt::io::Argument;
use guest_rt::{Failure, println, sys};
use guest_truth::{SCENARIOS, Scenario};

/// Most processes that a scenario starts: 16 programs, or one program on 64 vCPUs.
const MAX_CHILDREN: usize = 64;

/// What runs when the kernel's command line has no `init=`.
const DEFAULT_SCENARIO: &str = "mix:5s";

/// Power-off codes.
const CODE_CHILD_FAILED: i32 = 1;
const CODE_FAILED: i32 = 2;

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    let code = match run() {
        Ok(true) => 0,
        Ok(false) => CODE_CHILD_FAILED,
        Err(failure) => {
            println!("init: {failure}");
            CODE_FAILED
        }
    };
    sys::power_off(code)
}

fn run() -> Result<bool, Failure> {
    let argument = Argument::get()?;
    let asked = match argument.text() {
        "" => DEFAULT_SCENARIO,
        text => text,
    };
    let (name, duration) = arguments::scenario(asked)?;
    let Some(scenario) = guest_truth::scenario(name) else {
        println!("init: no scenario {name:?}; there are:");
        for scenario in SCENARIOS {
            println!("init:   {} - {}", scenario.name, scenario.about);
        }
        return Err(Failure::Other("unknown scenario"));
    };
    println!("init: {} for {} ms", scenario.name, duration / 1_000_000);
    if scenario.programs.is_empty() {
        sys::sleep_ns(duration).map_err(|e| Failure::Call("sleep_ns", e))?;
    }
    start(scenario, sys::clock_ns().saturating_add(duration))
}

/// Starts the programs, waits for them, and says whether all ended well.
fn start(scenario: &Scenario, deadline: u64) -> Result<bool, Failure> {
    let argument = Argument::format(format_args!("{deadline}"))?;
    let copies = if scenario.per_cpu {
        sys::cpu_count()
    } else {
        1
    };
    let mut children = [(0_u64, ""); MAX_CHILDREN];
    let mut count = 0;
    for _ in 0..copies {
        for path in scenario.programs {
            let slot = children
                .get_mut(count)
                .ok_or(Failure::Other("too many processes"))?;
            let pid = sys::spawn(path, argument.text()).map_err(|e| Failure::Call(path, e))?;
            *slot = (pid, path);
            count += 1;
        }
    }
    let mut all_well = true;
    for (pid, path) in children.into_iter().take(count) {
        let ended = sys::wait(pid);
        match ended {
            Ok(code) => println!("init: {path} (pid {pid}) ended with code {code}"),
            Err(errno) => println!("init: {path} (pid {pid}) lost: error {}", errno.0),
        }
        all_well &= ended == Ok(0);
    }
    Ok(all_well)
}
