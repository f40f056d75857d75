//! From a guest's file to its functions: build-ids in guest memory, copies from the initrd and from a disk that nobody mounts.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;

use cpio::newc::{Builder, Reader, trailer};
use oprofile_images::truth::{Group, Image, Share};
use oprofile_session::file_list::{self, FileRecord};
use oprofile_session::{Build, BuildId};
use oprofile_tests::measure::{Profile, Row};
use oprofile_tests::vm::{Ended, Vm, bin_dir, file_of};
use tempfile::TempDir;

/// Lowest major number of a virtio disk: Linux gives those out as drivers ask for one.
const FIRST_DYNAMIC_MAJOR: u32 = 234;

/// Samples that a busy program has at least, also on a machine that has little time for it.
const ENOUGH: u64 = 100;

const fn share(symbol: &'static str, percent: u32) -> Share {
    Share {
        application: Some("/mnt/shares"),
        image: Image::File("/mnt/shares"),
        symbol,
        percent,
    }
}

/// What the program on the disk does.
const SHARES: Group = Group {
    name: "shares",
    shares: &[share("hot", 60), share("warm", 30), share("cool", 10)],
};

fn listed(ended: &Ended) -> Vec<FileRecord> {
    file_list::read(&ended.session.join("samples/current")).expect("the list of files")
}

/// What is known of the build of `path`, which one file had.
fn build_of(list: &[FileRecord], path: &str) -> Build {
    let of_path: Vec<_> = list
        .iter()
        .filter(|record| record.name == path.as_bytes())
        .collect();
    assert_eq!(of_path.len(), 1, "{path}: {list:#?}");
    of_path[0].identity.build.clone()
}

fn build_id(file: &str) -> BuildId {
    let contents = fs::read(file).expect("a file");
    BuildId::of_elf(&contents).unwrap_or_else(|| panic!("{file} has no build-id"))
}

/// The guest's initramfs, and behind it an archive with another program at the place where the disk's will be mounted.
fn initrd_with_another_program(directory: &TempDir) -> String {
    let other = bin_dir().join("opreport");
    let contents = fs::read(other).expect("a program");
    let mut initrd = fs::read(file_of("OPROFILE_LINUX_INITRD")).expect("the initramfs");
    let size = u32::try_from(contents.len()).expect("a small program");
    let builder = Builder::new("mnt/shares").mode(0o100_755).mtime(1);
    let mut writer = builder.write(&mut initrd, size);
    writer.write_all(&contents).expect("in memory");
    writer.finish().expect("in memory");
    trailer(&mut initrd).expect("in memory");
    let path = directory.path().join("initrd");
    fs::write(&path, initrd).expect("an initrd");
    path.display().to_string()
}

fn run_from_disk(directory: &TempDir, options: &[&str]) -> Ended {
    let disk = directory.path().join("disk.img");
    fs::copy(file_of("OPROFILE_LINUX_DISK"), &disk).expect("a copy of the disk");
    let initrd = initrd_with_another_program(directory);
    let vm = Vm::debian_from(&initrd, "none", 6)
        .argument(&format!("--disk={}", disk.display()))
        .device("hz=1000");
    let vm = options.iter().fold(vm, |vm, option| vm.device(option));
    vm.run().expect_code(0)
}

#[test]
fn a_program_on_an_ext4_disk_has_its_functions_without_a_hand_to_copy_it() {
    let directory = TempDir::new().expect("a temporary directory");
    let ended = run_from_disk(&directory, &["archive=on"]);
    let list = listed(&ended);
    let expected = build_id(&file_of("OPROFILE_LINUX_SHARES"));
    assert_eq!(build_of(&list, "/mnt/shares"), Build::Id(expected));
    let record = list.iter().find(|record| record.name == b"/mnt/shares");
    let (major, minor) = record.expect("a record").identity.major_minor();
    assert!(major >= FIRST_DYNAMIC_MAJOR && minor == 0, "{record:?}");
    let copy = fs::read(ended.session.join("root/mnt/shares")).expect("a copy");
    let original = fs::read(file_of("OPROFILE_LINUX_SHARES")).expect("the program");
    // The initrd has another one at the same path.
    assert!(copy == original, "another file was copied");
    let report = ended.opreport(&["-l"]);
    for function in ["hot", "warm", "cool"] {
        let named = |line: &str| line.contains("shares") && line.ends_with(function);
        assert!(report.lines().any(named), "no {function}: {report}");
    }
    let profile = Profile::read(&ended.session).expect("the session is readable");
    let measured = profile.measure(&SHARES);
    // True shares are for another test; here it is enough that the names are not of anything else.
    assert!(
        measured.samples > ENOUGH && measured.worst_error() <= 15.0,
        "{measured:#?}\n{}",
        ended.output()
    );
    println!("{}", ended.output());
}

#[test]
fn a_file_of_another_build_at_the_same_path_is_refused() {
    let directory = TempDir::new().expect("a temporary directory");
    let ended = run_from_disk(&directory, &[]);
    assert!(
        ended
            .output()
            .contains("/mnt/shares: found with another build-id"),
        "{}",
        ended.output()
    );
    let place = ended.session.join("root/mnt/shares");
    assert!(!place.exists());
    // Put there by hand, it is refused by the report.
    fs::create_dir_all(ended.session.join("root/mnt")).expect("a directory");
    let other = bin_dir().join("opreport");
    fs::copy(&other, &place).expect("a copy");
    let profile = Profile::read(&ended.session).expect("the session is readable");
    let whole =
        |row: &Row| row.image.as_deref() == Some("/mnt/shares") && row.symbol == "/mnt/shares";
    let samples = profile.samples(|row| row.image.as_deref() == Some("/mnt/shares"));
    assert!(samples > ENOUGH && profile.samples(whole) == samples);
    let told = std::process::Command::new(bin_dir().join("opreport"))
        .arg(format!("--session-dir={}", ended.session.display()))
        .arg("-l")
        .output()
        .expect("opreport runs");
    let told = String::from_utf8_lossy(&told.stderr);
    let wrong = build_id(&other.display().to_string());
    let right = build_id(&file_of("OPROFILE_LINUX_SHARES"));
    let expected = format!("has build-id {wrong}, but the guest ran {right}");
    assert!(told.contains(&expected), "{told}");
}

/// Build-ids of the files of an initramfs, by path; `None` for files without one.
fn builds_in(initrd: &Path) -> HashMap<Vec<u8>, Option<BuildId>> {
    let mut bytes = Vec::new();
    File::open(initrd)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .expect("the initramfs");
    let mut builds = HashMap::new();
    let mut rest = &bytes[..];
    loop {
        let mut reader = Reader::new(rest).expect("an archive");
        let entry = reader.entry();
        if entry.is_trailer() {
            return builds;
        }
        let path = format!("/{}", entry.name()).into_bytes();
        let mut contents = Vec::new();
        reader.read_to_end(&mut contents).expect("a file");
        builds.insert(path, BuildId::of_elf(&contents));
        rest = reader.finish().expect("an archive");
    }
}

#[test]
fn build_ids_in_guest_memory_are_those_of_the_files() {
    let ended = Vm::debian("", 5)
        .cpus(2)
        .device("hz=1000")
        .run()
        .expect_code(0);
    let truth = builds_in(Path::new(&file_of("OPROFILE_LINUX_INITRD")));
    let list = listed(&ended);
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for record in &list {
        let name = String::from_utf8_lossy(&record.name).into_owned();
        match (&record.identity.build, truth.get(&record.name)) {
            (Build::Id(id), Some(of_file)) => {
                assert_eq!(Some(id), of_file.as_ref(), "{name}");
                known.push(name);
            }
            (Build::WithoutId, Some(of_file)) => assert_eq!(*of_file, None, "{name}"),
            // Copied or deleted in the guest.
            (_, None) => {}
            (Build::Unknown, Some(_)) => unknown.push(name),
        }
    }
    println!(
        "{} known, unknown: {unknown:?}\n{}",
        known.len(),
        ended.output()
    );
    assert!(known.len() >= 10, "{list:#?}");
    // Programs that only call libraries have no sample of their own, and others may be gone before theirs are looked at.
    assert!(unknown.len() <= 3, "{unknown:?} of {list:#?}");
    for path in ["/usr/bin/shares", "/lib/x86_64-linux-gnu/libc.so.6"] {
        assert!(known.iter().any(|name| name == path), "{path}: {list:#?}");
    }
    // A copy of a program is the same build under another name.
    assert_eq!(
        build_of(&list, "/tmp/moved"),
        build_of(&list, "/usr/bin/shares")
    );
}

#[test]
fn the_vdso_has_its_functions() {
    let ended = Vm::debian("clock", 5)
        .device("hz=1000")
        .run()
        .expect_code(0);
    let profile = Profile::read(&ended.session).expect("the session is readable");
    let of_perl = |row: &Row| row.application == "/usr/bin/perl";
    let in_vdso = profile.samples(|row| of_perl(row) && row.symbol.starts_with("__vdso_"));
    let all = profile.samples(of_perl);
    println!("{in_vdso} of {all} in the vDSO: {profile:#?}");
    assert!(in_vdso > 20, "{profile:#?}\n{}", ended.output());
    let report = ended.opreport(&["-l"]);
    assert!(report.contains("__vdso_time"), "{report}");
}
