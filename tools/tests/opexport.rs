//! `opexport` on sessions made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use oprofile_session::sample_file::{Header, encode};

const FORMATS: [&str; 7] = [
    "folded",
    "flamegraph",
    "pprof",
    "firefox",
    "speedscope",
    "perf-script",
    "json",
];

fn write(session: &Path, path: &str, counts: &[(u64, u64)]) {
    let file: PathBuf = session.join("samples/current").join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let bytes = encode(&Header::timer(0, 0, 0), counts.iter().copied());
    fs::write(file, bytes).unwrap();
}

/// A program and its library on two vCPUs and in two processes; the library is called from the program.
fn session() -> tempfile::TempDir {
    let session = tempfile::tempdir().unwrap();
    let at = |path: &str, counts: &[(u64, u64)]| write(session.path(), path, counts);
    at(
        "{root}/srv/app/{dep}/{root}/srv/app/TIMER.0.0.7.7.0",
        &[(0x10, 5)],
    );
    at(
        "{root}/srv/app/{dep}/{root}/srv/lib.so/TIMER.0.0.7.7.0",
        &[(0x20, 10), (0x30, 4)],
    );
    at(
        "{root}/srv/app/{dep}/{root}/srv/lib.so/TIMER.0.0.8.8.1",
        &[(0x20, 1)],
    );
    // Fewer arcs than samples at 0x20, more at 0x30, and one for an address without samples.
    at(
        "{root}/srv/app/{dep}/{root}/srv/app/{cg}/{root}/srv/lib.so/TIMER.0.0.7.7.0",
        &[
            (0x11_0000_0020, 8),
            (0x11_0000_0030, 400),
            (0x11_0000_0040, 9),
        ],
    );
    session
}

fn opexport(session: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_opexport"))
        .args(arguments)
        .arg("--session-dir")
        .arg(session)
        .output()
        .unwrap()
}

fn folded(session: &Path, arguments: &[&str]) -> String {
    let output = opexport(session, &[&["-F", "folded"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn callers_are_told_once_and_counts_add_up() {
    let session = session();
    assert_eq!(
        folded(session.path(), &[]),
        "app;process 7;thread 7;vCPU 0;[app] 5\n\
         app;process 7;thread 7;vCPU 0;[app];[lib.so] 12\n\
         app;process 7;thread 7;vCPU 0;[lib.so] 2\n\
         app;process 8;thread 8;vCPU 1;[lib.so] 1\n"
    );
    assert_eq!(
        folded(session.path(), &["--merge", "all", "--flat"]),
        "app;[app] 5\nlib.so;[lib.so] 15\n"
    );
}

#[test]
fn caller_need_not_be_selected_to_be_named() {
    let session = session();
    assert_eq!(
        folded(
            session.path(),
            &["--merge=cpu,tgid", "lib-image:/srv/lib.so"]
        ),
        "app;[app];[lib.so] 12\napp;[lib.so] 3\n"
    );
}

#[test]
fn every_format_is_written_whole_or_not_at_all() {
    let session = session();
    let out = tempfile::tempdir().unwrap();
    for format in FORMATS {
        let file = out.path().join(format);
        let arguments = ["-F", format, "-o", file.to_str().unwrap()];
        assert!(opexport(session.path(), &arguments).status.success());
        assert!(fs::metadata(&file).unwrap().len() > 0, "{format}");
    }
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), FORMATS.len());
    let nowhere = out.path().join("none/file");
    let failed = opexport(
        session.path(),
        &["-F", "json", "-o", nowhere.to_str().unwrap()],
    );
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("No such file"));
}

#[test]
fn session_without_samples_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    let failed = opexport(empty.path(), &["-F", "json"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.stdout.is_empty());
    assert!(String::from_utf8_lossy(&failed.stderr).contains("No sample found"));
}

#[test]
fn more_records_than_a_text_should_have_are_refused() {
    let session = tempfile::tempdir().unwrap();
    write(
        session.path(),
        "{root}/srv/app/{dep}/{root}/srv/app/TIMER.0.0.all.all.all",
        &[(0, 10_000_001)],
    );
    let failed = opexport(session.path(), &["-F", "perf-script"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("10000000"));
}

/// `opexport` on a golden session.
fn golden(session: &str, arguments: &[&str]) -> String {
    let data = golden_data();
    let root = format!("--root={}", data.join("root").display());
    let output = opexport(
        &data.join("sessions").join(session),
        &[&[&root[..]], arguments].concat(),
    );
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn golden_data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data")
}

/// The function whose body holds each line of a source in the kernel's style: a body begins with a brace at the margin and
/// ends with one.
fn functions_by_line(source: &str) -> Vec<String> {
    let mut name = String::new();
    let mut is_inside = false;
    let mut functions = Vec::new();
    for line in source.lines() {
        if !is_inside && let Some((head, _)) = line.split_once("(int") {
            name = head.rsplit([' ', '*']).next().unwrap().to_owned();
        }
        is_inside |= line.starts_with('{');
        functions.push(if is_inside {
            name.clone()
        } else {
            String::new()
        });
        is_inside &= !line.starts_with('}');
    }
    functions
}

#[test]
fn lines_are_those_of_the_functions_that_they_are_told_of() {
    let json = golden("one", &["-F", "json", "-g", "image:*calc"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let frames = json["frames"].as_array().unwrap();
    let mut functions = std::collections::BTreeSet::new();
    let mut lines = 0;
    for frame in frames {
        let file = frame["file"].as_str().expect("calc has line tables");
        let source = fs::read_to_string(golden_data().join("root").join(&file[1..])).unwrap();
        let line = usize::try_from(frame["line"].as_u64().unwrap()).unwrap();
        let function = frame["function"].as_str().unwrap();
        assert_eq!(functions_by_line(&source)[line - 1], function, "{frame}");
        functions.insert((file.to_owned(), function.to_owned()));
        lines += 1;
    }
    // Two functions have one name, and most are sampled at several lines.
    assert_eq!(functions.len(), 11);
    assert!(lines > functions.len());
    let samples = json["samples"].as_array().unwrap().iter();
    let total: u64 = samples
        .map(|sample| sample["count"].as_u64().unwrap())
        .sum();
    assert_eq!(total, 3521);
    // Without, nothing is said of lines, and nothing is lost.
    let plain = golden("one", &["-F", "json", "image:*calc"]);
    let plain: serde_json::Value = serde_json::from_str(&plain).unwrap();
    assert_eq!(plain["total"], json["total"]);
    assert!(plain["frames"][0].get("line").is_none());
}

#[test]
fn cxx_names_are_shown_as_asked() {
    let names = |how: &str| -> Vec<(String, String)> {
        let folded = golden("cxx", &["-F", "folded", "-D", how]);
        let lines = folded.lines().map(|line| {
            let (stack, count) = line.rsplit_once(' ').unwrap();
            let (_, name) = stack.split_once(';').unwrap();
            (count.to_owned(), name.to_owned())
        });
        lines.collect()
    };
    let [mangled, normal, smart] = ["none", "normal", "smart"].map(names);
    assert_eq!((mangled.len(), normal.len(), smart.len()), (16, 16, 16));
    // The count of each function is its own: it tells the three names of one function.
    let by_count = |list: &[(String, String)], count: &str| {
        let found = list.iter().find(|(known, _)| known == count);
        found.unwrap_or_else(|| panic!("no {count}")).1.clone()
    };
    for (count, raw, plain) in [
        ("335", "_Z5applyPKcm", "apply(char const*, unsigned long)"),
        ("51", "_Z7biggestIiET_S0_S0_", "int biggest<int>(int, int)"),
        (
            "704",
            "_ZN3geo4RingIiLi8EE4pushERKi",
            "geo::Ring<int, 8>::push(int const&)",
        ),
        ("803", "_ZNK3geo5Point4normEv", "geo::Point::norm() const"),
        ("609", "_ZN3geo5PointD1Ev", "geo::Point::~Point()"),
        (
            "599",
            "_ZNK3geo5PointltERKS0_",
            "geo::Point::operator<(geo::Point const&) const",
        ),
    ] {
        assert_eq!(by_count(&mangled, count), raw);
        assert_eq!(by_count(&normal, count), plain);
        assert_eq!(by_count(&smart, count), plain);
    }
    let hidden = "_ZN12_GLOBAL__N_111hidden_stepEi";
    assert_eq!(by_count(&mangled, "491"), hidden);
    assert_eq!(
        by_count(&normal, "491"),
        "(anonymous namespace)::hidden_step(int)"
    );
    assert_eq!(by_count(&smart, "491"), "hidden_step(int)");
}
