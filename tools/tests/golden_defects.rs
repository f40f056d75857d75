//! What OProfile 1.5's tools do wrong on the golden data, and ours right. Each case that is marked as a defect in
//! tests/golden/cases has its right answer here, worked out from the sample files and binaries and not from the original.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use oprofile_session::sample_file::SampleFile;
use tempfile::TempDir;

/// The cases marked as defects, each by the test that has its answer.
const ANSWERS: [(&str, &[&str]); 10] = [
    (
        "statistics_are_archived_where_they_are_read",
        &["p-archive-020"],
    ),
    (
        "debug_file_by_build_id_is_found_below_the_root",
        &["p-bid-002"],
    ),
    ("anonymous_region_calls_as_one_symbol", &["p-cganon-001"]),
    ("first_symbol_of_a_kernel_is_a_caller", &["p-cgfirst-001"]),
    (
        "sample_file_that_claims_more_than_it_has_is_refused",
        &[
            "p-corrupt-017",
            "p-corrupt-018",
            "p-corrupt-019",
            "p-corrupt-020",
            "p-corrupt-021",
        ],
    ),
    (
        "start_of_an_anonymous_region_keeps_its_64_bits",
        &["p-import-008"],
    ),
    (
        "what_cannot_be_imported_is_told_and_leaves_no_file",
        &[
            "p-import-011",
            "p-import-016",
            "p-import-024",
            "p-import-025",
        ],
    ),
    (
        "symbols_of_compiled_code_are_found_with_a_root",
        &["p-jit-R-001"],
    ),
    (
        "image_paths_are_searched_with_a_root",
        &["p-root-003", "p-root-004"],
    ),
    (
        "image_is_selected_by_the_path_that_was_recorded",
        &["p-spec-002"],
    ),
];

fn data(below: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data");
    data.join(below).canonicalize().unwrap()
}

/// Runs a tool on a golden session in an empty directory.
fn run(tool: &str, session: &str, arguments: &[&str]) -> (Output, TempDir) {
    let place = TempDir::new().unwrap();
    let output = Command::new(tool)
        .arg(format!(
            "--session-dir={}",
            data("sessions").join(session).display()
        ))
        .arg(format!("--root={}", data("root").display()))
        .args(arguments)
        .current_dir(place.path())
        .output()
        .unwrap();
    (output, place)
}

/// What `opreport` says without its heading; the fields of each line.
#[track_caller]
fn report(session: &str, arguments: &[&str]) -> Vec<Vec<String>> {
    let arguments = [&["--no-header"], arguments].concat();
    let (output, _) = run(env!("CARGO_BIN_EXE_opreport"), session, &arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// The blocks of a call graph: of each line the count, and what is called or calls.
fn blocks(session: &str) -> Vec<Vec<(u64, String)>> {
    let lines = report(session, &["--callgraph"]);
    let blocks = lines.split(|line| line.first().is_some_and(|word| word.starts_with("---")));
    blocks
        .filter(|block| !block.is_empty())
        .map(|block| {
            let line = |line: &Vec<String>| match line.last().map(String::as_str) {
                Some("[self]") => (line[0].parse().unwrap(), "[self]".to_owned()),
                Some(last) if last.starts_with("range:") => {
                    // `[vdso] (tgid:55 range:…)`, twice: image and symbol.
                    (line[0].parse().unwrap(), line[2].clone())
                }
                Some(last) => (line[0].parse().unwrap(), last.to_owned()),
                None => panic!("an empty line in a block"),
            };
            block.iter().map(line).collect()
        })
        .collect()
}

fn counted(lines: &[(u64, &str)]) -> Vec<(u64, String)> {
    lines
        .iter()
        .map(|(count, name)| (*count, (*name).to_owned()))
        .collect()
}

/// The counts of a sample file of a golden session.
fn samples(session: &str, below: &str) -> Vec<(u64, u64)> {
    let path = data("sessions")
        .join(session)
        .join("samples/current")
        .join(below);
    let file = SampleFile::read(&path.join("TIMER.0.0.all.all.all")).unwrap();
    file.counts.into_iter().collect()
}

#[test]
fn every_case_marked_as_a_defect_has_its_answer_here() {
    let mut marked = BTreeSet::new();
    for entry in fs::read_dir(data("../cases")).unwrap() {
        for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            if case.get("defect").is_some() {
                marked.insert(case["id"].as_str().unwrap().to_owned());
            }
        }
    }
    let answered: BTreeSet<String> = ANSWERS
        .iter()
        .flat_map(|(_, cases)| cases.iter().map(|case| (*case).to_owned()))
        .collect();
    assert_eq!(marked, answered);
    let source = include_str!("golden_defects.rs");
    for (test, _) in ANSWERS {
        assert!(source.contains(&format!("#[test]\nfn {test}()")), "{test}");
    }
}

#[test]
fn first_symbol_of_a_kernel_is_a_caller() {
    const ARCS: &str = "{root}/srv/demo/bin/calc/{dep}/{root}/boot/vmlinux-6.1.0-demo/{cg}/{root}/boot/vmlinux-6.1.0-demo";
    // pick_task begins .text and has 12 bytes; cpu_relax follows.
    assert_eq!(
        samples("cgfirst", ARCS),
        [(0x9_0000_000c, 319), (0x43_0000_000c, 146)]
    );
    let blocks = blocks("cgfirst");
    assert_eq!(
        blocks,
        [
            counted(&[(390, "main"), (390, "[self]")]),
            counted(&[
                (146, "do_schedule"),
                (319, "pick_task"),
                (278, "cpu_relax"),
                (278, "[self]"),
            ]),
            counted(&[(215, "do_schedule"), (215, "[self]"), (146, "cpu_relax")]),
            counted(&[(52, "pick_task"), (319, "cpu_relax"), (52, "[self]")]),
        ]
    );
}

#[test]
fn anonymous_region_calls_as_one_symbol() {
    const ARCS: &str = "{root}/srv/demo/bin/calc/{dep}/{anon:anon}/55.0x7fa00000.0x7fa0ffff/{cg}/{root}/srv/demo/bin/calc";
    // 0x12b6 is in calc_mul.
    assert_eq!(samples("cganon", ARCS), [(0x44_0000_12b6, 36)]);
    assert_eq!(
        blocks("cganon"),
        [
            counted(&[
                (301, "calc_mul"),
                (364, "main"),
                (580, "[vdso]"),
                (580, "[self]"),
            ]),
            counted(&[(261, "main"), (364, "[vdso]"), (261, "[self]")]),
            counted(&[(215, "anon"), (215, "[self]"), (36, "calc_mul")]),
            counted(&[
                (36, "anon"),
                (42, "calc_mul"),
                (301, "[vdso]"),
                (42, "[self]"),
            ]),
        ]
    );
}

#[test]
fn debug_file_by_build_id_is_found_below_the_root() {
    // The debug file's functions are work_000 to work_119, the binary itself has no name for them.
    let rows = report("bid", &["--symbols"]);
    assert_eq!(rows.len(), 8);
    assert!(
        rows.iter().all(|row| row[2].starts_with("work_")),
        "{rows:?}"
    );
    let total: u64 = rows.iter().map(|row| row[0].parse::<u64>().unwrap()).sum();
    let path = "{root}/srv/demo/bin/buildid/{dep}/{root}/srv/demo/bin/buildid";
    let counted: u64 = samples("bid", path).iter().map(|(_, count)| count).sum();
    assert_eq!(total, counted);
}

#[test]
fn symbols_of_compiled_code_are_found_with_a_root() {
    let rows = report("jit", &["--symbols"]);
    let jit: Vec<&Vec<String>> = rows.iter().filter(|row| row[2] == "4711.jo").collect();
    let names: Vec<&str> = jit.iter().map(|row| row[3].as_str()).collect();
    assert_eq!(names, ["jit::stubs(int)", "Loop.run", "void"]);
    // The region as a whole, which is all that the original finds, has 2184.
    let counts = jit.iter().map(|row| row[0].parse::<u64>().unwrap());
    assert_eq!(counts.sum::<u64>(), 2184);
}

#[test]
fn image_paths_are_searched_with_a_root() {
    let at = |below: &str| data(below).to_str().unwrap().to_owned();
    let rows = report("kern", &["--symbols", "--image-path", &at("alt")]);
    let functions_of = |rows: &[Vec<String>], image: &str| -> Vec<(u64, String)> {
        let rows = rows.iter().filter(|row| row[2].ends_with(image));
        rows.map(|row| (row[0].parse().unwrap(), row[4].clone()))
            .collect()
    };
    // 1218 and 295 samples, which the original has in no function.
    let net = counted(&[(852, "net_poll"), (353, "ring_next"), (13, "net_xmit")]);
    let disk = counted(&[(242, "disk_poll"), (53, "sector_next")]);
    assert_eq!(functions_of(&rows, "demo-net.ko"), net);
    assert_eq!(functions_of(&rows, "disk.ko"), disk);
    let modules = at("alt/mods");
    let rows = report("kern", &["-l", "-f", "-p", &modules]);
    assert_eq!(functions_of(&rows, &format!("{modules}/demo-net.ko")), net);
    assert_eq!(functions_of(&rows, &format!("{modules}/disk.ko")), disk);
}

#[test]
fn image_is_selected_by_the_path_that_was_recorded() {
    let rows = report("one", &["image:/srv/demo/bin/plain"]);
    let path = "{root}/srv/demo/bin/plain/{dep}/{root}/srv/demo/bin/plain";
    let counted: u64 = samples("one", path).iter().map(|(_, count)| count).sum();
    assert_eq!(rows, [[counted.to_string().as_str(), "100.000", "plain"]]);
}

#[test]
fn statistics_are_archived_where_they_are_read() {
    let arguments = ["--output-directory=arch"];
    let (output, place) = run(env!("CARGO_BIN_EXE_oparchive"), "lost", &arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let archive = place.path().join("arch");
    let statistics = "samples/current/stats";
    let original = data("sessions/lost").join(statistics);
    let mut files = 0;
    for entry in fs::read_dir(&original).unwrap() {
        let entry = entry.unwrap();
        let copy = archive.join("var/lib/oprofile").join(statistics);
        assert_eq!(
            fs::read(copy.join(entry.file_name())).unwrap(),
            fs::read(entry.path()).unwrap()
        );
        files += 1;
    }
    assert_eq!(files, 3);
    let mut top: Vec<_> = fs::read_dir(&archive)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    top.sort();
    assert_eq!(top, ["srv", "var"], "nothing below its original path");
}

#[test]
fn sample_file_that_claims_more_than_it_has_is_refused() {
    let report = env!("CARGO_BIN_EXE_opreport");
    for (tool, arguments) in [
        (report, &[][..]),
        (report, &["-l"]),
        (report, &["-d"]),
        (env!("CARGO_BIN_EXE_opannotate"), &["-s"]),
        (env!("CARGO_BIN_EXE_opgprof"), &["image:*calc"]),
    ] {
        let (output, place) = run(tool, "bad-cursize", arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{tool}: {stderr}");
        assert!(
            stderr.contains("2147483647 nodes used of 128"),
            "{tool}: {stderr}"
        );
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}

fn import(abi: &str, input: &str) -> (Output, TempDir) {
    let place = TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_opimport"))
        .arg("-a")
        .arg(data("import").join(abi))
        .args(["-o", "out"])
        .arg(data("import").join(input))
        .current_dir(place.path())
        .output()
        .unwrap();
    (output, place)
}

#[test]
fn start_of_an_anonymous_region_keeps_its_64_bits() {
    let (output, place) = import("abi.be64", "be64-anon.s");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let original = fs::read(data("import/be64-anon.s")).unwrap();
    let start = u64::from_be_bytes(original[56..64].try_into().unwrap());
    let imported = SampleFile::read(&place.path().join("out")).unwrap();
    assert_eq!(start, 0x7f00_0000_1000);
    assert_eq!({ imported.header.anon_start }, start);
}

#[test]
fn what_cannot_be_imported_is_told_and_leaves_no_file() {
    for (abi, input, reason) in [
        ("abi.be64", "bad.s", "bad magic number"),
        ("abi.be64", "nosuch.s", "No such file"),
        ("abi.bad", "be64.s", "line 1 is not 'name value'"),
        ("abi.part", "be64.s", "missing ABI key: "),
    ] {
        let (output, place) = import(abi, input);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{abi} {input}: {stderr}");
        assert!(stderr.contains(reason), "{abi} {input}: {stderr}");
        assert!(!place.path().join("out").exists());
    }
}
