//! Making every processor forget translations that were removed.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::apic;
use crate::arch::cpu::{self, MAX_CPUS};
use crate::arch::instructions::{
    disable_interrupts, enable_interrupts, page_table_root, set_page_table_root,
};
use crate::arch::trap::TLB_VECTOR;

/// How often each processor has been asked to forget everything.
static ASKED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// The last request that each processor had seen when it began to forget.
static DONE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn flush_this() {
    // SAFETY: the tables in use stay in use.
    unsafe { set_page_table_root(page_table_root()) };
}

/// Another processor asked: forget, and say so.
pub fn acknowledge() {
    let index = cpu::this().index;
    let asked = ASKED[index].load(Ordering::SeqCst);
    flush_this();
    DONE[index].store(asked, Ordering::SeqCst);
}

/// Flushes this processor and those in the bit set `others`; returns when all have done so. Interrupts are on, so
/// that two processors can ask each other.
pub fn flush(others: u64) {
    let mut waiting = [None; MAX_CPUS];
    let interrupts = disable_interrupts();
    let this = cpu::this().index;
    flush_this();
    for (index, request) in waiting.iter_mut().enumerate() {
        if index != this && others & 1 << index != 0 {
            *request = Some(ASKED[index].fetch_add(1, Ordering::SeqCst) + 1);
            apic::interrupt(index, TLB_VECTOR);
        }
    }
    if interrupts {
        enable_interrupts();
    }
    for (index, request) in waiting.iter().enumerate() {
        while request.is_some_and(|request| DONE[index].load(Ordering::SeqCst) < request) {
            core::hint::spin_loop();
        }
    }
}
