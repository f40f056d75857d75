//! What happens on each interrupt and exception.

use crate::agent;
use crate::arch::context::Context;
use crate::arch::instructions::fault_address;
use crate::arch::{apic, cpu, timer};
use crate::mm::tlb;
use crate::task::{process, scheduler};

/// The local timer.
pub const TIMER_VECTOR: u8 = 0x40;
/// Another processor has put a task into the run queue, or changed the sampling period.
pub const RESCHEDULE_VECTOR: u8 = 0x41;
/// Another processor has removed mappings.
pub const TLB_VECTOR: u8 = 0x42;
/// An NMI has left a sample, which this processor is to take further.
pub const SAMPLED_VECTOR: u8 = 0x43;
/// Software interrupt: the running task gives its processor away.
pub const YIELD_VECTOR: u8 = 0x44;
/// The profiling device.
pub const DEVICE_VECTOR: u8 = 0x50;
/// The local APIC had nothing to say after all.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const NMI: u64 = 2;
const PAGE_FAULT: u64 = 14;
const EXCEPTIONS: u64 = 32;

/// Called by `entry.s` on an interrupt stack, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn trap_handler(context: &mut Context) {
    match context.vector {
        // Whatever else it was has nobody to care.
        NMI => agent::nmi(context),
        vector if vector < EXCEPTIONS => exception(context),
        vector => interrupt(vector as u8, context),
    }
}

fn interrupt(vector: u8, context: &mut Context) {
    match vector {
        TIMER_VECTOR => {
            apic::end_of_interrupt();
            if timer::interrupt(context) {
                scheduler::schedule(context);
            }
        }
        RESCHEDULE_VECTOR => {
            apic::end_of_interrupt();
            scheduler::schedule(context);
        }
        YIELD_VECTOR => scheduler::schedule(context),
        TLB_VECTOR => {
            apic::end_of_interrupt();
            tlb::acknowledge();
        }
        SAMPLED_VECTOR => {
            apic::end_of_interrupt();
            agent::drain();
        }
        DEVICE_VECTOR => {
            apic::end_of_interrupt();
            agent::device_interrupt();
        }
        // A spurious interrupt is not acknowledged (Intel SDM 3A §11.9).
        _ => {}
    }
}

fn exception(context: &mut Context) {
    if context.is_user() {
        crate::log!(
            "task {}: exception {} (error {:#x}, address {:#x}) at {:#x}: killed",
            process::current_pid(),
            context.vector,
            context.error,
            if context.vector == PAGE_FAULT {
                fault_address()
            } else {
                0
            },
            context.rip,
        );
        // The task goes on in the kernel, on its own stack, and exits there.
        let stack = cpu::this()
            .kernel_stack
            .load(core::sync::atomic::Ordering::Relaxed);
        let mut ending = Context::kernel(process::exit_after_fault as *const () as u64, stack - 8);
        // As behind a call: rsp + 8 is a multiple of 16.
        ending.rsp -= 8;
        *context = ending;
        return;
    }
    crate::panic::stopped(context)
}
