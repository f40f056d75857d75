//! Runs `opannotate` and `opgprof` on sessions as the collector writes them.

#[expect(dead_code, reason = "shared with the tests of opreport")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use oprofile_session::Account;
use oprofile_session::sample_file::{Header, encode};
use support::{Guest, Session, TEXT, program, vcpu};

const WORK: u64 = 1;
const LIBRARY: u64 = 2;

fn demo() -> Session {
    let mut guest = Guest::default();
    guest.file(
        b"/bin/work",
        Some(program(&[(0, b"main"), (0x100, b"_Z3hotii")])),
    );
    guest.file(b"/lib/libshare.so", Some(program(&[(0x80, b"mix")])));
    let reads = [
        vcpu(
            0,
            &[
                (WORK, TEXT + 0x11, 10),
                (WORK, TEXT + 0x101, 60),
                (LIBRARY, TEXT + 0x90, 20),
            ],
        ),
        vcpu(1, &[(WORK, TEXT + 0x104, 10)]),
    ];
    Session::record(guest, &reads, &Account::default())
}

fn run(program: &str, session: &Session, path: Option<&Path>, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .arg(format!("--session-dir={}", session.path().display()))
        .args(arguments)
        .current_dir(session.path());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command.output().unwrap()
}

fn opannotate(session: &Session, path: Option<&Path>, arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_opannotate"), session, path, arguments)
}

fn opgprof(session: &Session, arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_opgprof"), session, None, arguments)
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A directory with an `objdump` that does `script`.
fn objdump(script: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objdump");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[test]
fn assembly_has_samples_beside_the_instructions_of_each_function() {
    let session = demo();
    let tool = objdump(
        r#"echo "$*" >> calls
case "$*" in *start-address=0x400100*) printf '\n0000000000400100 <hot(int, int)>:\n  400100:\tnop\n  400101:\tnop\n' ;; esac"#,
    );
    let output = opannotate(
        &session,
        Some(tool.path()),
        &["-a", "-m", "cpu", "image:*work", "-i", "_Z3hotii"],
    );
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.ends_with(
            " * CPU: CPU with timer interrupt\n * Profiling through timer interrupt\n */\n               \
             :\n0000000000400100 <hot(int, int)>: /* hot(int, int) total:     70 100.000 */\n               \
             :  400100:\tnop\n    60 85.7143 :  400101:\tnop\n"
        ),
        "{text}"
    );
    // The last function of a file reaches up to its end.
    let image = session.path().join("root/bin/work");
    let stop = 0x40_0000 + fs::metadata(&image).unwrap().len() - TEXT;
    assert_eq!(
        fs::read_to_string(session.path().join("calls")).unwrap(),
        format!(
            "-d --no-show-raw-insn -C --start-address=0x400100 --stop-address={stop:#x} -- {}\n",
            image.display()
        )
    );
}

#[test]
fn missing_objdump_is_told_with_its_package() {
    let session = demo();
    let nothing = tempfile::tempdir().unwrap();
    let output = opannotate(&session, Some(nothing.path()), &["-a", "-m", "all"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("package binutils"), "{output:?}");
}

#[test]
fn failing_objdump_is_told_and_its_message_is_escaped() {
    let session = demo();
    let tool = objdump(r"printf 'no \033[2J way' >&2; exit 3");
    let output = opannotate(&session, Some(tool.path()), &["-a", "-m", "cpu"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("no \\x1b[2J way"), "{output:?}");
}

#[test]
fn binaries_without_lines_are_told() {
    let session = demo();
    let output = opannotate(&session, None, &["-s", "-m", "cpu"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output).contains("no debug information available"),
        "{output:?}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" * Output all files\n"), "{text}");
}

#[test]
fn addresses_of_the_running_kernel_are_not_annotated() {
    let session = demo();
    let file =
        session.sample_file("{root}/bin/work/{dep}/{root}/proc/kallsyms/TIMER.0.0.all.all.0");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(
        &file,
        encode(&Header::timer(0, 0, 0), [(0x1000, 7)].into_iter()),
    )
    .unwrap();
    let output = opannotate(&session, None, &["-s", "-m", "cpu"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output).contains("Cannot annotate pseudo file /proc/kallsyms -- ignoring."),
        "{output:?}"
    );
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let session = demo();
    for (arguments, message) in [
        (&[][..], "you must specify at least --source or --assembly"),
        (
            &["-a", "-o", "x"],
            "--output-dir is meaningless with --assembly",
        ),
        (
            &["-s", "-t", "101"],
            "illegal threshold value: 101 allowed range: [0-100]",
        ),
        (
            &["-s", "-x", "-m", "lib"],
            "--merge=lib is meaningless with --exclude-dependent",
        ),
        (
            &["-s", "{", "image:*work", "}", "{", "}"],
            "opannotate cannot compare two profiles",
        ),
        (&["-s", "-V", "chatty"], "unknown --verbose= options"),
        (
            &["-s", "image:none"],
            "error: no sample files found: profile specification too strict ?",
        ),
    ] {
        let output = opannotate(&session, None, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        // What to do about it may stand before.
        assert_eq!(stderr(&output).lines().last(), Some(message));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn gprof_file_holds_one_binary_of_all_vcpus() {
    let session = demo();
    let output = opgprof(&session, &["image:*work"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let bytes = fs::read(session.path().join("gmon.out")).unwrap();
    assert_eq!(bytes[21..29], 0x40_0010u64.to_le_bytes());
    assert_eq!(bytes[29..37], 0x40_0106u64.to_le_bytes());
    let bins: Vec<u16> = bytes[61..]
        .chunks_exact(2)
        .map(|bin| u16::from_le_bytes(bin.try_into().unwrap()))
        .collect();
    assert_eq!(bins.len(), 0xf6 / 2);
    assert_eq!((bins[0], bins[0x78], bins[0x7a]), (10, 60, 10));
    assert_eq!(bins.iter().copied().map(u64::from).sum::<u64>(), 80);
}

#[test]
fn gprof_leaves_out_functions_below_the_threshold() {
    let session = demo();
    let output = opgprof(&session, &["-t", "50", "-o", "x", "image:*work"]);
    assert_eq!(output.status.code(), Some(0));
    let bytes = fs::read(session.path().join("x")).unwrap();
    assert_eq!(bytes[21..29], 0x40_0010u64.to_le_bytes());
    assert_eq!(&bytes[61..63], [0, 0]);
}

#[test]
fn gprof_wants_one_binary() {
    let mut guest = Guest::default();
    guest.file(b"/bin/work", Some(program(&[(0, b"main")])));
    let session = Session::record(
        guest,
        &[vcpu(0, &[(WORK, TEXT, 1), (0, support::KERNEL, 1)])],
        &Account::default(),
    );
    // A file that is there already stays as it was.
    fs::write(session.path().join("gmon.out"), "old").unwrap();
    let output = opgprof(&session, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("exactly one binary"), "{output:?}");
    let left = fs::read(session.path().join("gmon.out")).unwrap();
    assert_eq!(left, b"old");
}

/// The samples of a golden session, annotated with the sources of its programs: counts and text of each line, by file.
fn golden_lines(image: &str) -> Vec<(String, Vec<(u64, String)>)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data");
    let output = Command::new(env!("CARGO_BIN_EXE_opannotate"))
        .arg(format!(
            "--session-dir={}",
            data.join("sessions/one").display()
        ))
        .arg(format!("--root={}", data.join("root").display()))
        .arg(format!("--search-dirs={}", data.join("root").display()))
        .args(["--source", image])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let files = text.split(" * Total samples for file : ").skip(1);
    files
        .map(|file| {
            let (name, rest) = file[1..].split_once('"').unwrap();
            let lines = rest.lines().filter_map(|line| {
                let (counts, source) = line.split_once(':')?;
                let count = match counts.split_whitespace().next() {
                    Some(count) => count.parse().ok()?,
                    None => 0,
                };
                Some((count, source.to_owned()))
            });
            (name.to_owned(), lines.collect())
        })
        .collect()
}

#[test]
fn samples_stand_beside_the_lines_of_a_compilers_debug_information() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data/root");
    let files = golden_lines("image:*calc");
    let names: Vec<&str> = files.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(
        names,
        ["/srv/demo/src/calc_main.c", "/srv/demo/src/calc_util.c"]
    );
    let mut all = 0;
    for (name, lines) in &files {
        let source = fs::read_to_string(sources.join(&name[1..])).unwrap();
        assert_eq!(lines.len(), source.lines().count(), "{name}");
        for ((_, shown), line) in lines.iter().zip(source.lines()) {
            // Behind a function's first line stands its total.
            let rest = shown.strip_prefix(line).unwrap();
            assert!(rest.is_empty() || rest.starts_with(" /* "), "{shown}");
        }
        all += lines.iter().map(|(count, _)| count).sum::<u64>();
    }
    // Every sample of the program has a line; only its own image was sampled.
    assert_eq!(all, 3521);
    let counts: Vec<(u64, &str)> = files[0]
        .1
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, line)| (*count, line.trim_start()))
        .collect();
    assert!(counts.contains(&(445, "r += helper(r & 7);")), "{counts:?}");
    assert!(counts.contains(&(193, "shape_report(code);")), "{counts:?}");
}

/// A library that this machine's compiler makes, with line tables; where its function `hot` begins in the file.
fn compiled(directory: &Path) -> (Vec<u8>, u64) {
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(rustc)
        .args([
            "--crate-type=cdylib",
            "--edition=2024",
            "-g",
            "hot.rs",
            "-o",
            "libhot.so",
        ])
        .current_dir(directory)
        .status()
        .unwrap();
    assert!(status.success());
    let bytes = fs::read(directory.join("libhot.so")).unwrap();
    let file = object::File::parse(&bytes[..]).unwrap();
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok("hot"));
    let symbol = symbol.expect("the function is exported");
    let section = symbol.section_index().unwrap();
    let section = file.section_by_index(section).unwrap();
    let (offset, _) = section.file_range().unwrap();
    let offset = symbol.address() - section.address() + offset;
    (bytes, offset)
}

const HOT: &str = "\
// Counts down.
#[unsafe(no_mangle)]
pub extern \"C\" fn hot(number: u32) -> u32 {
    number / 2
}
";

#[test]
fn lines_of_what_this_machines_compiler_makes_are_found() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("hot.rs"), HOT).unwrap();
    let (library, offset) = compiled(directory.path());
    let mut guest = Guest::default();
    guest.file(b"/bin/work", Some(program(&[(0, b"main")])));
    guest.file(b"/lib/libhot.so", Some(library));
    let samples = [(WORK, TEXT, 3), (LIBRARY, offset, 7)];
    let session = Session::record(guest, &[vcpu(0, &samples)], &Account::default());
    let output = opannotate(&session, None, &["-s"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = "     7 70.0000 :pub extern \"C\" fn hot(number: u32) -> u32 { /* hot total:      7 70.0000 */\n";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("               :    number / 2\n"), "{text}");
    // Not at all without its source, but by its name.
    fs::remove_file(directory.path().join("hot.rs")).unwrap();
    let output = opannotate(&session, None, &["-s"]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(text.contains(" /* hot total:      7 70.0000 */"), "{text}");
    assert!(stderr(&output).contains("hot.rs"), "{}", stderr(&output));
}
