//! What each sampling clock sees of code that runs with interrupts off, and that the host's NMIs go where they are wanted and
//! nowhere else.

use std::env;
use std::process::Command;

use oprofile_images::truth::{self, Group, Image, Share};
use oprofile_tests::account::Account;
use oprofile_tests::measure::{Measured, Profile};
use oprofile_tests::vm::{Ended, Vm, bin_dir};
use oprofile_tests::watched;
use tempfile::TempDir;

const HOST_NMI: &str = "clock=host-nmi";
const GUEST_TIMER: &str = "clock=guest-timer";

/// Most that a clock sees of what it cannot see, in percent: an NMI of the emulator's aside, nothing.
const BLIND: f64 = 1.0;

fn tiny(scenario: &str, milliseconds: u32, cpus: u32, clock: &str) -> Ended {
    Vm::new(&format!("{scenario}:{milliseconds}"))
        .cpus(cpus)
        .device("hz=1000")
        .device(clock)
        .run()
        .expect_code(0)
}

/// There are no other samples than NMIs, save a few of a CPU of Linux that leaves its idle loop while the module has the host's clock begin
/// CPU by CPU: its timer runs until it is its turn.
#[track_caller]
fn assert_samples_are_nmis(account: &Account) {
    let (sent, received) = (account.of("nmis_sent"), account.of("received"));
    assert!(received <= sent + 10 + sent / 100, "{account:#?}");
}

/// NMIs are samples, save those that find their vCPU idle or the clock being stopped: a few in a hundred.
#[track_caller]
fn assert_nmis_are_samples(account: &Account) {
    assert_samples_are_nmis(account);
    let (sent, received) = (account.of("nmis_sent"), account.of("received"));
    assert!(
        sent.saturating_sub(received) <= 20 + sent / 20,
        "{account:#?}"
    );
    assert_eq!(account.of("nmis_refused"), 0, "{account:#?}");
}

/// Of the first function of a group, in percent of the group.
fn first_share(measured: &Measured) -> f64 {
    let first = measured.lines().next();
    first.map_or(0.0, |line| line.percent)
}

/// A timer's samples of the masked part are there, but lie behind it.
#[track_caller]
fn assert_blind(profile: &Profile, group: &'static Group, behind: &str) {
    let measured = profile.measure(group);
    assert!(measured.samples > 500, "{measured:#?}");
    assert!(first_share(&measured) <= BLIND, "{measured:#?}");
    let landed = profile.samples(|row| row.symbol.contains(behind));
    // 30 percent of all, so 43 percent of what was measured.
    assert!(
        landed * 100 >= measured.samples * 35,
        "{landed} of {measured:#?}"
    );
}

#[test]
fn a_timer_of_the_tiny_kernel_does_not_see_masked_code() {
    let ended = tiny("masked", 4_000, 1, GUEST_TIMER);
    let account = ended.account();
    account.assert_resolved();
    assert_eq!(account.of("nmis_sent"), 0);
    let profile = Profile::read(&ended.session).expect("the session is readable");
    assert_blind(&profile, &truth::MASKED, "work_masked");
}

/// Largest distance of a share of masked code from the truth, in percentage points. Where the lab shares its processor with other work,
/// the clock's thread gets to run when the guest leaves anyway, more often than at its time, and that is more often where interrupts are
/// on; a clock that does not see masked code would be off by 30.
fn masked_tolerance() -> f64 {
    match env::var("OPROFILE_KVM").as_deref() {
        Ok("hardware") => 2.5,
        _ => 12.0,
    }
}

/// What NMIs see of a group: enough for a share to be moved by 2 points at most, one standard deviation.
#[track_caller]
fn measured_by_nmis(ended: &Ended, group: &'static Group) -> Measured {
    assert_nmis_are_samples(&ended.account());
    let profile = Profile::read(&ended.session).expect("the session is readable");
    let measured = profile.measure(group);
    println!("{measured:?}");
    assert!(measured.samples > 500, "{measured:#?}");
    measured
}

#[track_caller]
fn assert_sees_masked(ended: &Ended, group: &'static Group) {
    let measured = measured_by_nmis(ended, group);
    assert!(
        measured.worst_error() <= masked_tolerance(),
        "{measured:#?}"
    );
}

#[test]
fn nmis_see_masked_code_of_the_tiny_kernel_with_its_true_share() {
    for cpus in [1, 2] {
        let ended = tiny("masked", 8_000, cpus, HOST_NMI);
        ended.account().without_full_rings().assert_resolved();
        assert_sees_masked(&ended, &truth::MASKED);
    }
}

#[test]
fn programs_have_true_shares_by_nmis_too() {
    let ended = tiny("shares", 8_000, 1, HOST_NMI);
    ended.account().without_full_rings().assert_resolved();
    let measured = measured_by_nmis(&ended, &truth::SHARES);
    assert!(measured.is_true(), "{measured:#?}");
}

#[test]
fn short_processes_lose_no_sample_of_an_nmi() {
    let ended = Vm::new("storm:5000")
        .cpus(2)
        .device("hz=1000")
        .device("callgraph=8")
        .device(HOST_NMI)
        .run()
        .expect_code(0);
    let account = ended.account().without_full_rings();
    account.assert_resolved();
    assert!(account.of("received") > 500, "{account:#?}");
    assert!(account.of("frames") > 0, "{account:#?}");
    assert_nmis_are_samples(&account);
}

/// Few, where a busy vCPU gets 1,000 a second.
#[track_caller]
fn assert_idle_gets_none(account: &Account) {
    let (sent, idle) = (account.of("nmis_sent"), account.of("ticks_idle"));
    assert!(idle > 1_000 && sent * 4 < idle, "{account:#?}");
}

#[test]
fn idle_vcpus_of_the_tiny_kernel_get_no_nmis() {
    let ended = tiny("idle", 3_000, 2, HOST_NMI);
    assert_idle_gets_none(&ended.account());
}

#[test]
fn a_guest_that_never_asked_gets_no_nmi() {
    let ended = Vm::new("shares:1500")
        .cpus(2)
        .cmdline("hostile=no-hello")
        .device(HOST_NMI)
        .run()
        .expect_code(0);
    let account = ended.account();
    for name in ["nmis_sent", "ticks_idle", "ticks_pending", "ticks_missed"] {
        assert_eq!(account.of(name), 0, "{account:#?}");
    }
}

/// Stops and starts profiling, `rounds` times, and leaves it on.
fn stop_and_start(socket: &str, rounds: u32) {
    for argument in ["--stop", "--start"].repeat(rounds as usize) {
        let output = Command::new(bin_dir().join("opcontrol"))
            .arg(format!("--socket={socket}"))
            .arg(argument)
            .output()
            .expect("opcontrol runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{argument}: {told}");
    }
}

#[test]
fn stopping_and_starting_while_nmis_flow_is_harmless() {
    let directory = TempDir::new().expect("a temporary directory");
    let socket = directory.path().join("vm.sock").display().to_string();
    let mut running = Vm::new("shares:12000")
        .cpus(2)
        .device(&format!("socket={socket}"))
        .device("hz=2000")
        .device(HOST_NMI)
        .start();
    running.wait_for_line("init: shares");
    stop_and_start(&socket, 8);
    let ended = running.wait().expect_code(0);
    let account = ended.account().without_full_rings();
    account.assert_resolved();
    assert!(account.of("received") > 200, "{account:#?}");
    // The tiny kernel has no timer of its own then.
    assert!(
        account.of("received") <= account.of("nmis_sent"),
        "{account:#?}"
    );
}

const fn of_module(symbol: &'static str, percent: u32) -> Share {
    Share {
        application: None,
        image: Image::Module("kmasked"),
        symbol,
        percent,
    }
}

/// What `images/linux/kmasked` does.
const KMASKED: Group = Group {
    name: "kmasked",
    shares: &[of_module("kmasked_off", 30), of_module("kmasked_on", 70)],
};

fn debian(part: &str, seconds: u32, clock: &str) -> Vm {
    Vm::debian(part, seconds).device("hz=1000").device(clock)
}

/// The guest ended well, and saw no NMI that nobody took.
#[track_caller]
fn assert_sound(ended: &Ended) {
    let output = ended.output();
    for bad in [" failed", "unknown reason", "BUG", "WARNING"] {
        assert!(!output.contains(bad), "{output}");
    }
}

#[test]
fn a_timer_of_linux_does_not_see_masked_code() {
    let ended = debian("masked", 10, GUEST_TIMER)
        .cpus(1)
        .run()
        .expect_code(0);
    assert_sound(&ended);
    assert_eq!(ended.account().of("nmis_sent"), 0);
    let profile = Profile::read(&ended.session).expect("the session is readable");
    assert_blind(&profile, &KMASKED, "kmasked_work");
}

#[test]
fn nmis_see_masked_code_of_linux_with_its_true_share() {
    let ended = debian("masked", 10, HOST_NMI).cpus(1).run().expect_code(0);
    assert_sound(&ended);
    assert_sees_masked(&ended, &KMASKED);
}

#[test]
fn linux_programs_are_resolved_by_nmis_too_with_call_chains() {
    let ended = debian("", 6, HOST_NMI)
        .cpus(2)
        .device("callgraph=8")
        .run()
        .expect_code(0);
    assert_sound(&ended);
    let account = ended.account().without_full_rings();
    account.assert_nearly_resolved();
    assert_nmis_are_samples(&account);
    assert!(account.of("received") > 1_000, "{account:#?}");
    assert!(
        account.of("frames") > account.of("received"),
        "{account:#?}"
    );
}

#[test]
fn each_sample_of_an_nmi_lies_where_linux_saw_it() {
    watched::compare(debian("", 3, HOST_NMI).cpus(2), "", 300).assert_right();
}

/// They cost the lab more than they are sampled.
#[test]
fn each_sample_of_an_nmi_in_processes_that_live_shortly_lies_where_linux_saw_it() {
    watched::compare(debian("storm", 5, HOST_NMI).cpus(2), "", 100).assert_right();
}

#[test]
fn idle_vcpus_of_linux_get_no_nmis() {
    let ended = debian("idle", 20, HOST_NMI).cpus(2).run().expect_code(0);
    assert_sound(&ended);
    assert_idle_gets_none(&ended.account());
}

#[test]
fn a_module_without_a_handler_gets_no_nmis_and_samples_by_its_timer() {
    let ended = debian("shares", 4, HOST_NMI)
        .cpus(2)
        .cmdline("agent=host_nmi=0")
        .run()
        .expect_code(0);
    assert_sound(&ended);
    let account = ended.account();
    assert!(account.of("received") > 500, "{account:#?}");
    assert_eq!(account.of("nmis_sent"), 0, "{account:#?}");
    assert!(ended.stderr.contains("took no NMIs"), "{}", ended.stderr);
}

#[test]
fn unloading_and_loading_the_module_while_nmis_flow_is_harmless() {
    let ended = debian("reload", 15, HOST_NMI).cpus(2).run().expect_code(0);
    assert_sound(&ended);
    let output = ended.output();
    assert!(output.contains("loaded again, round 3"), "{output}");
    let account = ended.account();
    assert!(account.of("nmis_sent") > 200, "{account:#?}");
    assert_samples_are_nmis(&account);
}
