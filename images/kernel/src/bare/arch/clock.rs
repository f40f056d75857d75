//! Time since boot, and the rates of the two counters.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::apic;
use crate::arch::instructions::{cpuid, in8, out8, time_stamp};

/// CPUID leaf in which a hypervisor tells the rates, in kHz: EAX the time-stamp counter, EBX the local APIC's timer.
const TIMING_LEAF: u32 = 0x4000_0010;

/// Nanoseconds a time-stamp tick, times 2^32.
static SCALE: AtomicU64 = AtomicU64::new(0);
static START: AtomicU64 = AtomicU64::new(0);
/// Time-stamp ticks and APIC timer ticks a nanosecond, times 2^32.
static TSC_RATE: AtomicU64 = AtomicU64::new(0);
static APIC_RATE: AtomicU64 = AtomicU64::new(0);

/// Learns the rates. The local APIC is on, and its timer is not in use.
pub fn init() {
    let [tsc_khz, apic_khz, ..] = cpuid(TIMING_LEAF, 0);
    let (tsc_khz, apic_khz) = if tsc_khz != 0 && apic_khz != 0 {
        (u64::from(tsc_khz), u64::from(apic_khz))
    } else {
        calibrate()
    };
    // kHz are ticks a millisecond; the quotients keep 32 binary places.
    SCALE.store((1_000_000 << 32) / tsc_khz, Ordering::Relaxed);
    TSC_RATE.store((tsc_khz << 32) / 1_000_000, Ordering::Relaxed);
    APIC_RATE.store((apic_khz << 32) / 1_000_000, Ordering::Relaxed);
    START.store(time_stamp(), Ordering::Relaxed);
    crate::log!("clock: TSC {tsc_khz} kHz, local APIC timer {apic_khz} kHz");
}

/// Counts both counters against channel 2 of the interval timer, whose output can be read at port 0x61.
fn calibrate() -> (u64, u64) {
    const PIT_HZ: u64 = 1_193_182;
    const MILLISECONDS: u64 = 20;
    const COUNT: u64 = PIT_HZ * MILLISECONDS / 1000;
    let gate = in8(0x61) & !0b11;
    out8(0x61, gate);
    // Channel 2, both bytes, mode 0: the output rises when the count ends.
    out8(0x43, 0b1011_0000);
    out8(0x42, COUNT as u8);
    out8(0x42, (COUNT >> 8) as u8);
    apic::set_timer_count(u32::MAX);
    let start = time_stamp();
    out8(0x61, gate | 1);
    while in8(0x61) & 1 << 5 == 0 {
        core::hint::spin_loop();
    }
    let ticks = time_stamp() - start;
    let apic_ticks = u64::from(u32::MAX - apic::timer_count());
    apic::set_timer_count(0);
    // A missing timer reads as a count that has ended at once; no processor of this architecture is slower than this.
    assert!(
        ticks > MILLISECONDS * 10_000,
        "no clock: neither CPUID leaf {TIMING_LEAF:#x} nor an interval timer"
    );
    (
        (ticks / MILLISECONDS).max(1),
        (apic_ticks / MILLISECONDS).max(1),
    )
}

fn scaled(value: u64, factor: u64) -> u64 {
    ((u128::from(value) * u128::from(factor)) >> 32) as u64
}

/// Nanoseconds since boot.
pub fn now() -> u64 {
    let ticks = time_stamp().wrapping_sub(START.load(Ordering::Relaxed));
    scaled(ticks, SCALE.load(Ordering::Relaxed))
}

/// The time-stamp counter's value at `time`.
pub fn tsc_at(time: u64) -> u64 {
    START
        .load(Ordering::Relaxed)
        .wrapping_add(scaled(time, TSC_RATE.load(Ordering::Relaxed)))
}

/// The local timer's count for `span` nanoseconds, at least 1.
pub fn apic_count(span: u64) -> u32 {
    let count = scaled(span, APIC_RATE.load(Ordering::Relaxed)).max(1);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Waits without giving the processor away.
pub fn spin(span: u64) {
    let until = now() + span;
    while now() < until {
        core::hint::spin_loop();
    }
}
