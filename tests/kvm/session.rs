//! What a virtual machine leaves behind, however it ends.

use std::fs;
use std::path::Path;
use std::process::Command;

use oprofile_images::truth;
use oprofile_session::validate::validate;
use oprofile_tests::account::Account;
use oprofile_tests::measure::Profile;
use oprofile_tests::truth::measure_until_true;
use oprofile_tests::vm::Vm;

/// Exit code: the session directory cannot be used.
const SESSION: i32 = 5;
/// Exit code: the guest ran, its session is not complete.
const SESSION_INCOMPLETE: i32 = 6;

/// Checks that the session follows every rule of OProfile's format and holds every sample that was filed.
fn assert_valid(session: &Path, account: &Account) {
    let report = validate(session);
    assert!(report.is_valid(), "{report}");
    let filed = account.sum(&["collector_kernel", "collector_file", "collector_anonymous"]);
    assert_eq!(report.samples, filed, "{report}\n{account:#?}");
}

/// Sends the signal while the programs run, and checks that what they did is in the session.
fn assert_complete_after(signal: &str) {
    let mut running = Vm::new("mix:60000").cpus(2).device("hz=2000").start();
    running.wait_for_line("module modwork");
    running.signal(signal);
    let ended = running.wait().expect_code(0);
    let account = ended.account();
    assert!(account.of("received") > 0, "{account:#?}");
    assert_valid(&ended.session, &account);
    let profile = Profile::read(&ended.session).expect("the session is readable");
    let reported = profile.samples(|_| true);
    let resolved = account.sum(&["kernel", "file", "anonymous"]);
    assert_eq!(reported, resolved, "{account:#?}");
}

#[test]
fn sigterm_leaves_a_complete_session() {
    assert_complete_after("TERM");
}

#[test]
fn sigint_leaves_a_complete_session() {
    assert_complete_after("INT");
}

#[test]
fn every_sample_that_the_device_resolved_is_in_the_session() {
    let ended = Vm::new("mix:2000").cpus(2).run().expect_code(0);
    let account = ended.account();
    let resolved = account.sum(&["kernel", "file", "anonymous"]);
    assert!(resolved > 0);
    assert_eq!(account.of("collector_samples"), resolved, "{account:#?}");
    let kept = account.sum(&["collector_kernel", "collector_file", "collector_anonymous"]);
    assert_eq!(kept, resolved, "{account:#?}");
    assert_valid(&ended.session, &account);
}

#[test]
fn event_buffer_that_is_too_small_is_counted_and_the_account_adds_up() {
    let ended = Vm::new("shares:1500")
        .device("hz=5000")
        .device("buffer-size=64")
        .device("buffer-watershed=8")
        .run()
        .expect_code(0);
    let account = ended.account();
    assert!(account.of("lost_overflow") > 0, "{account:#?}");
    assert!(account.of("lost_words") > 0, "{account:#?}");
    assert_valid(&ended.session, &account);
    let report = Command::new(oprofile_tests::vm::bin_dir().join("opreport"))
        .arg(format!("--session-dir={}", ended.session.display()))
        .output()
        .expect("opreport runs");
    let warnings = String::from_utf8_lossy(&report.stderr);
    assert!(warnings.contains("Lost samples detected"), "{warnings}");
}

#[test]
fn call_chains_become_frames_and_change_no_share() {
    let (ended, _) = measure_until_true(&[&truth::SHARES], |milliseconds| {
        Vm::new(&format!("shares:{milliseconds}"))
            .device("hz=1000")
            .device("callgraph=8")
            .run()
            .expect_code(0)
    });
    let account = ended.account();
    assert_valid(&ended.session, &account);
    assert!(
        account.of("frames") > account.of("file") / 2,
        "{account:#?}"
    );
    assert!(account.of("collector_arcs") > 0, "{account:#?}");
}

#[test]
fn another_device_id_works_on_both_sides() {
    let ended = Vm::new("shares:1000")
        .device("device-id=37")
        .run()
        .expect_code(0);
    assert!(ended.account().of("received") > 0);
}

#[test]
fn guest_without_a_scenario_runs_all_programs() {
    let ended = Vm::unconfigured().cpus(4).run().expect_code(0);
    assert!(ended.stdout.contains("init: mix"), "{}", ended.stdout);
    assert!(ended.account().of("file") > 0);
}

#[test]
fn machine_without_the_device_leaves_no_session() {
    let ended = Vm::new("shares:300").without_device().run().expect_code(0);
    assert!(!ended.session.exists());
}

/// The lab's processor has four levels; five need hardware, or a lab with `+la57`.
#[test]
fn page_tables_have_five_levels_where_the_processor_can_and_are_walked() {
    let processor = fs::read_to_string("/proc/cpuinfo").expect("a readable /proc/cpuinfo");
    let levels = if processor.contains(" la57") { 5 } else { 4 };
    let ended = Vm::new("mix:1500").cmdline("la57=1").run().expect_code(0);
    let shown = format!("{levels} levels of page tables");
    assert!(ended.stdout.contains(&shown), "{}", ended.stdout);
    let account = ended.account();
    assert!(account.of("file") > 0, "{account:#?}");
    assert_eq!(account.sum(&["no_mm", "no_mapping", "raced"]), 0);
}

#[test]
fn a_second_profile_into_one_session_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut first = Vm::new("shares:60000").session(directory.path()).start();
    first.wait_for_line("shares for 60000 ms");
    let second = Vm::new("shares:100")
        .session(directory.path())
        .run()
        .expect_code(SESSION);
    assert!(second.stderr.contains("in use"), "{}", second.stderr);
    first.signal("TERM");
    let ended = first.wait().expect_code(0);
    let account = ended.account();
    assert!(account.of("received") > 0);
    assert_valid(&ended.session, &account);
}

#[test]
fn session_directory_that_cannot_be_made_is_refused_before_the_guest_runs() {
    let ended = Vm::new("shares:100")
        .session(Path::new("/proc/no-such-place"))
        .run()
        .expect_code(SESSION);
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("/proc/no-such-place"),
        "{}",
        ended.stderr
    );
}

#[test]
fn full_session_directory_is_told_and_the_guest_runs_to_its_end() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let small = directory.path().join("small");
    fs::create_dir(&small).expect("a mount point");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&small)
        .status()
        .expect("mount runs");
    assert!(
        mounted.success(),
        "a small file system is needed: {mounted}"
    );
    let ended = Vm::new("mix:1500").cpus(2).session(&small).run();
    let unmounted = Command::new("umount").arg("-l").arg(&small).status();
    assert!(unmounted.expect("umount runs").success());
    let ended = ended.expect_code(SESSION_INCOMPLETE);
    assert!(ended.stdout.contains("init: "), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("small"),
        "names the directory: {}",
        ended.stderr
    );
}
