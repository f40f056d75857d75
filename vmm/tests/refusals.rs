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
