//! The guest's programs: real ones from packages, and small ones that are compiled now.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
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
    "libcrypt1",
    "libexpat1",
    "libgcc-s1",
    "libpython3.11",
    "libpython3.11-dbg",
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

/// Debian's libraries have no symbols; these have libc's. The other libraries' are not in Debian's main archive, but for Python there
/// is a library with symbols inside.
const DEBUG_PACKAGES: &[&str] = &["libc6-dbg"];

/// Sources of the small programs, and what each is compiled with.
const SOURCES: &str = "images/linux/programs";
const PROGRAMS: &[Program] = &[
    Program {
        source: "pyhost.c",
        compiler: "gcc",
        options: &["-O1"],
        libraries: &["usr/lib/x86_64-linux-gnu/libpython3.11d.so.1.0"],
    },
    Program {
        source: "throws.cpp",
        compiler: "g++",
        options: &["-O1", "-fno-omit-frame-pointer"],
        libraries: &[],
    },
    Program {
        source: "brief.c",
        compiler: "gcc",
        options: &["-O1"],
        libraries: &[],
    },
    Program {
        source: "plugin.c",
        compiler: "gcc",
        options: &["-O1"],
        libraries: &[],
    },
    Program {
        source: "plugin_a.c",
        compiler: "gcc",
        options: SHARED,
        libraries: &[],
    },
    Program {
        source: "plugin_b.c",
        compiler: "gcc",
        options: SHARED,
        libraries: &[],
    },
    Program {
        source: "memfd.c",
        compiler: "gcc",
        options: &["-O1"],
        libraries: &[],
    },
    Program {
        source: "moves.c",
        compiler: "gcc",
        options: &["-O1", "-mno-red-zone"],
        libraries: &[],
    },
    Program {
        source: "jitted.c",
        compiler: "gcc",
        options: &["-O1"],
        libraries: &[],
    },
    Program {
        source: "shares.c",
        compiler: "gcc",
        options: &["-O1", "-static-pie", "-fno-omit-frame-pointer"],
        libraries: &[],
    },
];

/// Makes a library; without dependencies, so that nothing else is loaded and unloaded with it.
const SHARED: &[&str] = &["-O1", "-shared", "-fPIC", "-nostdlib"];

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
    /// The one of them that is also on the disk.
    pub on_disk: PathBuf,
    /// A static busybox.
    pub busybox: PathBuf,
    /// Debug files by build-id, as below `/usr/lib/debug`.
    pub debug: PathBuf,
}

/// Where packages are unpacked: another list is another tree.
pub fn tree_of(cache: &Path, name: &str, packages: &[&str]) -> PathBuf {
    let mut list = DefaultHasher::new();
    packages.hash(&mut list);
    cache.join(format!("{name}-{:016x}", list.finish()))
}

/// Fetches and compiles what is missing.
pub fn gather(cache: &Path) -> Result<Programs, LinuxError> {
    let packages = tree_of(cache, "packages", PACKAGES);
    if !packages.exists() {
        let step = Step::begin("fetching the guest's programs with apt-get");
        fetch::download(PACKAGES, &packages)?;
        step.done();
    }
    let debug = cache.join("debug");
    if !debug.exists() {
        let step = Step::begin("fetching libc's symbols with apt-get");
        fetch::download(DEBUG_PACKAGES, &debug)?;
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
        on_disk: place.join("shares"),
        compiled,
        busybox,
        debug: debug.join("usr/lib/debug"),
    })
}

fn compile(program: &Program, packages: &Path, place: &Path) -> Result<PathBuf, LinuxError> {
    apt::program(
        program.compiler,
        program.compiler,
        "it compiles the guest's programs",
    )?;
    let source = repo::root().join(SOURCES).join(program.source);
    let name = if program.options.contains(&"-shared") {
        Path::new(program.source).with_extension("so")
    } else {
        Path::new(program.source).with_extension("")
    };
    let target = place.join(name);
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
