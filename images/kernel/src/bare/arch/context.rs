//! The state of an interrupted piece of code.

use crate::arch::descriptors::{KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA};
use crate::arch::instructions::INTERRUPT_FLAG;

/// Everything a task needs to go on: what `entry.s` builds and restores. A context switch is the exchange of one for another
/// while an interrupt is being handled, on the interrupt's own stack; so there is one way to save state, and one to restore it.
#[derive(Clone)]
#[repr(C, align(16))]
#[allow(
    missing_docs,
    reason = "registers are named as the processor names them"
)]
pub struct Context {
    pub fx: [u8; 512],
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<Context>() == 688);

impl Context {
    /// x87 and SSE state as after reset, everything else zero.
    pub const EMPTY: Self = {
        let mut fx = [0; 512];
        // FCW 0x037f and MXCSR 0x1f80: every exception masked (Intel SDM 1 §10.5.1).
        fx[0] = 0x7f;
        fx[1] = 0x03;
        fx[24] = 0x80;
        fx[25] = 0x1f;
        Self {
            fx,
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rbp: 0,
            rdi: 0,
            rsi: 0,
            rdx: 0,
            rcx: 0,
            rbx: 0,
            rax: 0,
            vector: 0,
            error: 0,
            rip: 0,
            cs: 0,
            rflags: 0,
            rsp: 0,
            ss: 0,
        }
    };

    /// The start of user code at `entry` with the stack below `stack_top`.
    pub fn user(entry: u64, stack_top: u64, argument: u64) -> Self {
        Self {
            rip: entry,
            cs: u64::from(USER_CODE),
            rflags: INTERRUPT_FLAG,
            // As behind a call: rsp + 8 is a multiple of 16.
            rsp: (stack_top & !15) - 8,
            ss: u64::from(USER_DATA),
            rdi: argument,
            ..Self::EMPTY
        }
    }

    /// The start of kernel code at `entry` with the stack below `stack_top`.
    pub fn kernel(entry: u64, stack_top: u64) -> Self {
        Self {
            rip: entry,
            cs: u64::from(KERNEL_CODE),
            rflags: INTERRUPT_FLAG,
            rsp: stack_top & !15,
            ss: u64::from(KERNEL_DATA),
            ..Self::EMPTY
        }
    }

    /// Whether user mode was interrupted.
    pub fn is_user(&self) -> bool {
        self.cs & 3 != 0
    }
}
