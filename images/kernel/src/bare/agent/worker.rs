//! The agent's thread: follows the host's settings, and frees dead tasks when the device refers to them no more.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use oprofile_guest_agent::{Clocks, TaskFate, Transport};
use oprofile_wire::control::MAX_TASKS_PER_REQUEST;

use super::hostile::{self, Behaviour};
use super::{BY_HOST, CONTROL, Causes, HANDLES, PERIOD, free_task, platform};
use crate::arch::apic;
use crate::arch::cpu;
use crate::arch::instructions::{disable_interrupts, enable_interrupts};
use crate::arch::trap::RESCHEDULE_VECTOR;
use crate::arch::{clock, timer};
use crate::sync::SpinLock;
use crate::task::{Task, current, kthread, scheduler};

/// How often the worker looks after dead tasks while there are any, in nanoseconds: the device's sync period.
const REAP_PERIOD: u64 = 100_000_000;

/// Tasks that have ended and are not with the device yet, linked by their queue link.
struct Dead {
    first: *mut Task,
    count: usize,
}

// SAFETY: the list owns its tasks, which run no more.
unsafe impl Send for Dead {}

static DEAD: SpinLock<Dead> = SpinLock::new(Dead {
    first: ptr::null_mut(),
    count: 0,
});
/// The worker; null without a device.
static WORKER: AtomicPtr<Task> = AtomicPtr::new(ptr::null_mut());
static SETTINGS_CHANGED: AtomicBool = AtomicBool::new(false);

/// What the worker shall do wrong once.
static BEHAVIOUR: SpinLock<Option<Behaviour>> = SpinLock::new(None);

/// Starts the worker, which begins by reading the host's settings.
pub fn start(behaviour: Option<Behaviour>) {
    *BEHAVIOUR.lock() = behaviour;
    SETTINGS_CHANGED.store(true, Ordering::Relaxed);
    if let Err(error) = kthread::spawn(0, b"agent", run, 0) {
        crate::log!("no thread for the agent: {error}");
    }
}

fn wake() {
    let worker = WORKER.load(Ordering::Acquire);
    if !worker.is_null() {
        scheduler::wake(worker);
    }
}

/// The device has raised an interrupt. Interrupts are off.
pub fn device_interrupt() {
    let transport = HANDLES.lock().as_ref().map(|handles| handles.transport);
    let Some(transport) = transport else {
        return;
    };
    let cause = transport.acknowledge_interrupt();
    if cause.config {
        SETTINGS_CHANGED.store(true, Ordering::Release);
    }
    if cause.config || cause.queue {
        wake();
    }
}

/// Takes over a task that has ended. The scheduler calls it with interrupts off; the task's stack is not in use any more.
pub fn bury(task: Box<Task>) {
    if WORKER.load(Ordering::Acquire).is_null() {
        return;
    }
    let task = Box::into_raw(task);
    let wake_worker = {
        let mut dead = DEAD.lock();
        // SAFETY: the box was ours, now the list's.
        unsafe { (*task).queue_next = dead.first };
        dead.first = task;
        dead.count += 1;
        dead.count == 1 || dead.count == MAX_TASKS_PER_REQUEST
    };
    if wake_worker {
        wake();
    }
}

extern "C" fn run(_: u64) {
    WORKER.store(ptr::from_ref(current()).cast_mut(), Ordering::Release);
    // Tasks handed over to the device and not back yet.
    let mut held = 0;
    let mut next_reap = 0;
    loop {
        if SETTINGS_CHANGED.swap(false, Ordering::AcqRel) {
            follow_settings();
        }
        let now = clock::now();
        if now >= next_reap {
            reap(&mut held);
            next_reap = now + REAP_PERIOD;
        }
        if held > 0 || DEAD.lock().count > 0 {
            timer::wake_at(next_reap);
        }
        scheduler::park();
    }
}

/// Starts or stops the clocks as the host wants.
fn follow_settings() {
    let mut control = CONTROL.lock();
    let Some(control) = control.as_mut() else {
        return;
    };
    match control.update(&platform::Kernel) {
        Ok(Clocks::Run { period_ns }) => {
            PERIOD.store(period_ns, Ordering::Relaxed);
            arm_clocks();
            let behaviour = BEHAVIOUR.lock().take();
            hostile::misbehave(behaviour);
        }
        Ok(Clocks::ByHost) => {
            BY_HOST.store(true, Ordering::Relaxed);
            if let Err(error) = control.start_host_clock(&platform::Kernel) {
                crate::log!("the host gives no clock: {}", Causes(&error));
            }
            // Each tells by that whether it is busy.
            arm_clocks();
            let behaviour = BEHAVIOUR.lock().take();
            hostile::misbehave(behaviour);
        }
        Ok(Clocks::Stop) => {
            PERIOD.store(0, Ordering::Relaxed);
            if let Err(error) = control.quiesce(&platform::Kernel) {
                crate::log!("samples may be lost: {}", Causes(&error));
            }
        }
        Ok(Clocks::Off) => PERIOD.store(0, Ordering::Relaxed),
        Err(error) => crate::log!("settings of the profiling device: {}", Causes(&error)),
    }
}

/// Has every processor look at its clock. An idle one finds nothing to do.
fn arm_clocks() {
    let interrupts = disable_interrupts();
    for index in 0..cpu::online() {
        apic::interrupt(index, RESCHEDULE_VECTOR);
    }
    if interrupts {
        enable_interrupts();
    }
}

/// Frees what the device has let go of, and hands over who has died since, in batches.
fn reap(held: &mut usize) {
    let mut control = CONTROL.lock();
    let Some(control) = control.as_mut() else {
        return;
    };
    let freed = control.freed_tasks(|task| {
        *held = held.saturating_sub(1);
        // SAFETY: it was handed over below, as the last pointer to a task taken from the list; the core hands each back once.
        unsafe { free_task(task as *mut Task) };
    });
    if let Err(error) = freed {
        crate::log!("dead tasks stay: {}", Causes(&error));
        return;
    }
    loop {
        let batch = take_batch();
        if batch.is_empty() {
            return;
        }
        match control.free_tasks(&platform::Kernel, &batch) {
            Ok(TaskFate::Held) => *held += batch.len(),
            Ok(TaskFate::FreeNow) => {
                for task in batch {
                    // SAFETY: taken from the list, and the device does not know it.
                    unsafe { free_task(task as *mut Task) };
                }
            }
            // Too many requests wait already, or the queue is broken: later.
            Err(_) => return give_back(&batch),
        }
    }
}

fn take_batch() -> Vec<u64> {
    let mut batch = Vec::with_capacity(MAX_TASKS_PER_REQUEST);
    let mut dead = DEAD.lock();
    while batch.len() < MAX_TASKS_PER_REQUEST && !dead.first.is_null() {
        batch.push(dead.first as u64);
        // SAFETY: tasks on the list are valid and the list's.
        dead.first = unsafe { (*dead.first).queue_next };
        dead.count -= 1;
    }
    batch
}

fn give_back(batch: &[u64]) {
    let mut dead = DEAD.lock();
    for task in batch {
        let task = *task as *mut Task;
        // SAFETY: just taken from the list, and not handed over.
        unsafe { (*task).queue_next = dead.first };
        dead.first = task;
        dead.count += 1;
    }
}
