//! Debian guests: a distribution's kernel, the agent's module, programs from packages.

use oprofile_images::truth::{Group, Image, Share};
use oprofile_tests::account::UNRESOLVED;
use oprofile_tests::measure::Profile;
use oprofile_tests::vm::{Ended, Vm};

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

fn run(part: &str, seconds: u32, cpus: u32) -> (Ended, Profile) {
    let ended = Vm::debian(part, seconds)
        .cpus(cpus)
        .device("hz=1000")
        .device("callgraph=8")
        .run()
        .expect_code(0);
    let account = ended.account();
    let (received, unresolved) = (account.of("received"), account.sum(&UNRESOLVED));
    // At most one in a thousand, as Linux changes mappings in more ways than the module is told of.
    assert!(
        received > 1_000 && unresolved * 1_000 <= received,
        "{account:#?}"
    );
    let output = ended.output();
    assert!(output.contains("the agent has counted"), "{output}");
    assert!(!output.contains(" failed"), "{output}");
    let profile = Profile::read(&ended.session).expect("the session is readable");
    (ended, profile)
}

#[test]
fn programs_and_libraries_of_a_debian_guest_have_their_names() {
    let (ended, profile) = run("", 10, 2);
    for program in PROGRAMS {
        let samples = profile.samples(|row| row.application == program);
        assert!(samples > 0, "nothing of {program}: {}", ended.output());
    }
    for library in LIBRARIES {
        let samples = profile.samples(|row| row.image.as_deref() == Some(library));
        assert!(samples > 0, "nothing in {library}: {}", ended.output());
    }
    // Only in memory, and deleted while it runs.
    assert!(profile.samples(|row| row.application == "/tmp/moved") > 0);
    let deleted = profile.samples(|row| row.application.starts_with("/tmp/deleted"));
    assert!(deleted > 0, "{}", ended.output());
    let kernel = profile.samples(|row| row.symbol == "finish_task_switch.isra.0");
    let module = profile.samples(|row| row.application == "virtio_mmio.ko");
    assert!(kernel > 0, "no function of the kernel has its name");
    assert!(module > 0, "no module has its name");
}

#[test]
fn shares_of_a_debian_program_are_true() {
    let (ended, profile) = run("shares", 8, 1);
    let measured = profile.measure(&SHARES);
    assert!(
        measured.samples > 2_000,
        "{measured:#?}\n{}",
        ended.output()
    );
    assert!(measured.worst_error() <= 3.0, "{measured:#?}");
}

#[test]
fn libraries_that_come_and_go_are_told_apart_on_linux() {
    let (ended, profile) = run("plugin", 6, 2);
    let in_library =
        |name: &'static str| profile.samples(move |row| row.image.as_deref() == Some(name));
    let (a, b) = (
        in_library("/usr/lib/plugin_a.so"),
        in_library("/usr/lib/plugin_b.so"),
    );
    assert!(a > 200 && b > 200, "{a} and {b}: {}", ended.output());
    // Nobody calls it; it lies where the other library has its work.
    let strays = profile.samples(|row| row.symbol == "other_b");
    assert_eq!(strays, 0, "of {a} and {b}: {profile:#?}");
}

#[test]
fn processes_of_some_milliseconds_keep_their_samples_on_linux() {
    let (ended, profile) = run("storm", 8, 4);
    let own = profile.samples(|row| row.image.as_deref() == Some("/usr/bin/brief"));
    let named = profile
        .samples(|row| row.image.as_deref() == Some("/usr/bin/brief") && row.symbol == "briefly");
    assert!(own > 200, "{own}: {}", ended.output());
    // The rest is in `main` and what asks for the time.
    assert!(named * 100 >= own * 90, "{named} of {own}: {profile:#?}");
    let nowhere = profile.samples(|row| {
        row.image.as_deref() == Some("/usr/bin/brief") && row.symbol == "/usr/bin/brief"
    });
    assert_eq!(nowhere, 0, "{profile:#?}");
}
