//! What the host reports is what the guest's programs did.

use oprofile_images::truth::{self, Group};
use oprofile_tests::account::UNRESOLVED;
use oprofile_tests::measure::{Measured, Profile};
use oprofile_tests::vm::{Ended, Vm};

/// Largest distance from a true share, in percentage points.
const TOLERANCE: f64 = 2.0;

/// Fewest samples that a share is measured with.
const ENOUGH: u64 = 5_000;

fn run(scenario: &str, cpus: u32, hz: u32) -> Ended {
    Vm::new(scenario)
        .cpus(cpus)
        .device(&format!("hz={hz}"))
        .run()
        .expect_code(0)
}

fn profile(ended: &Ended) -> Profile {
    Profile::read(&ended.session).expect("the session is readable")
}

#[track_caller]
fn assert_true(measured: &Measured, fewest: u64) {
    assert!(
        measured.samples >= fewest,
        "only {} samples in {measured:#?}",
        measured.samples
    );
    assert!(measured.worst_error() <= TOLERANCE, "{measured:#?}");
}

#[track_caller]
fn assert_all_resolved(ended: &Ended) {
    let account = ended.account();
    assert_eq!(account.sum(&UNRESOLVED), 0, "{account:#?}");
}

#[track_caller]
fn check(scenario: &str, cpus: u32, hz: u32, group: &'static Group, fewest: u64) -> Profile {
    let ended = run(scenario, cpus, hz);
    assert_all_resolved(&ended);
    let profile = profile(&ended);
    assert_true(&profile.measure(group), fewest);
    profile
}

#[test]
fn shares_are_true_on_1_vcpu() {
    check("shares:3000", 1, 2_000, &truth::SHARES, ENOUGH);
}

#[test]
fn shares_are_true_on_2_vcpus() {
    check("shares:3000", 2, 1_000, &truth::SHARES, ENOUGH);
}

#[test]
fn shares_are_true_on_4_vcpus() {
    check("shares:3000", 4, 1_000, &truth::SHARES, ENOUGH);
}

#[test]
fn one_library_at_two_addresses_is_one_file_with_true_shares() {
    let profile = check("library:4000", 2, 2_000, &truth::SHARED_A, ENOUGH);
    assert_true(&profile.measure(&truth::SHARED_B), ENOUGH);
}

#[test]
fn generated_code_is_an_anonymous_region_with_its_true_share() {
    check("jit:3000", 1, 2_000, &truth::JIT, ENOUGH);
}

#[test]
fn module_code_has_its_name_and_true_shares() {
    check("module:3000", 1, 2_000, &truth::MODULE, ENOUGH);
}

#[test]
fn kernel_threads_have_true_shares() {
    check("kthread:3000", 2, 2_000, &truth::KTHREAD, ENOUGH);
}

#[test]
fn stages_of_an_exec_chain_are_told_apart() {
    check("exec:4000", 1, 2_000, &truth::EXEC, ENOUGH);
}

/// Samples in the trap's two files that are not in the one function that ran from each.
fn strays(profile: &Profile) -> u64 {
    profile.samples(|row| match row.image.as_deref() {
        Some(truth::TRAP_A) => row.symbol != "trap_a",
        Some(truth::TRAP_B) => row.symbol != "trap_b",
        _ => false,
    })
}

#[test]
fn trap_puts_no_sample_on_the_wrong_file() {
    for cpus in [1, 4] {
        let profile = check("trap:3000", cpus, 2_000, &truth::TRAP, ENOUGH);
        assert_eq!(strays(&profile), 0, "{profile:#?}");
    }
}

#[test]
fn storm_of_short_processes_leaves_nothing_unresolved() {
    for cpus in [1, 2, 4] {
        let profile = check("storm:3000", cpus, 2_000, &truth::STORM, 1_000);
        let elsewhere = profile.samples(|row| {
            row.application == "/bin/short"
                && row.image.as_deref() == Some("/bin/short")
                && row.symbol == "/bin/short"
        });
        assert_eq!(elsewhere, 0, "{profile:#?}");
    }
}

#[test]
fn functions_of_well_known_crates_show() {
    let ended = run("real:2000", 1, 2_000);
    assert_all_resolved(&ended);
    let text = ended.opreport(&["-l", "--merge=cpu"]);
    for (_, name) in truth::REAL {
        assert!(text.contains(name), "no {name} in\n{text}");
    }
}

#[test]
fn kicks_are_rare_and_an_idle_vcpu_makes_none() {
    let ended = run("shares:3000", 2, 1_000);
    let account = ended.account();
    assert!(
        account.of("kicks") * 64 <= account.of("received"),
        "{account:#?}"
    );
    let ended = run("idle:1000", 2, 1_000);
    assert!(ended.account().of("kicks") <= 16, "{:#?}", ended.account());
}
