//! The machine that Debian guests find: a console with a keyboard, a disk as their root, many vCPUs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use oprofile_images::truth::{Group, Image, Share};
use oprofile_tests::measure::Profile;
use oprofile_tests::vm::{Ended, Vm, file_of};
use tempfile::TempDir;

const fn share(symbol: &'static str, percent: u32) -> Share {
    Share {
        application: Some("/usr/bin/shares"),
        image: Image::File("/usr/bin/shares"),
        symbol,
        percent,
    }
}

/// What `images/linux/programs/shares.c` does.
const SHARES: Group = Group {
    name: "shares",
    shares: &[share("hot", 60), share("warm", 30), share("cool", 10)],
};

/// vCPUs of the guest that has many. They share one emulated processor in the lab, where 32 boot, too, but for longer.
const MANY: u32 = 16;

#[test]
fn commands_that_are_typed_at_a_shell_are_answered() {
    let mut vm = Vm::debian("shell", 0)
        .cpus(2)
        .keyboard()
        .device("hz=100")
        .start();
    vm.wait_for_line("guest: a shell is on the console");
    vm.type_text("echo $((6 * 7)) is the answer\n");
    vm.wait_for_line("42 is the answer");
    // The terminal's driver makes a signal of Ctrl-C while a job has the terminal.
    vm.type_text("sh -c 'echo $((500 * 2)) s; sleep 1000; echo slept'\n");
    vm.wait_for_line("1000 s");
    vm.type_text("\x03");
    vm.type_text("echo $((7 * 8)) after Ctrl-C\n");
    vm.wait_for_line("56 after Ctrl-C");
    // More than the port and the terminal hold, and no byte of it is lost. Whoever reads must have begun: a shell that edits its
    // command line has the terminal in another mode.
    let line = "x".repeat(63) + "\n";
    vm.type_text("stty -echo; sh -c 'echo $((8 * 9)) lines; cat >/tmp/pasted'\n");
    vm.wait_for_line("72 lines");
    vm.type_text(&line.repeat(128));
    vm.type_text("\x04");
    vm.type_text("echo $(sort -u /tmp/pasted | wc -l) kind in $(wc -c </tmp/pasted) bytes\n");
    vm.wait_for_line("1 kind in 8192 bytes");
    vm.type_text("poweroff -f\n");
    let ended = vm.wait().expect_code(0);
    assert!(
        ended.stderr.contains("Guest powered off"),
        "{}",
        ended.output()
    );
}

/// Samples must be received, and next to all of them find their place.
fn check_account(ended: &Ended, least: u64) {
    let account = ended.account();
    account.assert_nearly_resolved();
    assert!(
        account.of("received") > least,
        "{account:#?}\n{}",
        ended.output()
    );
}

#[test]
fn guest_whose_root_is_an_ext4_disk_is_profiled_in_the_disks_programs() {
    let directory = TempDir::new().expect("a temporary directory");
    let disk = directory.path().join("root.img");
    fs::copy(file_of("OPROFILE_LINUX_ROOT"), &disk).expect("a copy of the disk");
    let ended = Vm::debian("", 6)
        .cmdline("root=/dev/vda")
        .argument(&format!("--disk={}", disk.display()))
        .cpus(2)
        .device("hz=1000")
        .run()
        .expect_code(0);
    let output = ended.output();
    assert!(output.contains("guest: root is /dev/vda ext4"), "{output}");
    assert!(!output.contains(" failed"), "{output}");
    check_account(&ended, 500);
    // The session has no copies of what lies on a disk.
    let place = ended.session.join("root/usr/bin");
    fs::create_dir_all(&place).expect("a directory");
    fs::copy(file_of("OPROFILE_LINUX_SHARES"), place.join("shares")).expect("a copy");
    let profile = Profile::read(&ended.session).expect("the session is readable");
    let measured = profile.measure(&SHARES);
    println!("{measured:?}");
    assert!(measured.samples > 500, "{measured:#?}\n{output}");
    assert!(measured.is_true(), "{measured:#?}");
    let perl = profile.samples(|row| row.application == "/usr/bin/perl");
    let libc = "/lib/x86_64-linux-gnu/libc.so.6";
    let in_libc = profile.samples(|row| row.image.as_deref() == Some(libc));
    assert!(perl > 100 && in_libc > 0, "{perl} and {in_libc}: {output}");
    let content = fs::read(&disk).expect("the disk");
    let marker = b"written by the guest";
    assert!(content.windows(marker.len()).any(|window| window == marker));
}

/// The vCPUs that a session has samples of a program on: its files end in their numbers, but for those of symbols.
fn vcpus_of(directory: &Path, program: &str, found: &mut BTreeSet<u32>) {
    for entry in fs::read_dir(directory).expect("the session is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            vcpus_of(&path, program, found);
        } else if path.extension().is_none_or(|kind| kind != "jo")
            && path.components().any(|part| part.as_os_str() == program)
        {
            let vcpu = path
                .extension()
                .and_then(|vcpu| vcpu.to_str()?.parse().ok());
            found.insert(vcpu.unwrap_or_else(|| panic!("{} names no vCPU", path.display())));
        }
    }
}

#[test]
fn guest_with_many_vcpus_has_all_online_and_samples_of_each() {
    let ended = Vm::debian("cpus", 5)
        .cpus(MANY)
        .device("hz=200")
        .run()
        .expect_code(0);
    let output = ended.output();
    assert!(output.contains(&format!(", {MANY} vCPUs, ")), "{output}");
    check_account(&ended, 200);
    let mut vcpus = BTreeSet::new();
    vcpus_of(&ended.session.join("samples/current"), "shares", &mut vcpus);
    assert!(vcpus.into_iter().eq(0..MANY), "{output}");
}
