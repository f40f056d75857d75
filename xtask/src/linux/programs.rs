//! The guest's programs: real ones from packages, and small ones that are compiled now.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::LinuxError;
use crate::apt;
use crate::lab::fetch;
use crate::repo;
use crate::step::Step;
use crate::tail;

/// What is in the guest: interpreters, a compressor, a data base, and the libraries that they are linked with.
const PACKAGES: &[&str] = &[
    "gzip",
    "libc6",
    "libexpat1",
    "libgcc-s1",
    "libpython3.11",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libreadline8",
    "libsqlite3-0",
    "libstdc++6",
    "libtinfo6",
    "perl-base",
    "sqlite3",
    "zlib1g",
];

/// Sources of the small programs, and what each is compiled with.
const SOURCES: &str = "images/linux/programs";
const PROGRAMS: &[Program] = &[
    Program {
        source: "pyhost.c",
        compiler: "gcc",
        options: &["-O1"],
        libraries: &["usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0"],
    },
    Program {
        source: "throws.cpp",
        compiler: "g++",
        options: &["-O1", "-fno-omit-frame-pointer"],
        libraries: &[],
    },
    Program {
        source: "shares.c",
        compiler: "gcc",
        options: &["-O1", "-static-pie", "-fno-omit-frame-pointer"],
        libraries: &[],
    },
];

struct Program {
    source: &'static str,
    compiler: &'static str,
    options: &'static [&'static str],
    /// Below the packages' tree.
    libraries: &'static [&'static str],
}

/// Lines of a failed compilation that are shown.
const SHOWN_LINES: usize = 20;

/// What goes into the image.
#[derive(Debug)]
pub struct Programs {
    /// The unpacked packages.
    pub packages: PathBuf,
    /// The compiled programs, a file each.
    pub compiled: Vec<PathBuf>,
    /// A static busybox.
    pub busybox: PathBuf,
}

/// Fetches and compiles what is missing.
pub fn gather(cache: &Path) -> Result<Programs, LinuxError> {
    let packages = cache.join("packages");
    if !packages.exists() {
        let step = Step::begin("fetching the guest's programs with apt-get");
        fetch::download(PACKAGES, &packages)?;
        step.done();
    }
    let lab = repo::lab_dir();
    fs::create_dir_all(&lab).map_err(LinuxError::file(&lab))?;
    let busybox = fetch::busybox(&lab)?;
    let place = cache.join("programs");
    fs::create_dir_all(&place).map_err(LinuxError::file(&place))?;
    let compiled = PROGRAMS
        .iter()
        .map(|program| compile(program, &packages, &place))
        .collect::<Result<_, _>>()?;
    Ok(Programs {
        packages,
        compiled,
        busybox,
    })
}

fn compile(program: &Program, packages: &Path, place: &Path) -> Result<PathBuf, LinuxError> {
    apt::program(
        program.compiler,
        program.compiler,
        "it compiles the guest's programs",
    )?;
    let source = repo::root().join(SOURCES).join(program.source);
    let target = place.join(Path::new(program.source).file_stem().unwrap_or_default());
    let mut command = Command::new(program.compiler);
    command
        .args(program.options)
        .args(["-Wall", "-Werror", "-o"])
        .arg(&target)
        .arg(&source)
        .args(
            program
                .libraries
                .iter()
                .map(|library| packages.join(library)),
        );
    if !program.libraries.is_empty() {
        // Their own dependencies are resolved in the guest.
        command.arg("-Wl,--unresolved-symbols=ignore-in-shared-libs");
    }
    let output = command.output().map_err(LinuxError::file(&source))?;
    if output.status.success() {
        return Ok(target);
    }
    Err(LinuxError::Build {
        command: format!("{} {}", program.compiler, source.display()),
        output: tail(&String::from_utf8_lossy(&output.stderr), SHOWN_LINES),
    })
}
