//! What the host reports is what the guest's programs did.

use oprofile_images::truth::{self, Group};
use oprofile_tests::measure::Profile;
use oprofile_tests::truth::measure_until_true;
use oprofile_tests::vm::{Ended, Vm};

/// Sampling rate on each vCPU.
const HZ: u32 = 2_000;

fn run_for(scenario: &str, milliseconds: u32, cpus: u32) -> Ended {
    Vm::new(&format!("{scenario}:{milliseconds}"))
        .cpus(cpus)
        .device(&format!("hz={HZ}"))
        .run()
        .expect_code(0)
}

/// Runs a scenario, and checks its groups and that no sample came to nothing.
#[track_caller]
fn check(scenario: &str, cpus: u32, groups: &[&'static Group]) -> Profile {
    measure_until_true(groups, |milliseconds| {
        let ended = run_for(scenario, milliseconds, cpus);
        ended.account().assert_resolved();
        ended
    })
    .1
}

#[test]
fn shares_are_true_on_1_vcpu() {
    check("shares", 1, &[&truth::SHARES]);
}

#[test]
fn shares_are_true_on_2_vcpus() {
    check("shares", 2, &[&truth::SHARES]);
}

#[test]
fn shares_are_true_on_4_vcpus() {
    check("shares", 4, &[&truth::SHARES]);
}

#[test]
fn one_library_at_two_addresses_is_one_file_with_true_shares() {
    check("library", 2, &[&truth::SHARED_A, &truth::SHARED_B]);
}

#[test]
fn generated_code_is_an_anonymous_region_with_its_true_share() {
    check("jit", 1, &[&truth::JIT]);
}

#[test]
fn module_code_has_its_name_and_true_shares() {
    check("module", 1, &[&truth::MODULE]);
}

#[test]
fn kernel_threads_have_true_shares() {
    check("kthread", 2, &[&truth::KTHREAD]);
}

#[test]
fn stages_of_an_exec_chain_are_told_apart() {
    check("exec", 1, &[&truth::EXEC]);
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
        let profile = check("trap", cpus, &[&truth::TRAP]);
        assert_eq!(strays(&profile), 0, "{profile:#?}");
    }
}

#[test]
fn storm_of_short_processes_leaves_nothing_unresolved() {
    for cpus in [1, 2, 4] {
        let profile = check("storm", cpus, &[&truth::STORM]);
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
    let ended = run_for("real", 2_000, 1);
    ended.account().assert_resolved();
    let text = ended.opreport(&["-l", "--merge=cpu"]);
    for (_, name) in truth::REAL {
        assert!(text.contains(name), "no {name} in\n{text}");
    }
}

#[test]
fn kicks_are_rare() {
    let account = run_for("shares", 3_000, 2).account();
    let (kicks, received) = (account.of("kicks"), account.of("received"));
    assert!(kicks * 64 <= received, "{account:#?}");
}

#[test]
fn an_idle_guest_neither_samples_nor_kicks() {
    let ended = Vm::new("idle:2000").cpus(2).run().expect_code(0);
    let account = ended.account();
    // A busy vCPU would have 2,000 samples. Requests are kicked for, and two at once may share a kick; nothing else kicks.
    assert!(account.of("received") < 500, "{account:#?}");
    assert!(
        account.of("kicks") <= account.of("requests"),
        "{account:#?}"
    );
}
