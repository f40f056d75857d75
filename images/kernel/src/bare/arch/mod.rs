//! The processor and its surroundings: boot code, descriptor tables, interrupts, clocks, the other processors.

pub mod apic;
pub mod clock;
pub mod context;
pub mod cpu;
pub mod descriptors;
pub mod instructions;
pub mod ioapic;
pub mod machine;
pub mod serial;
pub mod smp;
pub mod timer;
pub mod trap;

use core::arch::global_asm;

global_asm!(include_str!("boot.s"), options(att_syntax));
global_asm!(include_str!("entry.s"), options(att_syntax));
