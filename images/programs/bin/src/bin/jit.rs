//! Writes machine code into an anonymous mapping and spends most of its time there.
#![no_std]
#![no_main]

use core::arch::global_asm;

use guest_programs::{Plan, deadline, run_until};
use guest_rt::dl::Work;
use guest_rt::sys::{self, PAGE, PROT_EXEC, PROT_READ, PROT_WRITE};
use guest_rt::{Failure, main};
use guest_truth::JIT;

/// Where in its page the generated function begins: the loop's alignment asks for a multiple of 64.
const OFFSET: u64 = 0x240;
const _: () = assert!(OFFSET.is_multiple_of(64));

guest_spin::spin_fn!(
    /// The part that is not generated.
    interpreted
);

// What the generator emits. It lies among the code so that the assembler pads with instructions, but is only copied.
global_asm!(
    ".pushsection .text.jit_code, \"ax\"",
    ".p2align 6",
    "jit_code:",
    "push rbp",
    "mov rbp, rsp",
    "mov eax, 1",
    "xor edx, edx",
    guest_spin::template!(),
    "mov rax, rdx",
    "pop rbp",
    "ret",
    "jit_code_end:",
    ".popsection",
);

unsafe extern "C" {
    static jit_code: u8;
    static jit_code_end: u8;
}

fn generate() -> Result<Work, Failure> {
    let protection = PROT_READ | PROT_WRITE | PROT_EXEC;
    let page = sys::mmap(0, PAGE, protection, None).map_err(|e| Failure::Call("mmap", e))?;
    let entry = (page + OFFSET) as *mut u8;
    // SAFETY: the two symbols enclose the code above, far shorter than the rest of the page, which is ours and
    // writable; the code is a function of type Work, complete before its address is called.
    unsafe {
        let code = &raw const jit_code;
        let length = (&raw const jit_code_end as usize) - code as usize;
        core::ptr::copy_nonoverlapping(code, entry, length);
        Ok(core::mem::transmute::<*mut u8, Work>(entry))
    }
}

main!(run);

fn run() -> Result<(), Failure> {
    let plan = Plan::new(&JIT, ["interpreted", ""], [interpreted, generate()?]);
    run_until(&plan, deadline()?);
    Ok(())
}
