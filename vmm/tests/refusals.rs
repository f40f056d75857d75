//! What is refused before KVM is opened: these run on any machine.

mod support;

use support::{Ended, ended, vmm};

fn refused(arguments: &[&str], code: i32) -> Ended {
    let run = ended(vmm().args(arguments));
    assert_eq!(run.code, Some(code), "{arguments:?}: {run:?}");
    run
}

fn with_kernel(contents: &[u8], arguments: &[&str], code: i32) -> String {
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("kernel");
    std::fs::write(&kernel, contents).unwrap();
    let kernel = kernel.to_str().unwrap();
    refused(&[&["--kernel", kernel], arguments].concat(), code).stderr
}

#[test]
fn unknown_key_of_the_profiling_device_is_usage() {
    let stderr = refused(&["--oprofile-dev", "session=/tmp/s,speed=9"], 2).stderr;
    assert!(stderr.contains("cpu-buffer-size"), "{stderr}");
}

#[test]
fn rate_that_the_device_does_not_take_is_usage() {
    let stderr = refused(&["--oprofile-dev", "session=/tmp/s,hz=1000000"], 2).stderr;
    assert!(stderr.contains("Sampling period"), "{stderr}");
}

#[test]
fn missing_kernel_is_named() {
    let stderr = refused(&["--kernel", "/nonexistent/k"], 4).stderr;
    assert!(stderr.contains("/nonexistent/k: No such file"), "{stderr}");
}

#[test]
fn kernel_of_no_known_kind_is_refused() {
    let stderr = with_kernel(b"MZ, some other program", &[], 4);
    assert!(
        stderr.contains("bzImage") && stderr.contains("vmlinux"),
        "{stderr}"
    );
}

#[test]
fn kernel_image_without_a_64_bit_entry_is_refused() {
    let mut image = vec![0; 4096];
    image[0x201] = 0x6a;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020b_u16.to_le_bytes());
    let stderr = with_kernel(&image, &[], 4);
    assert!(
        stderr.contains("64-bit") && stderr.contains("2.11"),
        "{stderr}"
    );
}

#[test]
fn disk_image_that_is_none_is_named() {
    let kernel = support::elf::kernel(&[0xf4], true);
    let stderr = with_kernel(&kernel, &["--disk", "/nonexistent/d,ro"], 4);
    assert!(stderr.contains("/nonexistent/d"), "{stderr}");
    let stderr = with_kernel(&kernel, &["--disk", "/nonexistent/d,rw"], 2);
    assert!(stderr.contains("PATH[,ro]"), "{stderr}");
}

#[test]
fn truncated_kernel_is_refused() {
    let whole = support::elf::kernel(&[0xf4; 64], true);
    let stderr = with_kernel(&whole[..whole.len() - 1], &[], 4);
    assert!(stderr.contains("truncated"), "{stderr}");
}

#[test]
fn kernel_without_an_entry_is_refused() {
    let mut kernel = support::elf::kernel(&[0xf4; 64], false);
    // Where the ELF header has the entry.
    kernel[24..32].fill(0);
    let stderr = with_kernel(&kernel, &[], 4);
    assert!(stderr.contains("CONFIG_PVH"), "{stderr}");
}

#[test]
fn missing_initrd_is_named() {
    let kernel = support::elf::kernel(&[0xf4], true);
    let stderr = with_kernel(&kernel, &["--initrd", "/nonexistent/i"], 4);
    assert!(stderr.contains("/nonexistent/i"), "{stderr}");
}

#[test]
fn memory_too_small_for_the_kernel_is_told() {
    let kernel = support::elf::kernel(&[0xf4; 2 << 20], true);
    let stderr = with_kernel(&kernel, &["--memory", "2M"], 4);
    assert!(stderr.contains("use a larger --memory"), "{stderr}");
}

#[test]
fn memory_too_small_for_any_guest_is_usage() {
    let stderr = refused(&["--memory", "64K"], 2).stderr;
    assert!(stderr.contains("--memory takes"), "{stderr}");
}

#[test]
fn initrd_that_does_not_fit_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let initrd = directory.path().join("initrd");
    std::fs::write(&initrd, vec![0; 2 << 20]).unwrap();
    let kernel = support::elf::kernel(&[0xf4], true);
    let arguments = ["--memory", "2M", "--initrd", initrd.to_str().unwrap()];
    let stderr = with_kernel(&kernel, &arguments, 4);
    assert!(stderr.contains("initrd"), "{stderr}");
}

/// A Linux image whose protected-mode code is one page, as its header says.
fn linux_image() -> Vec<u8> {
    let mut image = vec![0; 1024 + 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &256_u32.to_le_bytes());
    put(0x201, &[0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &1_u16.to_le_bytes());
    put(0x258, &0x10_0000_u64.to_le_bytes());
    put(0x260, &0x1_0000_u32.to_le_bytes());
    image
}

/// Of the image of [`linux_image`] with other bytes at a place.
fn with_image(at: usize, bytes: &[u8], arguments: &[&str]) -> String {
    let mut image = linux_image();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    with_kernel(&image, arguments, 4)
}

#[test]
fn truncated_kernel_image_is_refused() {
    let whole = linux_image();
    for length in [0x203, 0x230, 1024, 1024 + 600, whole.len() - 1] {
        let stderr = with_kernel(&whole[..length], &[], 4);
        let told = stderr.contains("truncated") || stderr.contains("neither");
        assert!(told, "{length:#x}: {stderr}");
    }
}

#[test]
fn kernel_image_whose_header_lies_is_refused() {
    let stderr = with_image(0x1f1, &[255], &[]);
    assert!(stderr.contains("truncated"), "{stderr}");
    let stderr = with_image(0x1f4, &[255; 4], &[]);
    assert!(stderr.contains("truncated"), "{stderr}");
    let stderr = with_image(0x258, &0x1000_u64.to_le_bytes(), &[]);
    assert!(stderr.contains("0x1000"), "{stderr}");
    let stderr = with_image(0x258, &[255; 8], &[]);
    assert!(stderr.contains("beyond 64 bits"), "{stderr}");
    let stderr = with_image(0x260, &[255; 4], &[]);
    assert!(
        stderr.contains("none between 0xd0000000 and 4 GiB"),
        "{stderr}"
    );
    let stderr = with_image(0x260, &[0, 0, 0, 0x20], &["--memory", "64M"]);
    assert!(stderr.contains("use a larger --memory"), "{stderr}");
}

/// The only segment's program header follows that of the note.
const SEGMENT: usize = 64 + 56;

#[test]
fn elf_file_with_impossible_segments_is_refused() {
    for (field, value, part) in [
        // The physical address, the size in the file, the size in memory.
        (24, 0x1_0000_0000_u64, "none between"),
        (24, u64::MAX - 10, "beyond 64 bits"),
        (24, 0x8000, "below 1 MiB"),
        (32, u64::MAX, "truncated"),
        (32, 65, "truncated"),
        (40, 63, "more bytes in the file than in memory"),
        (40, 1 << 30, "use a larger --memory"),
        (40, u64::MAX, "beyond 64 bits"),
    ] {
        let mut kernel = support::elf::kernel(&[0xf4; 64], false);
        let at = SEGMENT + field;
        kernel[at..at + 8].copy_from_slice(&value.to_le_bytes());
        // The entry follows the segment.
        let address = SEGMENT + 24;
        kernel.copy_within(address..address + 8, 24);
        let stderr = with_kernel(&kernel, &[], 4);
        assert!(stderr.contains(part), "{field} {value:#x}: {stderr}");
    }
}

#[test]
fn elf_file_with_segments_one_over_the_other_is_refused() {
    // The note becomes a segment to load, at the same place.
    let mut kernel = support::elf::kernel(&[0xf4; 64], false);
    kernel[64] = 1;
    let stderr = with_kernel(&kernel, &[], 4);
    assert!(stderr.contains("overlap at 0x100000"), "{stderr}");
}

#[test]
fn kernel_whose_entry_is_nowhere_is_refused() {
    let mut kernel = support::elf::kernel(&[0xf4; 64], true);
    let entry = kernel.len() - 64 - 8;
    kernel[entry..entry + 4].copy_from_slice(&0xdead_0000_u32.to_le_bytes());
    let stderr = with_kernel(&kernel, &[], 4);
    assert!(stderr.contains("PVH entry 0xdead0000"), "{stderr}");
}

#[test]
fn files_that_never_end_or_are_none_are_refused_at_once() {
    let stderr = refused(&["--kernel", "/dev/zero", "--memory", "4M"], 4).stderr;
    assert!(stderr.contains("larger than guest memory"), "{stderr}");
    let stderr = refused(&["--kernel", "/"], 4).stderr;
    assert!(stderr.contains("kernel /: Is a directory"), "{stderr}");
    let stderr = with_kernel(&linux_image(), &["--initrd", "/"], 4);
    assert!(stderr.contains("initrd /: Is a directory"), "{stderr}");
    let stderr = with_kernel(&linux_image(), &["--initrd", "/dev/null"], 4);
    assert!(stderr.contains("/dev/null is empty"), "{stderr}");
}

/// What is said of a disk.
fn with_disk(disk: &str) -> String {
    with_kernel(&linux_image(), &["--disk", disk], 4)
}

#[test]
fn disk_that_cannot_be_one_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for disk in [path("."), path(".") + ",ro", "/dev/zero".to_owned()] {
        let stderr = with_disk(&disk);
        assert!(
            stderr.contains("neither a file nor a block device"),
            "{stderr}"
        );
    }
    for bytes in [0, 100, 1025] {
        std::fs::write(path("odd"), vec![0; bytes]).unwrap();
        let stderr = with_disk(&path("odd"));
        assert!(stderr.contains(&format!("has {bytes} bytes")), "{stderr}");
        assert!(stderr.contains("raw image"), "{stderr}");
    }
    // Opening it would wait until somebody writes.
    let pipe = path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let stderr = with_disk(&format!("{pipe},ro"));
    assert!(
        stderr.contains("neither a file nor a block device"),
        "{stderr}"
    );
}
