//! Builds the guest agent's kernel module, and one that tests load, against packaged headers, which are unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::LinuxError;
use crate::apt;
use crate::lab::fetch;
use crate::repo;
use crate::step::Step;
use crate::tail;

/// A module of ours.
struct Own {
    /// Its sources in the repository.
    sources: &'static str,
    /// Where it is built, in the cache.
    place: &'static str,
    /// Its file.
    file: &'static str,
}

const AGENT: Own = Own {
    sources: "guest-agent/linux",
    place: "module",
    file: "virtio_oprofile.ko",
};
const LOAD: Own = Own {
    sources: "images/linux/kmasked",
    place: "kmasked",
    file: "kmasked.ko",
};
/// A profiling device inside the guest, for measuring the agent.
const LOOPBACK: Own = Own {
    sources: "images/linux/bench",
    place: "loopback",
    file: "oprofile_loopback.ko",
};
/// What it includes of the agent's.
const HEADER: &str = "oprofile_wire.h";

/// Lines of a failed build that are shown.
const SHOWN_LINES: usize = 30;
/// The compiler that Debian's kernels of this series are built with.
const COMPILER: &str = "gcc-12";

/// The modules for kernel `version`, built now if their sources changed: the agent, and a load for tests.
pub fn build(cache: &Path, version: &str, headers: &Path) -> Result<[PathBuf; 2], LinuxError> {
    apt::program("make", "make", "it builds kernel modules")?;
    apt::program(COMPILER, COMPILER, "it compiles kernel modules")?;
    let step = Step::begin(format_args!("building the guest's modules for {version}"));
    let build = |own: Own| -> Result<PathBuf, LinuxError> {
        let place = cache.join(own.place);
        copy_changed(&repo::root().join(own.sources), &place)?;
        make(headers, &place, version)?;
        Ok(place.join(own.file))
    };
    let built = [build(AGENT)?, build(LOAD)?];
    step.done();
    Ok(built)
}

/// The module that stands in for the host's device; [`build`] has found the tools.
pub fn build_loopback(cache: &Path, version: &str, headers: &Path) -> Result<PathBuf, LinuxError> {
    let place = cache.join(LOOPBACK.place);
    copy_changed(&repo::root().join(LOOPBACK.sources), &place)?;
    let header = repo::root().join(AGENT.sources).join(HEADER);
    let copy = place.join(HEADER);
    fs::copy(&header, &copy).map_err(LinuxError::file(&copy))?;
    make(headers, &place, version)?;
    Ok(place.join(LOOPBACK.file))
}

/// The headers of a kernel and what builds with them, in one tree below which they believe to be `/usr/src`.
pub fn headers(cache: &Path, version: &str) -> Result<PathBuf, LinuxError> {
    let home = cache.join(format!("headers-{version}"));
    let sources = home.join("usr/src");
    if !home.exists() {
        let (abi, kbuild) = names(version);
        let common = format!("linux-headers-{abi}-common");
        let own = format!("linux-headers-{version}");
        let kbuild = format!("linux-kbuild-{kbuild}");
        let step = Step::begin(format_args!("fetching {own} with apt-get"));
        // Kbuild's objtool is linked with libelf.
        fetch::download(&[&own, &common, &kbuild, "libelf1"], &home)?;
        step.done();
    }
    let tree = sources.join(format!("linux-headers-{version}"));
    for file in ["Makefile", ".kernelvariables"] {
        let path = tree.join(file);
        let text = fs::read_to_string(&path).map_err(LinuxError::file(&path))?;
        let moved = text.replace(
            "include /usr/src",
            &format!("include {}", sources.display()),
        );
        if moved != text {
            fs::write(&path, moved).map_err(LinuxError::file(&path))?;
        }
    }
    Ok(tree)
}

/// The parts of a version that the packages of common headers and of kbuild are named by: of `6.1.0-48-cloud-amd64`
/// `6.1.0-48` and `6.1`, of `6.12.117+deb12-cloud-amd64` twice `6.12.117+deb12`.
fn names(version: &str) -> (&str, String) {
    let abi = ["-cloud-amd64", "-amd64"]
        .iter()
        .find_map(|configuration| version.strip_suffix(configuration))
        .unwrap_or(version);
    let kbuild = if abi.contains('+') {
        abi.to_owned()
    } else {
        let series: Vec<&str> = abi.split('.').take(2).collect();
        series.join(".")
    };
    (abi, kbuild)
}

/// Copies the files that differ, so that kbuild builds no more than it must.
fn copy_changed(from: &Path, to: &Path) -> Result<(), LinuxError> {
    fs::create_dir_all(to).map_err(LinuxError::file(to))?;
    for entry in fs::read_dir(from).map_err(LinuxError::file(from))? {
        let path = entry.map_err(LinuxError::file(from))?.path();
        let (true, Some(name)) = (path.is_file(), path.file_name()) else {
            continue;
        };
        let target = to.join(name);
        let contents = fs::read(&path).map_err(LinuxError::file(&path))?;
        if fs::read(&target).ok().as_ref() != Some(&contents) {
            fs::write(&target, contents).map_err(LinuxError::file(&target))?;
        }
    }
    Ok(())
}

fn make(headers: &Path, place: &Path, version: &str) -> Result<(), LinuxError> {
    let libraries = headers.join("../../lib/x86_64-linux-gnu");
    // kbuild does not notice another kernel.
    let built_for = place.join("built-for");
    if fs::read_to_string(&built_for).ok().as_deref() != Some(version) {
        run_make(headers, place, &libraries, "clean")?;
        fs::write(&built_for, version).map_err(LinuxError::file(&built_for))?;
    }
    run_make(headers, place, &libraries, "modules")
}

fn run_make(
    headers: &Path,
    place: &Path,
    libraries: &Path,
    target: &str,
) -> Result<(), LinuxError> {
    let mut command = Command::new("make");
    command
        .arg("-s")
        .arg("-C")
        .arg(headers)
        .arg(format!("M={}", place.display()))
        .arg("KCFLAGS=-Werror")
        // Type information of the module is for debuggers, and takes one program more (pahole).
        .arg("CONFIG_DEBUG_INFO_BTF_MODULES=")
        .arg(target)
        .env("LD_LIBRARY_PATH", libraries)
        .stdin(Stdio::null());
    let shown = format!("make -C {} {target}", headers.display());
    let output = command.output().map_err(LinuxError::file(headers))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Err(LinuxError::Build {
        command: shown,
        output: tail(&text, SHOWN_LINES),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_by_parts_of_the_version() {
        for (version, abi, kbuild) in [
            ("6.1.0-48-cloud-amd64", "6.1.0-48", "6.1"),
            ("6.1.0-48-amd64", "6.1.0-48", "6.1"),
            (
                "6.12.117+deb12-cloud-amd64",
                "6.12.117+deb12",
                "6.12.117+deb12",
            ),
        ] {
            assert_eq!(names(version), (abi, kbuild.to_owned()), "{version}");
        }
    }
}
