//! Starting the other processors.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::apic;
use crate::arch::cpu::{self, Cpu, MAX_CPUS};
use crate::arch::trap::SPURIOUS_VECTOR;
use crate::arch::{clock, timer};
use crate::mm;
use crate::task::{self, scheduler};

/// Real-mode page at which an application processor starts; `boot.s` states the same.
const TRAMPOLINE: u64 = 0x8000;
/// How long a processor may take from its start-up IPI to Rust, in nanoseconds: generous for an emulated one.
const PATIENCE: u64 = 2_000_000_000;

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    /// Stack and `Cpu` of the processor being started.
    static ap_stack: AtomicU64;
    static ap_cpu: AtomicU64;
}

/// Starts processors 1 to `wanted` − 1, one after the other.
pub fn start(wanted: usize) {
    // SAFETY: the symbols are the ends of the trampoline in `.rodata`; the page below 1 MiB is kept out of the frame
    // allocator, is RAM on a PC, and is mapped in the linear map.
    unsafe {
        let first = &raw const ap_trampoline;
        let bytes = (&raw const ap_trampoline_end) as usize - first as usize;
        ptr::copy_nonoverlapping(first, mm::physical_to_virtual(TRAMPOLINE) as *mut u8, bytes);
    }
    for index in 1..wanted.min(MAX_CPUS) {
        if !start_one(index) {
            crate::log!(
                "processor {index} does not start; going on with {}",
                cpu::online()
            );
            break;
        }
    }
}

fn start_one(index: usize) -> bool {
    let idle = task::new_idle(index);
    let cpu = Cpu::new(index, idle);
    // SAFETY: the statics are words in `.data`; the idle task was just made and nothing runs it yet.
    unsafe {
        ap_stack.store((*idle).kernel_stack.top(), Ordering::Relaxed);
        ap_cpu.store((&raw const *cpu) as u64, Ordering::Release);
    }
    apic::send_init(index);
    clock::spin(10_000_000);
    let give_up = clock::now() + PATIENCE;
    // Two start-up IPIs, as the MP specification has it; the second is ignored when the first was enough.
    for _ in 0..2 {
        apic::send_startup(index, (TRAMPOLINE >> 12) as u8);
        clock::spin(200_000);
    }
    while cpu::online() <= index {
        if clock::now() > give_up {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Called by `boot.s` on an application processor: interrupts off, the kernel's page tables, the idle task's stack.
#[unsafe(no_mangle)]
extern "C" fn ap_main(cpu: &'static Cpu) -> ! {
    apic::enable(SPURIOUS_VECTOR);
    timer::init();
    // SAFETY: this is the processor that `cpu` was made for; the boot processor has filled the interrupt table.
    unsafe { cpu.load() };
    scheduler::idle()
}
