//! A guest that does one bad thing, on real KVM: the machine and the other samples go on, a counter tells.

use oprofile_images::truth;
use oprofile_tests::truth::measure_until_true;
use oprofile_tests::vm::{Ended, Vm};

fn run(what: &str, milliseconds: u32) -> Ended {
    Vm::new(&format!("shares:{milliseconds}"))
        .cpus(2)
        .cmdline(&format!("hostile={what}"))
        .device("hz=2000")
        .run()
        .expect_code(0)
}

/// The bad thing was counted as `fault`, and the programs' samples are all there.
#[track_caller]
fn check(what: &str, fault: &str) {
    let (ended, _) = measure_until_true(&[&truth::SHARES], |milliseconds| run(what, milliseconds));
    let account = ended.account();
    assert!(account.of(fault) > 0, "no {fault} in {account:#?}");
    for loss in ["lost_in_guest", "lost_overflow", "no_mm", "ignored"] {
        let injected = if loss == "no_mm" { 64 } else { 0 };
        assert!(account.of(loss) <= injected, "{loss} in {account:#?}");
    }
}

#[test]
fn bad_descriptor_chain_is_counted_and_nothing_else_is_lost() {
    check("bad-chain", "bad_descriptor_chain");
}

#[test]
fn bad_layout_descriptor_is_refused_and_a_good_one_is_taken_after_it() {
    check("bad-layout", "bad_layout");
}

#[test]
fn cyclic_vma_list_ends_and_nothing_else_is_lost() {
    check("cyclic-vmas", "cyclic_list");
}

/// The walk that is to prove the kernel's description ends, the hello is refused, and the good one behind it is taken.
#[test]
fn page_table_that_points_at_itself_is_refused_and_nothing_else_is_lost() {
    check("bad-page-table", "bad_kernel");
}

#[test]
fn task_pointer_into_nowhere_is_counted_and_nothing_else_is_lost() {
    check("bad-task", "bad_task_pointer");
}

#[test]
fn doorbell_for_vcpu_4000000_is_counted_and_nothing_else_is_lost() {
    check("bad-doorbell", "bad_doorbell");
}

#[test]
fn guest_that_never_says_hello_is_told_of_with_what_to_check() {
    let ended = run("no-hello", 1_000);
    assert_eq!(ended.account().of("received"), 0);
    assert!(
        ended.stderr.contains("never said hello"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("device-id"), "{}", ended.stderr);
}
