//! The test guest: 16-bit code in ring 0 that needs timer interrupts and a fast processor.

use std::arch::global_asm;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};

/// Where the code lies in guest memory; the interrupt table of real mode is at 0.
const CODE: u16 = 0x1000;
/// Guest memory in bytes.
const MEMORY: usize = 0x4000;
/// Interrupt vector that the guest gives the timer.
const TIMER_VECTOR: usize = 0x20;
/// Port the guest writes to when it is through.
const DONE_PORT: u16 = 0xe9;
/// Intel processors without unrestricted guests keep a task state segment here (3 pages, below the
/// BIOS area, as in KVM's API documentation).
const TSS_ADDRESS: usize = 0xfffb_d000;

/// Why the test guest did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// KVM refused a request.
    #[error("KVM refuses to {what}")]
    Kvm {
        /// What was asked.
        what: &'static str,
        /// KVM's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The guest left for a reason that it has no business with.
    #[error("The test guest left with {0}")]
    Exit(String),
}

// The 8259 gets vectors 0x20.., only the timer (IRQ 0) open; the 8254 ticks every millisecond. After
// five ticks the interrupts go off and a loop of two million instructions runs.
global_asm!(
    ".pushsection .rodata.oprofile_probe, \"a\"",
    ".code16",
    "oprofile_probe_start:",
    "    mov al, 0x11",
    "    out 0x20, al",
    "    mov al, 0x20",
    "    out 0x21, al",
    "    mov al, 0x04",
    "    out 0x21, al",
    "    mov al, 0x01",
    "    out 0x21, al",
    "    mov al, 0xfe",
    "    out 0x21, al",
    "    mov al, 0x34",
    "    out 0x43, al",
    "    mov al, 0xa9",
    "    out 0x40, al",
    "    mov al, 0x04",
    "    out 0x40, al",
    "    xor cx, cx",
    "    sti",
    "2:  cmp cx, 5",
    "    jb 2b",
    "    cli",
    "    mov esi, 1000000",
    "3:  dec esi",
    "    jnz 3b",
    "    out 0xe9, al",
    "4:  hlt",
    "    jmp 4b",
    "oprofile_probe_timer:",
    "    inc cx",
    "    mov al, 0x20",
    "    out 0x20, al",
    "    iret",
    "oprofile_probe_end:",
    ".code64",
    ".popsection",
);

unsafe extern "C" {
    static oprofile_probe_start: u8;
    static oprofile_probe_timer: u8;
    static oprofile_probe_end: u8;
}

/// The guest's code, and the offset of the timer's handler in it.
fn code() -> (&'static [u8], usize) {
    let start = &raw const oprofile_probe_start;
    let length = (&raw const oprofile_probe_end) as usize - start as usize;
    let timer = (&raw const oprofile_probe_timer) as usize - start as usize;
    // SAFETY: both symbols delimit one read-only section fragment, which the assembly above fills
    // from the first to the second; it lives as long as the program.
    (unsafe { std::slice::from_raw_parts(start, length) }, timer)
}

/// Page-aligned guest memory.
#[repr(align(4096))]
struct Memory([u8; MEMORY]);

/// Runs the test guest to its end; the caller sets the time limit, from another process.
pub fn run() -> Result<(), GuestError> {
    let refused = |what| move |source| GuestError::Kvm { what, source };
    let (code, timer) = code();
    let mut memory = Box::new(Memory([0; MEMORY]));
    let base = usize::from(CODE);
    memory.0[base..base + code.len()].copy_from_slice(code);
    // An entry of the real-mode interrupt table is offset, segment; the segment is 0.
    let handler = CODE.wrapping_add(u16::try_from(timer).unwrap_or(u16::MAX));
    memory.0[TIMER_VECTOR * 4..TIMER_VECTOR * 4 + 2].copy_from_slice(&handler.to_le_bytes());

    let kvm = Kvm::new().map_err(refused("open"))?;
    let vm = kvm.create_vm().map_err(refused("create a VM"))?;
    vm.set_tss_address(TSS_ADDRESS)
        .map_err(refused("set the TSS address"))?;
    vm.create_irq_chip()
        .map_err(refused("create an interrupt controller"))?;
    vm.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })
    .map_err(refused("create a timer"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: (&raw mut memory.0) as u64,
    };
    // SAFETY: the region is exactly `memory`, which is page-aligned, writable, touched by nobody
    // else while the vCPU runs, and dropped after the VM (it is declared first).
    unsafe { vm.set_user_memory_region(region) }.map_err(refused("map memory"))?;

    let mut vcpu = vm.create_vcpu(0).map_err(refused("create a vCPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(refused("read registers"))?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs)
        .map_err(refused("set segment registers"))?;
    let mut regs = vcpu.get_regs().map_err(refused("read registers"))?;
    regs.rip = u64::from(CODE);
    regs.rsp = MEMORY as u64;
    regs.rflags = 2;
    vcpu.set_regs(&regs).map_err(refused("set registers"))?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, _)) => return Ok(()),
            Ok(VcpuExit::Intr) => {}
            Ok(other) => return Err(GuestError::Exit(format!("{other:?}"))),
            Err(source) => return Err(refused("run the vCPU")(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_whole_and_its_handler_lies_in_it() {
        let (code, timer) = code();
        assert_eq!(
            &code[..4],
            [0xb0, 0x11, 0xe6, 0x20],
            "mov al, 0x11; out 0x20, al"
        );
        assert_eq!(code[timer], 0x41, "inc cx");
        assert_eq!(code.last(), Some(&0xcf), "iret");
        assert!(usize::from(CODE) + code.len() < MEMORY / 2);
    }
}
