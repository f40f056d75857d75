//! The guest's initramfs and disks.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::LinuxError;
use super::programs::Programs;
use crate::apt;
use crate::archive::Archive;
use crate::lab::fetch::Kernel;
use crate::lab::modules::{self, Module};
use crate::repo;

/// The guest's first process.
const INIT: &str = "images/linux/init.sh";

/// What the first process runs besides, when the kernel's command line names it: scripts.
const SCENARIOS: &str = "images/linux/scenarios";

/// Modules of the kernel that the guest loads before ours.
const WANTED: [&str; 4] = ["virtio_mmio", "virtio_blk", "ext4", "overlay"];

/// When all files of the image were modified: any time but 0, which a session takes for unknown. 2026-01-01.
const MODIFIED: u32 = 1_767_225_600;

/// Parts of packages that no program needs.
const LEFT_OUT: [&str; 11] = [
    "usr/include",
    "usr/lib/python3.11/config-3.11-x86_64-linux-gnu",
    "usr/lib/python3.11/config-3.11d-x86_64-linux-gnu",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/lintian",
    "usr/share/gdb",
    "usr/lib/python3.11/test",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/x86_64-linux-gnu/gconv",
];

/// Sizes of the disks.
const DISK_SIZE: &str = "16M";
const ROOT_SIZE: &str = "32M";

/// The first process of a guest whose root is a disk.
const ROOT_INIT: &str = "images/linux/root.sh";

/// What it runs besides: an interpreter and its libraries, as links are followed.
const ON_ROOT: [&str; 5] = [
    "usr/bin/perl",
    "lib/x86_64-linux-gnu/libc.so.6",
    "lib/x86_64-linux-gnu/libcrypt.so.1",
    "lib/x86_64-linux-gnu/libm.so.6",
    "lib64/ld-linux-x86-64.so.2",
];

/// The first process of a guest that is only booted.
const BOOT_INIT: &str = "images/linux/boot.sh";

/// Makes a disk image: an ext4 file system with one program in it. Returns its path.
pub fn disk(cache: &Path, program: &Path) -> Result<PathBuf, LinuxError> {
    let content = tempfile::tempdir_in(cache).map_err(LinuxError::file(cache))?;
    let name = program.file_name().unwrap_or_default();
    put(content.path(), Path::new(name), program)?;
    file_system(content.path(), &cache.join("disk.img"), DISK_SIZE)
}

/// Makes a disk image that a guest can have as its root. Returns its path.
pub fn root(cache: &Path, programs: &Programs) -> Result<PathBuf, LinuxError> {
    let content = tempfile::tempdir_in(cache).map_err(LinuxError::file(cache))?;
    let to = content.path();
    for directory in ["dev", "proc", "sys"] {
        let directory = to.join(directory);
        fs::create_dir(&directory).map_err(LinuxError::file(&directory))?;
    }
    put(to, "sbin/init".as_ref(), &repo::root().join(ROOT_INIT))?;
    put(to, "bin/busybox".as_ref(), &programs.busybox)?;
    put(to, "usr/bin/shares".as_ref(), &programs.on_disk)?;
    for name in ON_ROOT {
        put(to, name.as_ref(), &programs.packages.join(name))?;
    }
    file_system(to, &cache.join("root.img"), ROOT_SIZE)
}

/// Copies `file` to `name` below `directory`, as a program.
fn put(directory: &Path, name: &Path, file: &Path) -> Result<(), LinuxError> {
    let copy = directory.join(name);
    if let Some(parent) = copy.parent() {
        fs::create_dir_all(parent).map_err(LinuxError::file(parent))?;
    }
    fs::copy(file, &copy).map_err(LinuxError::file(file))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).map_err(LinuxError::file(&copy))
}

/// Makes an ext4 file system with `content` in the file `path`, which it returns.
pub fn file_system(content: &Path, path: &Path, size: &str) -> Result<PathBuf, LinuxError> {
    let mke2fs = apt::program("mke2fs", "e2fsprogs", "it makes disks for the guest")?;
    let unfinished = path.with_extension("unfinished");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(LinuxError::file(&unfinished)(error));
        }
        _ => {}
    }
    apt::capture(
        Command::new(mke2fs)
            .args(["-q", "-t", "ext4", "-d"])
            .arg(content)
            .arg(&unfinished)
            .arg(size),
    )?;
    fs::rename(&unfinished, path).map_err(LinuxError::file(path))?;
    Ok(path.to_owned())
}

/// Writes an initramfs with nothing but an init that powers off. Returns its path.
pub fn pack_boot(cache: &Path, busybox: &Path) -> Result<PathBuf, LinuxError> {
    let init = repo::root().join(BOOT_INIT);
    let path = cache.join("boot.cpio");
    let pack = |file| {
        let mut archive = Archive::new(BufWriter::new(file), MODIFIED);
        for directory in ["dev", "proc"] {
            archive.directory(Path::new(directory))?;
        }
        archive.file(Path::new("init"), 0o755, &fs::read(&init)?)?;
        archive.file(Path::new("bin/busybox"), 0o755, &fs::read(busybox)?)?;
        archive.finish()
    };
    File::create(&path)
        .and_then(pack)
        .map_err(LinuxError::file(&path))?;
    Ok(path)
}

/// Writes the initramfs and returns its path. Not compressed: an emulated processor would pay for that.
pub fn pack(
    cache: &Path,
    kernel: &Kernel,
    own: &[PathBuf],
    programs: &Programs,
) -> Result<PathBuf, LinuxError> {
    let modules = modules::gather(&kernel.modules, &WANTED)?;
    let init = repo::root().join(INIT);
    let path = cache.join("initramfs.cpio");
    let unfinished = path.with_extension("unfinished");
    File::create(&unfinished)
        .and_then(|file| write(BufWriter::new(file), &init, &modules, own, programs))
        .and_then(|()| fs::rename(&unfinished, &path))
        .map_err(LinuxError::file(&path))?;
    Ok(path)
}

fn write(
    to: impl io::Write,
    init: &Path,
    modules: &[Module],
    own: &[PathBuf],
    programs: &Programs,
) -> io::Result<()> {
    let mut archive = Archive::new(to, MODIFIED);
    for directory in ["dev", "mnt", "proc", "sys", "tmp"] {
        archive.directory(Path::new(directory))?;
    }
    archive.file(Path::new("init"), 0o755, &fs::read(init)?)?;
    for entry in fs::read_dir(repo::root().join(SCENARIOS))? {
        let entry = entry?;
        let place = Path::new("scenarios").join(entry.file_name());
        archive.file(&place, 0o644, &fs::read(entry.path())?)?;
    }
    archive.file(
        Path::new("bin/busybox"),
        0o755,
        &fs::read(&programs.busybox)?,
    )?;
    let mut order = String::new();
    for Module { name, image } in modules {
        archive.file(
            &Path::new("modules").join(format!("{name}.ko")),
            0o644,
            image,
        )?;
        order.push_str(name);
        order.push('\n');
    }
    archive.file(Path::new("modules/order"), 0o644, order.as_bytes())?;
    for module in own {
        let name = module.file_name().unwrap_or_default();
        archive.file(&Path::new("modules").join(name), 0o644, &fs::read(module)?)?;
    }
    for program in &programs.compiled {
        let place = match program.extension() {
            Some(_) => "usr/lib",
            None => "usr/bin",
        };
        let name = program.file_name().unwrap_or_default();
        archive.file(&Path::new(place).join(name), 0o755, &fs::read(program)?)?;
    }
    archive.tree(&programs.packages, &|path| {
        LEFT_OUT.iter().any(|left_out| path.starts_with(left_out))
    })?;
    archive.finish()
}
