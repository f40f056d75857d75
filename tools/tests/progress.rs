//! Progress: a line on a terminal while work takes long, nothing anywhere else.

#[allow(
    dead_code,
    reason = "the other tests of this crate need the rest of the guest"
)]
mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oprofile_session::Account;
use oprofile_tools::annotate::collect::{CollectOptions, collect};
use oprofile_tools::classes::Merge;
use oprofile_tools::export::read;
use oprofile_tools::options::{Kind, Options};
use oprofile_tools::profile::Selection;
use oprofile_tools::report::{self, Sink};
use oprofile_tools::session::Places;
use oprofile_tools::spec::Specification;
use portable_pty::{CommandBuilder, PtySize, native_pty_system};

use support::{Guest, Session, TEXT, program, vcpu};

/// A file that nothing can be read from until something is written to the handle that is returned.
fn slow_file(path: &Path) -> File {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    // For both, so that opening does not wait for the other end.
    let both = OpenOptions::new().read(true).write(true).open(path);
    both.unwrap()
}

/// A directory with a slow sample file, and how opimport is told to convert it.
struct Work {
    directory: tempfile::TempDir,
    input: File,
}

impl Work {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(
            directory.path().join("abi"),
            "little_endian 1\nsizeof_struct_opd_header 64\n",
        )
        .unwrap();
        let input = slow_file(&directory.path().join("input"));
        Self { directory, input }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn arguments(&self) -> Vec<PathBuf> {
        let (abi, output) = (self.path("abi"), self.path("output"));
        vec!["-a".into(), abi, "-o".into(), output, self.path("input")]
    }

    /// Lets the reader see a whole header, which is none.
    fn finish(mut self) {
        self.input.write_all(&[b'x'; 64]).unwrap();
    }
}

#[test]
fn long_work_shows_a_line_on_a_terminal_only_and_clears_it() {
    const OPIMPORT: &str = env!("CARGO_BIN_EXE_opimport");
    // Begun before the other: when that one shows something, this one has had as much time.
    let unseen = Work::new();
    let piped = Command::new(OPIMPORT)
        .args(unseen.arguments())
        .env("TERM", "xterm")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let seen = Work::new();
    let pty = native_pty_system().openpty(PtySize::default()).unwrap();
    let mut command = CommandBuilder::new(OPIMPORT);
    command.args(seen.arguments());
    command.env("TERM", "xterm");
    let mut child = pty.slave.spawn_command(command).unwrap();
    drop(pty.slave);
    let mut reader = pty.master.try_clone_reader().unwrap();
    let mut screen = vt100::Parser::new(24, 80, 0);
    let mut bytes = [0; 4096];
    while !screen.screen().contents().contains("Converting bytes: 0") {
        let length = reader.read(&mut bytes).unwrap();
        assert_ne!(length, 0, "opimport ended");
        screen.process(&bytes[..length]);
    }
    seen.finish();
    // An error is how the end of a pseudo-terminal looks.
    while let Ok(length @ 1..) = reader.read(&mut bytes) {
        screen.process(&bytes[..length]);
    }
    assert_eq!(child.wait().unwrap().exit_code(), 1);
    let contents = screen.screen().contents();
    assert!(contents.starts_with("error: "), "{contents}");
    assert!(!contents.contains("Converting"), "{contents}");

    unseen.finish();
    let output = piped.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr:?}");
    assert!(stderr.starts_with("error: "), "{stderr:?}");
}

#[test]
fn everything_that_is_expected_gets_done() {
    let mut guest = Guest::default();
    let work = guest.file(b"/bin/work", Some(program(&[(0, b"first")])));
    let library = guest.file(b"/lib/libx.so", Some(program(&[(0, b"inner")])));
    let reads = [
        vcpu(0, &[(work, TEXT, 5), (library, TEXT + 4, 3)]),
        vcpu(1, &[(work, TEXT, 7)]),
    ];
    let session = Session::record(guest, &reads, &Account::default());
    let spec = Specification::default();
    let places = || Places::find(Some(session.path()), None, &spec);
    let files = places().sample_files().unwrap().len();
    assert!(files > 1);

    for kind in [Kind::Summary, Kind::Symbols, Kind::Details, Kind::CallGraph] {
        for xml in [false, true] {
            let options = Options {
                kind,
                xml,
                merge: Merge {
                    cpu: true,
                    ..Merge::default()
                },
                ..Options::default()
            };
            let places = places();
            let mut sink = Sink {
                out: &mut Vec::new(),
                tell: &mut |_| {},
            };
            report::report(&places, &spec, &options, &mut sink).unwrap();
            let done = places.progress.counts();
            assert_eq!(done, (files, files), "{kind:?}, XML: {xml}");
        }
    }
    let exported = places();
    read::read(&exported, &spec, &read::Options::default()).unwrap();
    assert_eq!(exported.progress.counts(), (files, files));
    let annotated = places();
    let selection = Selection::new(&annotated, &spec, Merge::default(), false).unwrap();
    collect(&selection, &CollectOptions::default()).unwrap();
    assert_eq!(annotated.progress.counts(), (files, files));
}
