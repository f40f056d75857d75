//! What a guest finds in its machine.

mod support;

use std::process::Stdio;

use support::{Guest, ended};

#[test]
fn serial_output_is_standard_output() {
    let guest = Guest::new(assemble!(
        "mov $(0x100000 + 31f - 20b), %esi",
        "mov $6, %ecx",
        "mov $0x3f8, %dx",
        "cld",
        "rep outsb",
        "mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "30: jmp 30b",
        "31: .ascii \"hello\\n\"",
    ));
    let run = guest.run::<&str>(&[]);
    assert_eq!(run.serial, b"hello\n", "{run:?}");
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn a_closed_standard_output_does_not_stop_the_guest() {
    let guest = Guest::new(assemble!(
        "mov $0x3f8, %dx",
        "mov $100, %ecx",
        "30: mov $0x0a, %al",
        "out %al, %dx",
        "loop 30b",
        "mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "31: jmp 31b",
    ));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = guest.command();
    let run: support::Ended = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
        .into();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("Serial output is dropped"), "{run:?}");
}

#[test]
fn start_info_leads_to_the_command_line() {
    let guest = Guest::new(assemble!(
        // hvm_start_info.cmdline_paddr
        "mov 24(%ebx), %esi",
        "mov $0x3f8, %dx",
        "cld",
        "30: lodsb",
        "test %al, %al",
        "jz 31f",
        "out %al, %dx",
        "jmp 30b",
        "31: mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "32: jmp 32b",
    ));
    let session = format!("session={}", guest.directory().join("s").display());
    let run = ended(guest.command().args([
        "--cpus=3",
        "--cmdline=a=b c",
        "--oprofile-dev",
        &format!("{session},device-id=37"),
    ]));
    assert_eq!(
        String::from_utf8_lossy(&run.serial),
        "a=b c cpus=3 virtio_mmio.device=4K@0xd0000000:5 oprofile.device-id=37",
        "{run:?}"
    );
}

#[test]
fn cpuid_tells_the_clock_rates() {
    let guest = Guest::new(assemble!(
        "mov $0x40000010, %eax",
        "cpuid",
        "mov %eax, 0x8000",
        "mov %ebx, 0x8004",
        "mov $0x8000, %esi",
        "mov $8, %ecx",
        "mov $0x3f8, %dx",
        "cld",
        "rep outsb",
        "mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "30: jmp 30b",
    ));
    let run = guest.run::<&str>(&[]);
    let word = |at: usize| u32::from_le_bytes(run.serial[at..at + 4].try_into().unwrap());
    assert!(word(0) > 100_000, "TSC kHz: {run:?}");
    assert_eq!(word(4), 1_000_000, "{run:?}");
}

#[test]
fn another_vcpu_starts_by_init_and_sipi() {
    let guest = Guest::new(assemble!(
        // The other vCPU's code, 16-bit, to 0x8000.
        "mov $(0x100000 + 31f - 20b), %esi",
        "mov $0x8000, %edi",
        "mov $(32f - 31f), %ecx",
        "cld",
        "rep movsb",
        // LAPIC on; INIT to the last vCPU, then SIPI with vector 8.
        "movl $0x1ff, 0xfee000f0",
        "movl $(7 << 24), 0xfee00310",
        "movl $0x4500, 0xfee00300",
        "movl $0x4608, 0xfee00300",
        "30: jmp 30b",
        "31:",
        ".code16",
        "mov $0x3f8, %dx",
        "mov $0x41, %al",
        "out %al, %dx",
        "mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "33: jmp 33b",
        ".code32",
        "32:",
    ));
    let run = guest.run(&["--cpus", "8"]);
    assert_eq!(run.serial, b"A", "{run:?}");
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn lapic_timer_interrupts() {
    let guest = Guest::new(assemble!(
        "mov $0x80000, %esp",
        // A descriptor table with the segments that PVH has loaded already.
        "movl $0, 0x9000",
        "movl $0, 0x9004",
        "movl $0x0000ffff, 0x9008",
        "movl $0x00cf9b00, 0x900c",
        "movl $0x0000ffff, 0x9010",
        "movl $0x00cf9300, 0x9014",
        "movw $0x17, 0x8000",
        "movl $0x9000, 0x8002",
        "lgdt 0x8000",
        // Vector 0x40: a 32-bit interrupt gate.
        "mov $(0x100000 + 31f - 20b), %eax",
        "movw %ax, 0xa200",
        "movw $0x8, 0xa202",
        "movw $0x8e00, 0xa204",
        "shr $16, %eax",
        "movw %ax, 0xa206",
        "movw $0x7ff, 0x8008",
        "movl $0xa000, 0x800a",
        "lidt 0x8008",
        // LAPIC on; timer one-shot, undivided, a millisecond.
        "movl $0x1ff, 0xfee000f0",
        "movl $0x40, 0xfee00320",
        "movl $0xb, 0xfee003e0",
        "movl $1000000, 0xfee00380",
        "sti",
        "30: hlt",
        "jmp 30b",
        "31: mov $0x3f8, %dx",
        "mov $0x54, %al",
        "out %al, %dx",
        "mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "32: jmp 32b",
    ));
    let run = guest.run::<&str>(&[]);
    assert_eq!(run.serial, b"T", "{run:?}");
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn profiling_device_answers_at_its_window() {
    let guest = Guest::new(assemble!(
        "mov 0xd0000000, %eax",
        "mov %eax, 0x8000",
        "mov 0xd0000008, %eax",
        "mov %eax, 0x8004",
        "mov 0xd0000100, %eax",
        "mov %eax, 0x8008",
        // Past its window there is nothing.
        "mov 0xd0001000, %eax",
        "mov %eax, 0x800c",
        "mov $0x8000, %esi",
        "mov $16, %ecx",
        "mov $0x3f8, %dx",
        "cld",
        "rep outsb",
        "mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "30: jmp 30b",
    ));
    let session = format!("session={}", guest.directory().join("s").display());
    let run = guest.run(&["--oprofile-dev", &format!("{session},device-id=41")]);
    assert_eq!(
        &run.serial, b"virt\x29\0\0\0VOPF\xff\xff\xff\xff",
        "{run:?}"
    );
}

#[test]
fn every_gigabyte_of_memory_is_there() {
    let guest = Guest::new(assemble!(
        // The last page below the hole.
        "movl $0x12345678, 0xcffffffc",
        "cmpl $0x12345678, 0xcffffffc",
        "jne 31f",
        // The hole.
        "movl $0x12345678, 0xd0000000",
        "cmpl $0xffffffff, 0xd0000000",
        "jne 31f",
        "mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "30: jmp 30b",
        "31: ud2",
    ));
    let run = guest.run(&["--memory", "4G"]);
    assert_eq!(run.code, Some(0), "{run:?}");
}
