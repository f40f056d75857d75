//! Debian guests: a distribution's kernel, the agent's module, programs from packages.

use std::fs;
use std::time::{Duration, Instant};

use oprofile_images::truth::{Group, Image, Share};
use oprofile_tests::measure::Profile;
use oprofile_tests::vm::{Ended, Vm, file_of};
use oprofile_tests::watched;
use tempfile::TempDir;

/// Programs of the mix, by path; perl and sqlite run again and again.
const PROGRAMS: [&str; 8] = [
    "/bin/busybox",
    "/usr/bin/brief",
    "/usr/bin/perl",
    "/usr/bin/plugin",
    "/usr/bin/pyhost",
    "/usr/bin/shares",
    "/usr/bin/sqlite3",
    "/usr/bin/throws",
];

/// Libraries that they work in.
const LIBRARIES: [&str; 4] = [
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libpython3.11d.so.1.0",
    "/usr/lib/x86_64-linux-gnu/libsqlite3.so.0.8.6",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30",
];

const fn share(symbol: &'static str, percent: u32) -> Share {
    Share {
        application: Some("/mnt/shares"),
        image: Image::File("/mnt/shares"),
        symbol,
        percent,
    }
}

/// What `images/linux/programs/shares.c` does, here from a disk.
const SHARES: Group = Group {
    name: "shares",
    shares: &[share("hot", 60), share("warm", 30), share("cool", 10)],
};

fn run(part: &str, seconds: u32, cpus: u32) -> (Ended, Profile) {
    let ended = Vm::debian(part, seconds)
        .cpus(cpus)
        .device("hz=1000")
        .device("callgraph=8")
        .run()
        .expect_code(0);
    let account = ended.account();
    account.assert_nearly_resolved();
    let received = account.of("received");
    assert!(received > 1_000, "{account:#?}");
    // Requests need the host's answer; sample buffers wait for its next look, unless the host is slow.
    let kicks = account.of("kicks") - account.of("requests").min(account.of("kicks"));
    assert!(kicks * 64 <= received, "{account:#?}");
    let output = ended.output();
    assert!(output.contains("the agent has counted"), "{output}");
    assert!(!output.contains(" failed"), "{output}");
    let profile = Profile::read(&ended.session).expect("the session is readable");
    (ended, profile)
}

#[test]
fn programs_and_libraries_of_a_debian_guest_have_their_names() {
    let (ended, profile) = run("", 5, 2);
    for program in PROGRAMS {
        let samples = profile.samples(|row| row.application == program);
        assert!(samples > 0, "nothing of {program}: {}", ended.output());
    }
    for library in LIBRARIES {
        let samples = profile.samples(|row| row.image.as_deref() == Some(library));
        assert!(samples > 0, "nothing in {library}: {}", ended.output());
    }
    // In memory only, from both layers of an overlay, deleted while it runs, without a path.
    for start in [
        "/tmp/moved",
        "/merged/below",
        "/merged/above",
        "/tmp/deleted",
        "/memfd:in-memory",
    ] {
        let samples = profile.samples(|row| row.application.starts_with(start));
        assert!(samples > 0, "nothing of {start}: {}", ended.output());
    }
    let kernel = profile.samples(|row| row.symbol == "finish_task_switch.isra.0");
    let module = profile.samples(|row| row.application.ends_with("/virtio_mmio.ko"));
    assert!(kernel > 0, "no function of the kernel has its name");
    assert!(module > 0, "no module has its name");
}

#[test]
fn program_on_an_ext4_disk_has_true_shares_and_the_guest_can_write_there() {
    let directory = TempDir::new().expect("a temporary directory");
    let disk = directory.path().join("disk.img");
    fs::copy(file_of("OPROFILE_LINUX_DISK"), &disk).expect("a copy of the disk");
    let ended = Vm::debian("none", 6)
        .argument(&format!("--disk={}", disk.display()))
        .device("hz=1000")
        .run()
        .expect_code(0);
    // The session has no copies of what lies on a disk; the same program is in the initramfs.
    let root = ended.session.join("root");
    fs::create_dir_all(root.join("mnt")).expect("a directory");
    fs::copy(file_of("OPROFILE_LINUX_SHARES"), root.join("mnt/shares")).expect("a copy");
    let profile = Profile::read(&ended.session).expect("the session is readable");
    let measured = profile.measure(&SHARES);
    println!("{measured:?}");
    assert!(measured.samples > 500, "{measured:#?}\n{}", ended.output());
    assert!(measured.is_true(), "{measured:#?}");
    let content = fs::read(&disk).expect("the disk");
    let marker = b"written by the guest";
    assert!(content.windows(marker.len()).any(|window| window == marker));
}

#[test]
fn libraries_that_come_and_go_are_told_apart_on_linux() {
    let (ended, profile) = run("plugin", 5, 2);
    let in_library =
        |name: &'static str| profile.samples(move |row| row.image.as_deref() == Some(name));
    let (a, b) = (
        in_library("/usr/lib/plugin_a.so"),
        in_library("/usr/lib/plugin_b.so"),
    );
    assert!(a > 100 && b > 100, "{a} and {b}: {}", ended.output());
    // Nobody calls it; it lies where the other library has its work.
    let strays = profile.samples(|row| row.symbol == "other_b");
    assert_eq!(strays, 0, "of {a} and {b}: {profile:#?}");
}

/// A guest that is sampled often, with a part of the mix.
fn watched_guest(part: &str, seconds: u32, cpus: u32) -> Vm {
    Vm::debian(part, seconds).cpus(cpus).device("hz=2000")
}

/// The whole mix. Returns how many samples were compared.
fn mix_lies_where_the_kernel_saw_it(guest: Vm) -> u64 {
    let verdict = watched::compare(guest, "", 300);
    verdict.assert_right();
    verdict.assert_resolved();
    assert!(verdict.known_files >= 10, "{verdict:#?}");
    verdict.compared
}

#[test]
fn each_sample_of_a_guest_with_one_vcpu_lies_where_its_kernel_saw_it() {
    mix_lies_where_the_kernel_saw_it(watched_guest("", 3, 1));
}

#[test]
fn each_sample_of_a_guest_with_two_vcpus_lies_where_its_kernel_saw_it() {
    mix_lies_where_the_kernel_saw_it(watched_guest("", 3, 2));
}

/// A boot takes a minute in the lab when the machine is calm, and gives nearly as many.
#[test]
fn each_of_fifty_thousand_samples_lies_where_the_kernel_saw_it() {
    let start = Instant::now();
    let mut compared = 0;
    while compared < 50_000 && start.elapsed() < Duration::from_secs(150) {
        let guest = watched_guest("", 18, 4).limit(Duration::from_secs(300));
        compared += mix_lies_where_the_kernel_saw_it(guest);
    }
    println!("{compared} samples in {:?}", start.elapsed());
    // What one boot gives a lab that is three times as slow.
    assert!(compared >= 15_000, "only {compared} samples were compared");
}

/// They cost the lab more than they are sampled.
#[test]
fn each_sample_of_processes_that_live_shortly_lies_where_the_kernel_saw_it() {
    watched::compare(watched_guest("storm", 5, 4), "", 100).assert_right();
}

/// The test before would pass if short processes were no challenge.
#[test]
fn without_protection_short_processes_lose_samples() {
    let verdict = watched::compare(watched_guest("storm", 5, 2), ",unprotected=1", 300);
    let lost = verdict.unresolved + verdict.wrong;
    // It was one in ten, and few samples may have less of it.
    assert!(lost * 50 > verdict.compared, "{verdict:#?}");
}
