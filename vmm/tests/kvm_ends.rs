//! How guests end, and what the exit code says of it.

mod support;

use support::{Guest, ended, signalled, vmm};

/// Writes "R\n" to the serial port and spins with interrupts off.
fn spinning() -> Guest {
    Guest::new(assemble!(
        "mov $0x3f8, %dx",
        "mov $0x52, %al",
        "out %al, %dx",
        "mov $0x0a, %al",
        "out %al, %dx",
        "30: jmp 30b",
    ))
}

fn powering_off() -> Guest {
    Guest::new(assemble!(
        "mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "30: jmp 30b",
    ))
}

#[test]
fn power_off_is_success() {
    let run = powering_off().run::<&str>(&[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("Guest powered off"), "{run:?}");
}

#[test]
fn reset_has_its_code() {
    let guest = Guest::new(assemble!("mov $0xfe, %al", "out %al, $0x64", "30: jmp 30b"));
    let run = guest.run::<&str>(&[]);
    assert_eq!(run.code, Some(10), "{run:?}");
}

#[test]
fn triple_fault_has_its_code() {
    // There is no interrupt descriptor table yet.
    let run = Guest::new(assemble!("ud2")).run::<&str>(&[]);
    assert_eq!(run.code, Some(11), "{run:?}");
    assert!(run.stderr.contains("vCPU 0"), "{run:?}");
}

#[test]
fn kvm_internal_error_has_its_code() {
    // KVM cannot fetch instructions where there is no RAM.
    let run = Guest::new(assemble!("mov $0xe0000000, %eax", "jmp *%eax")).run::<&str>(&[]);
    assert_eq!(run.code, Some(12), "{run:?}");
    assert!(run.stderr.contains("rip 0xe0000000"), "{run:?}");
}

#[test]
fn a_signal_stops_a_guest_that_spins_with_interrupts_off() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let run = signalled(&mut spinning().command(), "R", signal);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stderr.contains("stopped by a signal"), "{run:?}");
    }
}

#[test]
fn every_vcpu_is_stopped_also_those_that_were_never_started() {
    let guest = spinning();
    let run = signalled(guest.command().args(["--cpus", "8"]), "R", libc::SIGTERM);
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn a_guest_that_never_said_hello_leaves_advice_and_a_session() {
    let guest = powering_off();
    let session = guest.directory().join("session");
    let option = format!("session={}", session.display());
    let run = guest.run(&["--oprofile-dev", &option]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("never said hello"), "{run:?}");
    assert!(session.is_dir());
}

#[test]
fn an_unwritable_session_directory_is_told_before_the_guest_starts() {
    let guest = spinning();
    let session = guest.directory().join("kernel/session");
    let option = format!("session={}", session.display());
    let run = guest.run(&["--oprofile-dev", &option]);
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(run.stderr.contains(session.to_str().unwrap()), "{run:?}");
    assert!(run.serial.is_empty(), "{run:?}");
}

#[test]
fn a_session_that_does_not_fit_is_incomplete() {
    let directory = tempfile::tempdir().unwrap();
    // No file may grow beyond 1 KiB: as a full disk, but without mounting one.
    let script = "ulimit -f 2; trap '' XFSZ; exec \"$0\" \"$@\"";
    let session = format!("session={}", directory.path().join("session").display());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).arg(vmm().get_program()).args([
        "run",
        "--cmdline",
        "init=shares:500",
        "--oprofile-dev",
        &session,
    ]);
    let run = ended(&mut command);
    assert_eq!(run.code, Some(6), "{run:?}");
    assert!(
        run.stderr.contains("The session is not complete"),
        "{run:?}"
    );
    assert!(run.stderr.contains("received = sum of all ends"), "{run:?}");
}

/// How often a guest is signalled where it is emulated, and may be too slow to answer in time on a busy machine.
const LAB_ATTEMPTS: u32 = 5;

#[test]
fn a_signal_flushes_the_profile_of_a_running_guest() {
    let hands_in = || {
        let directory = tempfile::tempdir().unwrap();
        let session = format!("session={}", directory.path().join("session").display());
        let mut command = vmm();
        command.args(["--cpus", "2", "--cmdline", "init=shares:60000"]);
        command.args(["--oprofile-dev", &session]);
        let run = signalled(&mut command, "init: shares", libc::SIGTERM);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stderr.contains("received = sum of all ends"), "{run:?}");
        !run.stderr.contains("did not hand in")
    };
    let in_lab = std::env::var_os("OPROFILE_KVM").is_some_and(|kvm| kvm == "lab");
    let attempts = if in_lab { LAB_ATTEMPTS } else { 1 };
    assert!(
        (0..attempts).any(|_| hands_in()),
        "not in {attempts} attempts"
    );
}
