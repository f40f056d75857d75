//! Sessions that are missing, damaged or hostile: each tool says what is wrong, or does without; none crashes.

#[allow(
    dead_code,
    reason = "the other tests of this crate need the rest of the guest"
)]
mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use oprofile_session::sample_file::{self, Header};
use tempfile::TempDir;

use support::{MTIME, TEXT, program};

/// A tool and its arguments.
type Reader = (&'static str, &'static [&'static str]);

const OPREPORT: &str = env!("CARGO_BIN_EXE_opreport");
const OPARCHIVE: &str = env!("CARGO_BIN_EXE_oparchive");
/// The table of programs, which does without binaries.
const SUMMARY: Reader = (OPREPORT, &[]);
/// Every tool that reads a session, in the ways that read it differently. The others are `opimport`, which has tests of its own
/// below, and `opcontrol` and `opread`, which speak with a VM.
const READERS: [Reader; 14] = [
    (OPREPORT, &["-l"]),
    (OPREPORT, &["-l", "-w", "-m", "all"]),
    (OPREPORT, &["-l", "-g"]),
    (OPREPORT, &["-d"]),
    (OPREPORT, &["-c"]),
    (OPREPORT, &["-X", "-d", "-g"]),
    (env!("CARGO_BIN_EXE_opannotate"), &["-s"]),
    (env!("CARGO_BIN_EXE_opgprof"), &["-o", "gmon"]),
    (env!("CARGO_BIN_EXE_opexport"), &["-F", "folded"]),
    (env!("CARGO_BIN_EXE_opexport"), &["-F", "json", "-g"]),
    (env!("CARGO_BIN_EXE_optop"), &["--once"]),
    (env!("CARGO_BIN_EXE_optop"), &["--once", "--json"]),
    SUMMARY,
    (OPARCHIVE, &["-o", "archive"]),
];
/// Those that look into sample files.
const REPORTS: &[Reader] = READERS.first_chunk::<13>().unwrap();
/// Those that look into binaries, too.
const SYMBOLS: &[Reader] = READERS.first_chunk::<12>().unwrap();
/// Those that tell what is the matter with a binary; `optop` redraws its screen, on which no warning would last.
const WARNING: &[Reader] = READERS.first_chunk::<10>().unwrap();
/// Those that name functions on standard output.
const NAMING: [Reader; 10] = {
    let [a, b, c, d, e, f, _, _, g, h, i, j, ..] = READERS;
    [a, b, c, d, e, f, g, h, i, j]
};
/// Those that read debug information and name functions.
const DEBUG_READERS: [Reader; 3] = [READERS[2], READERS[5], READERS[9]];
/// A user that is not root, to be kept out of directories.
const NOBODY: u32 = 65_534;

/// A session directory that holds what a test puts there, with a guest tree.
struct Damaged {
    dir: TempDir,
}

impl Damaged {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("samples/current")).unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        Self { dir }
    }

    /// A session with one program that has one sample.
    fn with_program(binary: &[u8]) -> Self {
        let session = Self::new();
        session.add_image(b"bin/work", binary, MTIME);
        session.add_samples(b"bin/work", &samples());
        session
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn sample_file(&self, image: &[u8], cpu: &str) -> PathBuf {
        let name = [
            &b"samples/current/{root}/"[..],
            image,
            b"/{dep}/{root}/",
            image,
            b"/TIMER.0.0.all.all.",
            cpu.as_bytes(),
        ]
        .concat();
        self.path().join(OsStr::from_bytes(&name))
    }

    fn add_samples(&self, image: &[u8], bytes: &[u8]) {
        let path = self.sample_file(image, "0");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn add_image(&self, image: &[u8], bytes: &[u8], mtime: u64) {
        let path = self.path().join("root").join(OsStr::from_bytes(image));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime);
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }

    fn run(&self, (tool, arguments): (&str, &[&str])) -> Output {
        let empty = TempDir::new().unwrap();
        let mut command = Command::new(tool);
        command
            .arg(format!("--session-dir={}", self.path().display()))
            .args(arguments)
            .current_dir(empty.path());
        checked(&mut command)
    }

    /// Every tool fails with a message.
    #[track_caller]
    fn expect_error(&self, readers: &[(&str, &[&str])], part: &str) {
        for reader in readers {
            let output = self.run(*reader);
            assert_error(&output, part, reader);
        }
    }

    /// The debug file of this name is used and archived, or neither.
    #[track_caller]
    fn expect_debug_file(&self, name: &str, is_taken: bool) {
        for (stdout, _) in self.expect_success(&NAMING) {
            assert_eq!(stdout.contains("first"), is_taken, "{stdout}");
        }
        let (stdout, _) = self.expect_success(&[(OPARCHIVE, &["-l"])]).remove(0);
        assert_eq!(stdout.contains(name), is_taken, "{stdout}");
    }

    /// Every tool does its work.
    #[track_caller]
    fn expect_success(&self, readers: &[(&str, &[&str])]) -> Vec<(String, String)> {
        readers
            .iter()
            .map(|reader| {
                let output = self.run(*reader);
                let stderr = text(&output.stderr);
                assert_eq!(output.status.code(), Some(0), "{reader:?}: {stderr}");
                (text(&output.stdout), stderr)
            })
            .collect()
    }
}

/// Runs a tool, which must neither die of a signal nor panic nor print anything that controls a terminal.
#[track_caller]
fn checked(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| code <= 125) && !stderr.contains("panicked"),
        "{command:?}: {:?} {stderr}",
        output.status
    );
    for stream in [&output.stdout, &output.stderr] {
        let plain = String::from_utf8(stream.clone()).expect("UTF-8");
        let control = plain
            .chars()
            .find(|character| character.is_control() && !"\n\t".contains(*character));
        assert_eq!(control, None, "{command:?}: {plain:?}");
    }
    output
}

#[track_caller]
fn assert_error(output: &Output, part: &str, tool: &dyn std::fmt::Debug) {
    let stderr = text(&output.stderr);
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| code != 0) && stderr.contains(part),
        "{tool:?}: {code:?} {stderr}"
    );
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A sample file with one sample in the first function of [`program`].
fn samples() -> Vec<u8> {
    sample_file::encode(&Header::timer(0, 0, MTIME), [(TEXT, 1)].into_iter())
}

fn good_program() -> Vec<u8> {
    program(&[(0, b"first"), (0x100, b"second")])
}

#[test]
fn sound_session_is_read_by_every_tool() {
    let session = Damaged::with_program(&good_program());
    session.expect_success(&READERS);
    for (stdout, _) in session.expect_success(&NAMING) {
        assert!(stdout.contains("first"), "{stdout}");
    }
}

#[test]
fn missing_and_empty_sessions_are_told() {
    let session = Damaged::new();
    session.expect_error(&READERS, "No sample found");
    fs::remove_dir_all(session.path().join("samples")).unwrap();
    session.expect_error(&READERS, "No sample found");
    fs::remove_dir_all(session.path()).unwrap();
    session.expect_error(&READERS, "No sample found");
}

#[test]
fn sample_file_of_the_other_byte_order_is_told() {
    let session = Damaged::with_program(&good_program());
    let mut bytes = samples();
    bytes[4..8].reverse();
    bytes[72..76].reverse();
    bytes[76..80].reverse();
    session.add_samples(b"bin/work", &bytes);
    session.expect_error(REPORTS, "version mismatch");
}

#[test]
fn cut_sample_file_is_told_at_every_length() {
    let good = samples();
    let session = Damaged::with_program(&good_program());
    for length in [0, 1, 4, 71, 72, 103, 104, 1000, good.len() - 20] {
        session.add_samples(b"bin/work", &good[..length]);
        session.expect_error(REPORTS, "bin/work");
    }
}

#[test]
fn table_that_claims_more_than_the_file_holds_is_told() {
    let session = Damaged::with_program(&good_program());
    for (offset, value) in [
        (76, 129u32),
        (76, u32::MAX),
        (72, 256),
        (72, u32::MAX),
        (72, 0),
    ] {
        let mut bytes = samples();
        bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        session.add_samples(b"bin/work", &bytes);
        session.expect_error(REPORTS, "bin/work");
    }
}

#[test]
fn binary_of_another_build_is_read_with_a_warning() {
    let session = Damaged::with_program(&good_program());
    session.add_image(b"bin/work", &good_program(), MTIME + 60);
    for (_, stderr) in session.expect_success(WARNING) {
        assert!(stderr.contains("last modified time"), "{stderr}");
    }
    session.expect_success(&READERS);
}

#[test]
fn missing_binary_is_told_and_its_samples_are_shown() {
    let session = Damaged::with_program(&good_program());
    fs::remove_file(session.path().join("root/bin/work")).unwrap();
    let (_, stderr) = session.expect_success(&[SUMMARY]).remove(0);
    assert_eq!(stderr, "");
    for reader in WARNING.iter().chain(READERS.last()) {
        let (_, stderr) = session.expect_success(&[*reader]).remove(0);
        assert!(stderr.contains("/bin/work could not be found"), "{stderr}");
    }
    session.expect_success(&[SYMBOLS[10], SYMBOLS[11]]);
}

/// A directory that may not be read. Root may read all, so the tools run as somebody else.
#[test]
fn directory_that_cannot_be_read_is_told() {
    let session = Damaged::with_program(&good_program());
    let closed = session.path().join("samples/current/{root}/bin");
    fs::set_permissions(session.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let is_root = fs::read_dir(&closed).is_ok();
    for (tool, arguments) in READERS {
        // Where everybody may go and run it: the build directory may be closed, too.
        let place = TempDir::new().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let copy = place.path().join("tool");
        // By a process of its own: a program that another test starts meanwhile would hold the copy open for writing.
        let copied = Command::new("cp").arg(tool).arg(&copy).status().unwrap();
        assert!(copied.success());
        let mut command = Command::new(copy);
        command
            .arg(format!("--session-dir={}", session.path().display()))
            .args(arguments)
            .current_dir(place.path());
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        assert_error(&checked(&mut command), "{root}/bin", &tool);
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn broken_binaries_cost_their_symbols_and_no_sample() {
    let good = good_program();
    let session = Damaged::with_program(&good);
    let mut broken: Vec<Vec<u8>> = [0, 4, 16, 63, 64, 0x1000, good.len() - 1, good.len() - 64]
        .into_iter()
        .map(|length| good[..length].to_vec())
        .collect();
    broken.push(b"#!/bin/sh\n".to_vec());
    // Each field of the header, and of each section header behind the end, as large as can be.
    for offset in (16..64).chain(good.len() - 320..good.len()).step_by(4) {
        let mut bytes = good.clone();
        bytes[offset..offset + 4].fill(0xff);
        broken.push(bytes);
    }
    for binary in broken {
        session.add_image(b"bin/work", &binary, MTIME);
        // By symbol, code outside of all symbols is not shown, and where a broken binary has its symbols is anybody's guess.
        let (summary, _) = session.expect_success(&[SUMMARY]).remove(0);
        let counted = summary
            .lines()
            .any(|line| line.split_whitespace().next() == Some("1"));
        assert!(counted, "{summary}");
    }
}

/// An ELF file of x86-64 with code, perhaps a name for it, and these sections behind it.
fn program_with(symbol: Option<&[u8]>, sections: &[(&[u8], &[u8])]) -> Vec<u8> {
    use object::write::{Object, StandardSection, Symbol, SymbolSection};
    use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind};
    let mut file = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let text = file.section_id(StandardSection::Text);
    let value = file.append_section_data(text, &[0x90; 0x400], 16);
    if let Some(name) = symbol {
        file.add_symbol(Symbol {
            name: name.to_vec(),
            value,
            size: 0x400,
            kind: SymbolKind::Text,
            scope: object::SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(text),
            flags: SymbolFlags::None,
        });
    }
    for (name, bytes) in sections {
        let kind = match name.starts_with(b".note") {
            true => SectionKind::Note,
            false => SectionKind::Debug,
        };
        let section = file.add_section(Vec::new(), name.to_vec(), kind);
        file.append_section_data(section, bytes, 1);
    }
    file.write().unwrap()
}

/// A sample at the start of the code of [`program_with`].
fn first_sample(binary: &[u8]) -> Vec<u8> {
    use object::{Object as _, ObjectSection as _};
    let file = object::File::parse(binary).unwrap();
    let (offset, _) = file.section_by_name(".text").unwrap().file_range().unwrap();
    sample_file::encode(&Header::timer(0, 0, MTIME), [(offset, 1)].into_iter())
}

#[test]
fn broken_debug_information_costs_lines_and_no_sample() {
    // A line table and a unit, both of version 5, that claim to be endless, to be long, to be cut, and to be nothing.
    let claims: [&[u8]; 5] = [
        &[0xff; 64],
        &[0xff, 0xff, 0xff, 0x7f, 5, 0, 8, 0, 1, 2, 3],
        &[0x20, 0, 0, 0, 5, 0, 1, 8, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
        &[5, 0, 0, 0, 5, 0],
        b"",
    ];
    let session = Damaged::new();
    for info in claims {
        for line in claims {
            let sections: [(&[u8], &[u8]); 4] = [
                (b".debug_info", info),
                (b".debug_line", line),
                (b".debug_abbrev", &[1, 0x11, 1, 0x10, 0x17, 0, 0, 0]),
                (b".debug_aranges", info),
            ];
            let binary = program_with(Some(b"first"), &sections);
            session.add_image(b"bin/work", &binary, MTIME);
            session.add_samples(b"bin/work", &first_sample(&binary));
            for (stdout, _) in session.expect_success(&DEBUG_READERS) {
                assert!(stdout.contains("first"), "{stdout}");
            }
        }
    }
}

#[test]
fn debug_file_of_another_build_is_not_taken() {
    let debug = program_with(Some(b"first"), &[]);
    for (checksum, is_taken) in [(crc32fast::hash(&debug), true), (0x0bad_0bad, false)] {
        let link = [&b"work.debug\0\0"[..], &checksum.to_le_bytes()].concat();
        let binary = program_with(None, &[(b".gnu_debuglink", &link)]);
        let session = Damaged::new();
        session.add_image(b"bin/work", &binary, MTIME);
        session.add_image(b"bin/.debug/work.debug", &debug, MTIME);
        session.add_samples(b"bin/work", &first_sample(&binary));
        session.expect_debug_file("work.debug", is_taken);
    }
}

/// The section with a build-id.
fn build_id(id: &[u8]) -> Vec<u8> {
    let words = [4, u32::try_from(id.len()).unwrap(), 3].map(u32::to_le_bytes);
    [&words.concat()[..], b"GNU\0", id].concat()
}

#[test]
fn debug_file_with_another_build_id_is_not_taken() {
    let id = [0xab; 20];
    let binary = program_with(None, &[(b".note.gnu.build-id", &build_id(&id))]);
    let of_build =
        |id: &[u8]| program_with(Some(b"first"), &[(b".note.gnu.build-id", &build_id(id))]);
    for (debug, is_taken) in [
        (of_build(&id), true),
        (of_build(&[0xac; 20]), false),
        (b"\x7fELF".to_vec(), false),
    ] {
        let session = Damaged::new();
        session.add_image(b"bin/work", &binary, MTIME);
        let name = format!("{}.debug", "ab".repeat(19));
        let path = format!("usr/lib/debug/.build-id/ab/{name}");
        session.add_image(path.as_bytes(), &debug, MTIME);
        session.add_samples(b"bin/work", &first_sample(&binary));
        session.expect_debug_file(&name, is_taken);
    }
}

#[test]
fn names_that_are_not_text_or_control_a_terminal_are_escaped() {
    let names: [&[u8]; 4] = [
        b"\x1b]0;owned\x07",
        b"not\xffutf8\xfe",
        "turn\u{202e}around".as_bytes(),
        b"line\nbreak\rreturn",
    ];
    for name in names {
        let session = Damaged::new();
        let image = [&b"bin/"[..], name].concat();
        session.add_samples(&image, &samples());
        // Without the binary: the name is in the warning, too. `checked` looks at the output.
        session.expect_success(&READERS);
        session.add_image(&image, &program(&[(0, name)]), MTIME);
        session.expect_success(&READERS);
        let broken = [&image[..], b"/{dep}/{root}/"].concat();
        let path = session
            .path()
            .join("samples/current/{root}")
            .join(OsStr::from_bytes(&broken));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(OsStr::from_bytes(name)), "").unwrap();
        session.expect_error(&READERS, "error");
    }
}

#[test]
fn session_of_a_hundred_thousand_files_is_read() {
    const FILES: usize = 100_000;
    /// Some file systems stop at 65,000 links.
    const LINKS: usize = 50_000;
    let session = Damaged::with_program(&good_program());
    let mut original = session.sample_file(b"bin/work", "0");
    for number in 1..FILES {
        let path = session.sample_file(b"bin/work", &number.to_string());
        if number % LINKS == 0 {
            fs::write(&path, samples()).unwrap();
            original = path;
        } else {
            fs::hard_link(&original, path).unwrap();
        }
    }
    let (stdout, _) = session
        .expect_success(&[(OPREPORT, &["-m", "cpu"])])
        .remove(0);
    assert!(
        stdout.contains(&format!("{FILES} 100.000 work")),
        "{stdout}"
    );
    // A column for each is more than a table has.
    session.expect_error(&[SUMMARY], "100000 columns");
    let readers: [Reader; 4] = [
        (env!("CARGO_BIN_EXE_opannotate"), &["-s", "-m", "cpu"]),
        (env!("CARGO_BIN_EXE_opgprof"), &["-o", "gmon"]),
        (
            env!("CARGO_BIN_EXE_opexport"),
            &["-F", "folded", "-m", "cpu"],
        ),
        (env!("CARGO_BIN_EXE_optop"), &["--once"]),
    ];
    for (number, (stdout, _)) in session.expect_success(&readers).into_iter().enumerate() {
        // There is no source to annotate, and gprof's file is no text.
        assert!(
            number < 2 || stdout.contains(&FILES.to_string()),
            "{stdout}"
        );
    }
    let (stdout, _) = session.expect_success(&[(OPARCHIVE, &["-l"])]).remove(0);
    assert_eq!(stdout.lines().count(), FILES + 1);
}

/// What `opimport` is given instead of a foreign file and its layout.
fn import(abi: &[u8], input: &[u8]) -> (Output, bool) {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("abi"), abi).unwrap();
    fs::write(at("input"), input).unwrap();
    let output = checked(
        Command::new(env!("CARGO_BIN_EXE_opimport"))
            .args(["-f", "-V", "-a", "abi", "-o", "output", "input"])
            .current_dir(dir.path()),
    );
    (output, at("output").exists())
}

/// The layout of this machine, as a session has it.
fn native_abi() -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let options = oprofile_session::CollectorOptions::default();
    oprofile_session::Collector::create(dir.path(), options).unwrap();
    fs::read(dir.path().join("abi")).unwrap()
}

#[test]
fn opimport_converts_or_leaves_no_file() {
    let (abi, good) = (native_abi(), samples());
    let (output, exists) = import(&abi, &good);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(exists);
    let mut swapped = good.clone();
    swapped[76..80].reverse();
    let inputs: [&[u8]; 6] = [
        b"",
        b"DAE\n",
        &good[..71],
        &good[..103],
        b"nothing",
        &swapped,
    ];
    for input in inputs {
        let (output, exists) = import(&abi, input);
        assert_error(&output, "error", &"opimport");
        assert!(!exists);
    }
    let abis: [&[u8]; 5] = [
        b"",
        b"sizeof_double eight\n",
        b"little_endian 0\n",
        b"\xff\x1b[31m",
        &[b'\n'; 70_000],
    ];
    for abi in abis {
        let (output, exists) = import(abi, &good);
        assert_error(&output, "error", &"opimport");
        assert!(!exists);
    }
}
