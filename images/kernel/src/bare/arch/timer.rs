//! One local timer a processor, shared by three uses: the end of a time slice, the sampling clock, and sleepers.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::agent;
use crate::arch::apic::{self, TimerMode};
use crate::arch::context::Context;
use crate::arch::instructions::{cpuid, disable_interrupts, enable_interrupts, write_msr};
use crate::arch::trap::TIMER_VECTOR;
use crate::arch::{clock, cpu};
use crate::task::{Task, scheduler};

/// How long a task runs before another one gets its turn, in nanoseconds.
const SLICE: u64 = 4_000_000;
const NEVER: u64 = u64::MAX;
const TSC_DEADLINE_MSR: u32 = 0x6e0;

static TSC_DEADLINE: AtomicBool = AtomicBool::new(false);

struct Sleeper {
    deadline: u64,
    task: *mut Task,
}

/// What one processor's timer is wanted for; times are [`clock::now`]'s.
pub struct Timers {
    /// When the running task's slice ends.
    slice: u64,
    sampling: SamplingClock,
    sleepers: Vec<Sleeper>,
    /// What the timer is set to; firing early is harmless, so it is only ever set earlier.
    programmed: u64,
}

// SAFETY: the task pointers are only handed to the scheduler, whose lock protects what they point to.
unsafe impl Send for Timers {}

/// The sampling clock. It keeps to a grid of periods, through idle stretches too, so that a task that runs for less than a
/// period at a time is sampled as often as it deserves. Each sample comes at random within an eighth of a period behind its
/// grid point, so that work which repeats with the period, or the end of slices, does not always meet it at the same place.
struct SamplingClock {
    grid: u64,
    deadline: u64,
    random: u32,
}

impl SamplingClock {
    fn rest(&mut self) {
        self.deadline = NEVER;
    }

    /// Sets the next deadline behind `now`.
    fn advance(&mut self, now: u64, period: u64) {
        self.grid += (now.saturating_sub(self.grid) / period + 1) * period;
        // xorshift32 (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let spread = (period / 8).max(1);
        self.deadline = self.grid + u64::from(self.random) % spread;
    }
}

impl Timers {
    /// Nothing wanted. Processors begin at other places of the period, and with other random numbers, so that they do not all
    /// sample at once.
    pub const fn new(processor: usize) -> Self {
        Self {
            slice: NEVER,
            sampling: SamplingClock {
                grid: 123_457 * processor as u64,
                deadline: NEVER,
                random: 0x9e37_79b9 ^ (processor as u32) << 7,
            },
            sleepers: Vec::new(),
            programmed: NEVER,
        }
    }

    fn program(&mut self) {
        let sleeper = self.sleepers.last().map_or(NEVER, |first| first.deadline);
        let wanted = self.slice.min(self.sampling.deadline).min(sleeper);
        if wanted >= self.programmed {
            return;
        }
        self.programmed = wanted;
        if TSC_DEADLINE.load(Ordering::Relaxed) {
            // SAFETY: CPUID offers the deadline mode, and the timer is in it.
            unsafe { write_msr(TSC_DEADLINE_MSR, clock::tsc_at(wanted)) };
        } else {
            apic::set_timer_count(clock::apic_count(wanted.saturating_sub(clock::now())));
        }
    }
}

/// Chooses the timer's mode on this processor.
pub fn init() {
    let deadline = cpuid(1, 0)[2] & 1 << 24 != 0;
    TSC_DEADLINE.store(deadline, Ordering::Relaxed);
    let mode = if deadline {
        TimerMode::TscDeadline
    } else {
        TimerMode::OneShot
    };
    apic::set_timer(mode, TIMER_VECTOR);
}

/// The scheduler has chosen what runs next on this processor. Idle, no clock ticks.
pub fn task_chosen(idle: bool) {
    agent::set_busy(!idle);
    let mut timers = cpu::this().timers.lock();
    if idle {
        timers.slice = NEVER;
        timers.sampling.rest();
    } else {
        let now = clock::now();
        timers.slice = now + SLICE;
        match agent::period() {
            0 => timers.sampling.rest(),
            period if timers.sampling.deadline == NEVER => timers.sampling.advance(now, period),
            _ => {}
        }
    }
    timers.program();
}

/// Parks the running task until `deadline`.
pub fn sleep_until(deadline: u64) {
    wake_at(deadline);
    while clock::now() < deadline {
        scheduler::park();
    }
    // It may have been woken by something else, and may end before its entry expires.
    let task = cpu::current_task();
    for cpu in (0..cpu::online()).filter_map(cpu::get) {
        cpu.timers
            .lock()
            .sleepers
            .retain(|sleeper| sleeper.task != task);
    }
}

/// Wakes the running task at `deadline`; the caller parks it. For tasks that never end; others [`sleep_until`].
pub fn wake_at(deadline: u64) {
    // The timer programmed must be that of the processor whose list it is.
    let interrupts = disable_interrupts();
    {
        let mut timers = cpu::this().timers.lock();
        let task = cpu::current_task();
        // Sorted by deadline, the earliest last.
        let at = timers
            .sleepers
            .partition_point(|sleeper| sleeper.deadline > deadline);
        timers.sleepers.insert(at, Sleeper { deadline, task });
        timers.program();
    }
    if interrupts {
        enable_interrupts();
    }
}

/// Handles the timer's interrupt; returns whether the running task's slice has ended.
pub fn interrupt(context: &Context) -> bool {
    let cpu = cpu::this();
    let now = clock::now();
    let (sample, slice_over) = {
        let mut timers = cpu.timers.lock();
        timers.programmed = NEVER;
        let sample = timers.sampling.deadline <= now;
        if sample {
            match agent::period() {
                0 => timers.sampling.rest(),
                period => timers.sampling.advance(now, period),
            }
        }
        (sample, timers.slice <= now)
    };
    if sample {
        agent::sample(context);
    }
    let mut timers = cpu.timers.lock();
    while let Some(sleeper) = timers.sleepers.pop_if(|sleeper| sleeper.deadline <= now) {
        // Under the lock: until its entry is gone the task does not end.
        scheduler::wake(sleeper.task);
    }
    timers.program();
    slice_over
}
