//! The agent's Linux module: on each kernel that it is built for, and where its device, a processor or a mapping goes away.

use std::env;
use std::time::Duration;

use oprofile_tests::measure::Profile;
use oprofile_tests::vm::{Ended, Vm};
use oprofile_tests::watched;

/// Cycles of loading and unloading, or binding and unbinding.
const CYCLES: u64 = 12;

/// How much more of one kind may be in use after them: less than one a cycle. What other parts of the kernel keep varies by some.
const SLACK: u64 = CYCLES / 2;

/// How long a scenario may take: 12 cycles take a minute in the lab on a quiet machine.
const LIMIT: Duration = Duration::from_secs(280);

/// What the guest says before it leaves something behind, to show that it would be seen.
const ON_PURPOSE: &str = "guest: on purpose";

/// Runs a scenario of `images/linux/scenarios`, and checks that the guest came to its end.
fn run(scenario: &str, cpus: u32, words: &str) -> Ended {
    run_with(
        Vm::debian("none", 1).device("hz=1000"),
        scenario,
        cpus,
        words,
    )
}

fn run_with(guest: Vm, scenario: &str, cpus: u32, words: &str) -> Ended {
    let ended = guest
        .cmdline(&format!("scenario={scenario}"))
        .cmdline(words)
        .cpus(cpus)
        .limit(LIMIT)
        .run()
        .expect_code(0);
    let output = ended.output();
    assert!(output.contains("the agent has counted"), "{output}");
    let sound = output.split(ON_PURPOSE).next().unwrap_or_default();
    assert!(!sound.contains("left behind:"), "{output}");
    assert!(!output.contains("Call Trace"), "{output}");
    ended
}

/// The numbers behind `words` in the guest's report.
fn numbers(ended: &Ended, words: &str) -> Vec<u64> {
    let line = ended
        .stdout
        .lines()
        .find(|line| line.contains(words))
        .unwrap_or_else(|| panic!("no {words:?}: {}", ended.output()));
    line.split(|character: char| !character.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[test]
fn modules_that_come_while_the_driver_introduces_itself_are_no_hindrance() {
    let ended = run("coming", 2, "");
    assert_eq!(numbers(&ended, "guest: introduced"), [6, 0]);
    assert_eq!(ended.account().of("bad_request"), 0);
}

#[test]
fn loading_and_unloading_the_module_again_and_again_leaves_nothing_behind() {
    let ended = run("cycles", 2, "");
    let [cycles, tasks, spaces, left] = numbers(&ended, "guest: 12 cycles")[..] else {
        panic!("not four numbers: {}", ended.output());
    };
    assert_eq!((cycles, left), (CYCLES, 0), "{}", ended.output());
    // There was something to leave behind; address spaces are held in every fourth cycle.
    assert!(tasks * 2 > cycles && spaces > 0, "{}", ended.output());
    let census: Vec<_> = ended
        .stdout
        .lines()
        .filter_map(|line| line.split_once("guest: census "))
        .map(|(_, line)| line.split(' ').collect::<Vec<_>>())
        .collect();
    assert!(census.len() >= 8, "{}", ended.output());
    for line in census {
        let [kind, before, after] = line[..] else {
            panic!("not two numbers: {line:?}");
        };
        let (before, after) = (
            before.parse::<u64>().expect("a number"),
            after.parse::<u64>().expect("a number"),
        );
        // Probes are counted one by one.
        let slack = if kind == "kprobes" { 0 } else { SLACK };
        assert!(after <= before + slack, "{kind}: {}", ended.output());
    }
    let account = ended.account();
    assert!(account.of("received") > 1_000, "{account:#?}");
    assert_leak_is_seen(&ended);
}

/// By the agent's own count, in its log, and by the census.
#[track_caller]
fn assert_leak_is_seen(ended: &Ended) {
    let output = ended.output();
    let (_, on_purpose) = output
        .split_once(ON_PURPOSE)
        .expect("the guest came so far");
    let [left, before, after] = numbers(ended, "guest: left behind")[..] else {
        panic!("not three numbers: {output}");
    };
    assert!(left > SLACK && after > before + SLACK, "{output}");
    let complaint = format!("left behind: {left} tasks");
    assert!(on_purpose.contains(&complaint), "{output}");
}

#[test]
fn a_device_that_is_reset_or_taken_away_under_the_module_is_started_anew() {
    let ended = run("gone", 2, "iomem=relaxed");
    let output = ended.output();
    assert!(output.contains("the device went and came"), "{output}");
    assert!(!output.contains("nothing was out"), "{output}");
    assert_eq!(numbers(&ended, "guest: held without a device"), [0]);
    let account = ended.account();
    assert!(account.of("received") > 500, "{account:#?}");
}

#[test]
fn processors_that_go_and_come_are_sampled_while_they_are_there() {
    let ended = run("hotplug", 3, "");
    let output = ended.output();
    assert!(output.contains("processors came and went"), "{output}");
    let account = ended.account();
    account.assert_nearly_resolved();
    assert!(account.of("received") > 1_000, "{account:#?}");
    let profile = Profile::read(&ended.session).expect("the session is readable");
    for program in ["/tmp/on-cpu1", "/tmp/on-cpu2"] {
        let samples = profile.samples(|row| row.application == program);
        assert!(samples > 100, "{samples} of {program}: {output}");
    }
}

/// The host asks for 10 samples a second, so a timer cannot give as many as the counter does. Its event is the one that needs no PMU.
#[test]
fn samples_come_by_a_counter_of_the_guests_own_while_it_is_busy() {
    let guest = Vm::debian("none", 1).device("hz=10").device("callgraph=8");
    let counter = "agent=cycles=1000000,cycles_event=cpu-clock";
    let ended = run_with(guest, "counter", 2, counter);
    let output = ended.output();
    println!("{output}");
    assert!(output.contains("the counter has counted"), "{output}");
    // Two CPUs, 10 s: a clock that does not rest was 14,847 interrupts, on a machine with much other work 11,033; one that does 536.
    // Samples are of what the shell itself does.
    let [timers, samples, events] = numbers(&ended, "guest: idle")[..] else {
        panic!("not three numbers: {output}");
    };
    assert!(timers < 4_000 && samples < 2_000 && events == 2, "{output}");
    // In 3 s a timer would give 60.
    let [_, samples, events] = numbers(&ended, "guest: busy")[..] else {
        panic!("not three numbers: {output}");
    };
    assert!(samples > 200 && events == 2, "{output}");
    assert_eq!(numbers(&ended, "guest: without a CPU"), [1], "{output}");
    for turn in 1..=3 {
        let held = numbers(
            &ended,
            &format!("guest: held without a device, turn {turn}"),
        );
        assert_eq!(held, [turn, 0], "{output}");
    }
    let account = ended.account();
    assert_eq!(account.of("guest_clock_events"), 1_000_000, "{account:#?}");
    assert!(!ended.stderr.contains("asked for"), "{output}");
    account.assert_nearly_resolved();
    assert!(
        account.of("frames") > account.of("received"),
        "{account:#?}"
    );
    let profile = Profile::read(&ended.session).expect("the session is readable");
    let samples = profile.samples(|row| row.application == "/tmp/on-cpu1");
    assert!(samples > 100, "{samples} on CPU 1: {output}");
    assert_counts_cycles_or_says_why_not(&ended);
}

/// The lab has no PMU.
#[track_caller]
fn assert_counts_cycles_or_says_why_not(ended: &Ended) {
    let output = ended.output();
    let events = numbers(ended, "guest: by the PMU");
    let refusal =
        "cannot count cycles (error -2), so time is the clock. This machine has no such PMU";
    if env::var("OPROFILE_KVM").is_ok_and(|kvm| kvm == "lab") {
        assert!(output.contains(refusal), "{output}");
    }
    match output.contains("a sample each 1000000 of cycles") {
        true => assert_eq!(events, [2], "{output}"),
        false => {
            assert!(output.contains("so time is the clock."), "{output}");
            assert_eq!(events, [0], "{output}");
        }
    }
}

fn watched_guest(guest: Vm) -> Vm {
    guest.cpus(2).device("hz=2000")
}

#[test]
fn code_that_is_moved_and_replaced_is_told_apart() {
    let verdict = watched::compare(watched_guest(Vm::debian("moves", 5)), "", 300);
    verdict.assert_right();
    // Both files with code, and what else runs.
    assert!(verdict.known_files >= 2, "{verdict:#?}");
}

/// The test before would pass if nothing had to be announced.
#[test]
fn without_announcements_code_that_is_moved_is_taken_for_other_code() {
    let guest = watched_guest(Vm::debian("moves", 4));
    let verdict = watched::compare(guest, ",unprotected=1", 300);
    assert!(verdict.wrong * 20 > verdict.compared, "{verdict:#?}");
}

/// Since Linux 6.7 a mapping of an overlay names the file of a layer; before, the overlay's.
fn assert_layers_are_named_by_the_overlay(guest: Vm) {
    let ended = guest
        .cmdline("scenario=overlay")
        .device("hz=1000")
        .run()
        .expect_code(0);
    let profile = Profile::read(&ended.session).expect("the session is readable");
    for name in ["/from-lower", "/from-upper"] {
        let path = format!("/tmp/merged{name}");
        let samples = profile.samples(|row| row.image.as_deref() == Some(&path));
        let in_layer = profile.samples(|row| row.image.as_deref() == Some(name));
        assert!(samples > 10, "{samples} in {path}: {}", ended.output());
        assert_eq!(in_layer, 0, "in {name}: {}", ended.output());
    }
}

#[test]
fn files_of_layers_are_named_by_the_overlay_on_6_12() {
    assert_layers_are_named_by_the_overlay(Vm::debian_on("6.12-cloud", "none", 1));
}

/// A kernel besides the one that the other tests boot, as `cargo xtask guest --kernel` names it.
fn assert_profiled_right(kernel: &str) {
    let guest = watched_guest(Vm::debian_on(kernel, "", 3));
    let verdict = watched::compare(guest, "", 300);
    verdict.assert_right();
    assert!(verdict.known_files >= 10, "{verdict:#?}");
}

#[test]
fn samples_of_a_6_1_amd64_kernel_lie_where_it_saw_them() {
    assert_profiled_right("6.1-amd64");
}

#[test]
fn samples_of_a_6_12_kernel_lie_where_it_saw_them() {
    assert_profiled_right("6.12-cloud");
}
