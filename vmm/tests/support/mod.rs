//! Running the program, with guests of a few instructions.

// Each test program uses its part of this.
#![allow(dead_code)]

pub mod elf;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Assembles 32-bit code (AT&T syntax), which will stand at [`elf::LOAD`]. Labels are numbers from 30 on; the GPA of one is
/// `0x100000 + 30f - 20b`.
#[macro_export]
macro_rules! assemble {
    ($($line:literal),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: the code goes to read-only data and is not run; what runs takes two addresses of it.
        unsafe {
            std::arch::asm!(
                ".pushsection .rodata.guests, \"a\"",
                ".code32",
                "20:",
                $($line,)+
                "21:",
                ".code64",
                ".popsection",
                "leaq 20b(%rip), {start}",
                "leaq 21b(%rip), {end}",
                start = out(reg) start,
                end = out(reg) end,
                options(att_syntax, nomem, nostack),
            );
        }
        // SAFETY: the two labels enclose bytes of one read-only section, which lives as long as the program.
        unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
    }};
}

/// A kernel file in a directory that lives as long as this.
pub struct Guest {
    directory: tempfile::TempDir,
}

impl Guest {
    /// A kernel of `code`.
    pub fn new(code: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("kernel"), elf::kernel(code, true)).unwrap();
        Self { directory }
    }

    /// A directory for the test's other files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `oprofile-vmm run` of this kernel.
    pub fn command(&self) -> Command {
        let mut command = vmm();
        command.arg("--kernel").arg(self.directory().join("kernel"));
        command
    }

    /// Runs it to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ended {
        ended(self.command().args(arguments))
    }
}

/// `oprofile-vmm run`.
pub fn vmm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oprofile-vmm"));
    command.arg("run").stdin(Stdio::null());
    command
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code, `None` after a signal.
    pub code: Option<i32>,
    /// What the guest wrote to its serial port.
    pub serial: Vec<u8>,
    /// What the VMM said.
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            serial: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs `command` to its end.
pub fn ended(command: &mut Command) -> Ended {
    command.output().unwrap().into()
}

/// Starts `command`, and sends it `signal` as soon as its guest has written a line that begins with `line`.
pub fn signalled(command: &mut Command, line: &str, signal: i32) -> Ended {
    let mut child: Child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut serial = Vec::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    loop {
        let start = serial.len();
        let length = lines.read_until(b'\n', &mut serial).unwrap();
        if length == 0 || serial[start..].starts_with(line.as_bytes()) {
            break;
        }
    }
    let id = i32::try_from(child.id()).unwrap();
    // SAFETY: sends a signal to our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    std::io::Read::read_to_end(&mut lines, &mut serial).unwrap();
    let output = child.wait_with_output().unwrap();
    Ended {
        serial,
        ..output.into()
    }
}
