//! Code that programs of a Debian guest make themselves, by the names that they tell in `/tmp/perf-PID.map`.

use oprofile_tests::measure::{Profile, Row, tolerance};
use oprofile_tests::vm::{Ended, Vm, file_of};

/// What `images/linux/programs/jitted.c` does, in percent: what it tells at once, later, and not at all.
const SHARES: [f64; 3] = [60.0, 30.0, 10.0];

fn device(vm: Vm) -> Vm {
    vm.cpus(2).device("hz=1000")
}

fn profile(ended: &Ended) -> Profile {
    let output = ended.output();
    assert!(!output.contains(" failed"), "{output}");
    let profile = Profile::read(&ended.session).expect("the session is readable");
    println!("{profile:#?}\n{output}");
    profile
}

/// Samples of a program in memory without a file, under the symbols that match.
fn outside_files(profile: &Profile, program: &str, matches: &dyn Fn(&str) -> bool) -> u64 {
    let is_outside = |row: &Row| {
        // Where functions are known, the image is the file that tells them.
        let image = row.image.as_deref().unwrap_or("anonymous");
        let is_region = image == "anonymous" || image.contains("/{anon:anon}/");
        row.application == program && is_region && !row.symbol.contains("vdso")
    };
    profile.samples(|row| is_outside(row) && matches(&row.symbol))
}

/// Samples in code of a program's own making: of both functions that it tells, and of the rest.
fn made(profile: &Profile, program: &str) -> [u64; 3] {
    let of = |matches: &dyn Fn(&str) -> bool| outside_files(profile, program, matches);
    [
        of(&|symbol| symbol == "jit_hot"),
        of(&|symbol| symbol == "jit_warm"),
        of(&|symbol| symbol.starts_with("anon (tgid:")),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts of samples are small")]
fn percent(counts: [u64; 3]) -> [f64; 3] {
    let sum: u64 = counts.iter().sum();
    counts.map(|count| count as f64 * 100.0 / sum.max(1) as f64)
}

#[track_caller]
fn assert_shares(profile: &Profile, program: &str, at_least: u64) {
    let counts = made(profile, program);
    let samples = counts.iter().sum::<u64>();
    assert!(samples >= at_least, "{program}: {counts:?}");
    let percent = percent(counts);
    println!("{program}: {counts:?}, {percent:.2?} %");
    for (measured, share) in percent.iter().zip(SHARES) {
        assert!(
            (measured - share).abs() <= tolerance(share, samples),
            "{program}: {percent:?}"
        );
    }
}

#[track_caller]
fn assert_unnamed(profile: &Profile, program: &str) {
    let [hot, warm, rest] = made(profile, program);
    assert!(
        hot == 0 && warm == 0 && rest > 50,
        "{program}: {hot}, {warm}, {rest}"
    );
}

#[test]
fn compiled_code_has_the_names_that_its_process_tells_of_it() {
    let ended = device(Vm::debian("jit", 8)).run().expect_code(0);
    let profile = profile(&ended);
    // One that lived to the end, many that lived for 300 ms each, one in namespaces and with a /tmp of its own.
    assert_shares(&profile, "/tmp/jitted_long", 300);
    assert_shares(&profile, "/tmp/jitted_short", 10);
    assert_shares(&profile, "/usr/bin/jitted", 300);
    let report = ended.opreport(&["-l"]);
    assert!(
        report.contains("jit_hot") && report.contains("jit_warm"),
        "{report}"
    );
    let account = ended.account();
    assert!(account.of("perf_maps") >= 3, "{account:#?}");
    assert_eq!(account.of("bad_perf_map_line"), 0, "{account:#?}");
    assert_eq!(account.of("bad_request"), 0, "{account:#?}");
}

#[test]
fn a_process_that_still_runs_has_the_names_that_it_has_told_by_then() {
    let mut running = device(Vm::debian("jit", 16)).start();
    running.wait_for_line("compiled code has run");
    running.signal("INT");
    let ended = running.wait().expect_code(0);
    let profile = profile(&ended);
    assert_shares(&profile, "/tmp/jitted_long", 300);
}

#[test]
fn maps_that_somebody_else_may_have_written_are_not_believed() {
    let ended = device(Vm::debian("disbelieved", 8).cmdline("scenario=disbelieved"))
        .run()
        .expect_code(0);
    let profile = profile(&ended);
    assert_shares(&profile, "/tmp/jitted_none", 100);
    for trick in ["link", "twice", "strange", "old"] {
        assert_unnamed(&profile, &format!("/tmp/jitted_{trick}"));
    }
    assert_unnamed(&profile, "/usr/bin/jitted_layers");
}

/// Samples of a program outside files: in functions with `hot` in their names, with `warm`, and in all.
fn named(profile: &Profile, program: &str, hot: &str, warm: &str) -> [u64; 3] {
    let of = |matches: &dyn Fn(&str) -> bool| outside_files(profile, program, matches);
    [
        of(&|symbol| symbol.contains(hot)),
        of(&|symbol| symbol.contains(warm)),
        of(&|_| true),
    ]
}

/// The programs of `images/linux/runtimes` do one thing twice as often as another, and nearly nothing else.
#[test]
fn functions_of_real_runtimes_have_the_names_that_they_tell() {
    let disk = file_of("OPROFILE_LINUX_RUNTIMES");
    let ended = device(Vm::debian("runtimes", 12).cmdline("scenario=runtimes"))
        .argument(&format!("--disk={disk},ro"))
        .run()
        .expect_code(0);
    let profile = profile(&ended);
    let output = ended.output();
    for runtime in ["node", "php"] {
        assert!(
            output.contains(&format!("{runtime} ended with")),
            "{output}"
        );
    }
    for (program, hot, warm) in [
        ("/runtimes/usr/bin/node", "hot /work.js", "warm /work.js"),
        ("/runtimes/usr/bin/php8.2", "JIT$hot", "JIT$warm"),
    ] {
        let counts @ [hot, warm, all] = named(&profile, program, hot, warm);
        println!("{program}: {counts:?}");
        assert!(hot + warm >= 300, "{program}: {counts:?}");
        assert!((hot + warm) * 10 >= all * 9, "{program}: {counts:?}");
        let percent = percent([hot, warm, 0]);
        assert!(
            (percent[0] - 200.0 / 3.0).abs() <= tolerance(200.0 / 3.0, hot + warm),
            "{program}: {percent:?}"
        );
    }
}
