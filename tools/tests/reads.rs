//! What a report costs: each image is read once however many sample files there are of it, and debug information only when
//! it is asked for. Counted, not timed.

#[allow(
    dead_code,
    reason = "the other tests of this crate need the rest of the guest"
)]
mod support;

use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use object::{Object as _, ObjectSection as _};
use oprofile_session::sample_file::{Header, encode};
use rustix::fs::inotify;
use tempfile::TempDir;

use support::{MTIME, TEXT, program};

const OPREPORT: &str = env!("CARGO_BIN_EXE_opreport");

/// Bytes of debug information.
const DEBUG_INFO: u64 = 64 << 20;
/// More than a report reads without it, in bytes: the programs and libraries that run, a sample file, an image.
const ELSE: u64 = 4 << 20;

/// A session with the image `bin/work`, which two programs used on three vCPUs.
fn session(image: &[u8], offset: u64) -> TempDir {
    let session = TempDir::new().unwrap();
    for program in ["bin/work", "bin/other"] {
        for vcpu in 0..3 {
            let name =
                format!("{{root}}/{program}/{{dep}}/{{root}}/bin/work/TIMER.0.0.all.all.{vcpu}");
            let path = session.path().join("samples/current").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let counts = [(offset, 1), (offset + 1, 1)];
            fs::write(
                path,
                encode(&Header::timer(0, 0, MTIME), counts.into_iter()),
            )
            .unwrap();
        }
    }
    let path = image_path(&session);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, image).unwrap();
    session
}

fn image_path(session: &TempDir) -> PathBuf {
    session.path().join("root/bin/work")
}

/// How often a file was opened. A watch that has nothing to tell between two openings would tell them as one, so it tells
/// when the file is closed, too.
struct Openings {
    watch: std::os::fd::OwnedFd,
}

impl Openings {
    fn of(path: &Path) -> Self {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        let events = inotify::WatchFlags::OPEN | inotify::WatchFlags::CLOSE_NOWRITE;
        inotify::add_watch(&watch, path, events).unwrap();
        Self { watch }
    }

    /// Since the last call.
    fn take(&self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
        let mut count = 0;
        // Fails when there is no more.
        while let Ok(event) = reader.next() {
            count += usize::from(event.events().contains(inotify::ReadFlags::OPEN));
        }
        count
    }
}

fn report(session: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(OPREPORT);
    command.arg("--session-dir").arg(session.path());
    // One after the other, or openings could not be told apart.
    command.args(arguments).env("RAYON_NUM_THREADS", "1");
    command.output().unwrap()
}

#[test]
fn image_is_opened_once_for_all_its_sample_files() {
    let session = session(&program(&[(0, b"first"), (0x100, b"second")]), TEXT);
    let openings = Openings::of(&image_path(&session));
    for (arguments, expected) in [
        (&["-m", "cpu"][..], 0),
        (&["-l", "-m", "cpu"], 1),
        (&["-l", "-m", "all"], 1),
        (&["-d", "-m", "cpu"], 1),
        (&["-l"], 1),
        // Once for its symbols and once for its lines.
        (&["-l", "-g", "-m", "cpu"], 2),
    ] {
        let output = report(&session, arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(
            text.contains("first"),
            expected > 0,
            "{arguments:?}: {text}"
        );
        assert_eq!(openings.take(), expected, "{arguments:?}");
    }
}

/// An ELF file of one function whose `.debug_info` lies behind its end, where a file may have a hole.
fn program_with_hole() -> (Vec<u8>, u64) {
    use object::write::{Object, StandardSection, Symbol, SymbolSection};
    use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind};
    let mut file = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let text = file.section_id(StandardSection::Text);
    let value = file.append_section_data(text, &[0x90; 0x400], 16);
    file.add_symbol(Symbol {
        name: b"first".to_vec(),
        value,
        size: 0x400,
        kind: SymbolKind::Text,
        scope: object::SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(text),
        flags: SymbolFlags::None,
    });
    for name in [".debug_line", ".debug_info"] {
        let section = file.add_section(Vec::new(), name.into(), SectionKind::Debug);
        file.append_section_data(section, &[0xff; 64], 1);
    }
    let mut bytes = file.write().unwrap();
    let parsed = object::File::parse(&bytes[..]).unwrap();
    let (code, _) = parsed
        .section_by_name(".text")
        .unwrap()
        .file_range()
        .unwrap();
    let info = parsed.section_by_name(".debug_info").unwrap().index().0;
    // The header of a section: its offset lies at 24, its size behind that.
    let headers = u64::from_le_bytes(bytes[40..48].try_into().unwrap());
    let at = usize::try_from(headers).unwrap() + info * 64 + 24;
    let end = bytes.len() as u64;
    bytes[at..at + 8].copy_from_slice(&end.to_le_bytes());
    bytes[at + 8..at + 16].copy_from_slice(&DEBUG_INFO.to_le_bytes());
    (bytes, code)
}

/// Bytes that a report reads. The system adds those of a process that has ended to its parent's, which is a shell.
fn bytes_read(session: &TempDir, arguments: &[&str]) -> u64 {
    let output = Command::new("sh")
        .args(["-c", "\"$@\" && cat /proc/$$/io", "sh", OPREPORT])
        .arg("--session-dir")
        .arg(session.path())
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("first"), "{arguments:?}: {text}");
    let count = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    count.expect("a kernel that counts").parse().unwrap()
}

#[test]
fn debug_information_is_not_read_unless_lines_are_wanted() {
    let (image, code) = program_with_hole();
    let session = session(&image, code);
    let file = fs::File::options()
        .append(true)
        .open(image_path(&session))
        .unwrap();
    file.set_len(image.len() as u64 + DEBUG_INFO).unwrap();
    for arguments in [
        &["-l", "-m", "cpu"][..],
        &["-d", "-m", "cpu"],
        &["-c", "-m", "cpu"],
        &["-l", "-X", "-m", "cpu"],
    ] {
        let count = bytes_read(&session, arguments);
        assert!(count < ELSE, "{arguments:?}: {count}");
    }
    let count = bytes_read(&session, &["-l", "-g", "-m", "cpu"]);
    assert!(count > DEBUG_INFO, "{count}");
}
