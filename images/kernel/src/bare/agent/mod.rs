//! The profiling agent's place in this kernel: sampling from the timer interrupt or the host's NMIs, flushes before memory goes away, and a worker
//! thread for all that takes time. Without a device every entry point does nothing.

mod backtrace;
mod hostile;
mod layout;
mod platform;
mod symbols;
mod worker;

use alloc::boxed::Box;
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oprofile_guest_agent::{
    Control, Description, Flush, MmioTransport, Nmi, Platform, RequestError, Sample, Status,
    Transport, Window,
};
use oprofile_wire::DEFAULT_DEVICE_ID;
use oprofile_wire::layout::VmaStore;
use tiny_kernel::cmdline::{CommandLine, MmioDevice};

use crate::arch::context::Context;
use crate::arch::trap::{DEVICE_VECTOR, SAMPLED_VECTOR};
use crate::arch::{apic, cpu, ioapic};
use crate::mm::boot::image;
use crate::mm::space::Mm;
use crate::mm::{linear_base, map_device, paging, user_end};
use crate::module::Module;
use crate::sync::{Mutex, SpinLock};
use crate::task::Task;

pub use worker::{bury, device_interrupt};

/// Name of this kernel's release, as the host reports it.
const RELEASE: &[u8] = concat!("tiny-", env!("CARGO_PKG_VERSION")).as_bytes();
/// A processor that goes idle posts its open buffer when it is older than this, in nanoseconds.
const IDLE_POST_AGE: u64 = 100_000_000;

/// The driver, for work that may wait: never from an interrupt.
static CONTROL: Mutex<Option<Control<MmioTransport>>> = Mutex::new(None);
/// What exit, exec and munmap need; interrupts may use it too.
static HANDLES: SpinLock<Option<Handles>> = SpinLock::new(None);
/// Nanoseconds between samples; 0: the clocks are off.
static PERIOD: AtomicU64 = AtomicU64::new(0);
/// The host is the clock.
static BY_HOST: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy)]
struct Handles {
    transport: MmioTransport,
    /// Set once the device has accepted this kernel.
    flush: Option<Flush<MmioTransport>>,
}

/// An error with its causes, on one line.
struct Causes<'a>(&'a dyn core::error::Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Nanoseconds between samples; 0: no sampling.
pub fn period() -> u64 {
    PERIOD.load(Ordering::Relaxed)
}

/// Finds the device, introduces this kernel, and starts the worker.
pub fn init(line: &CommandLine<'_>) {
    let device_id = line
        .number("oprofile.device-id")
        .and_then(|id| u32::try_from(id).ok())
        .unwrap_or(DEFAULT_DEVICE_ID);
    let Some((control, device)) = find(line, device_id) else {
        crate::log!("no profiling device");
        return;
    };
    let behaviour = hostile::Behaviour::from_command_line(line);
    if let Err(error) = introduce(control, behaviour) {
        crate::log!(
            "the profiling device refuses this kernel: {}",
            Causes(&error)
        );
    }
    if !ioapic::route(device.gsi, DEVICE_VECTOR) {
        crate::log!(
            "no pin {} for the profiling device: changes of settings go unseen",
            device.gsi
        );
    }
    worker::start(behaviour);
}

/// The first profiling device on the command line.
fn find(line: &CommandLine<'_>, device_id: u32) -> Option<(Control<MmioTransport>, MmioDevice)> {
    for device in line.mmio_devices() {
        let address = map_device(device.base, device.size);
        let Some(window) = NonNull::new(address as *mut u32) else {
            continue;
        };
        // SAFETY: the registers were just mapped, uncached, for ever.
        let transport = MmioTransport::new(unsafe { Window::new(window) });
        // Other devices may stand on the command line; only ours is worth a message.
        if transport.probe(device_id).is_err() {
            continue;
        }
        *HANDLES.lock() = Some(Handles {
            transport,
            flush: None,
        });
        let cpus = cpu::online() as u16;
        match Control::bring_up(&platform::Kernel, transport, device_id, cpus) {
            Ok(control) => return Some((control, device)),
            Err(error) => crate::log!("device at {:#x}: {}", device.base, Causes(&error)),
        }
    }
    None
}

/// Says who we are: hello, processors, modules, symbols.
fn introduce(
    control: Control<MmioTransport>,
    behaviour: Option<hostile::Behaviour>,
) -> Result<(), RequestError> {
    let mut guard = CONTROL.lock();
    let control = guard.insert(control);
    if behaviour == Some(hostile::Behaviour::NoHello) {
        return Ok(());
    }
    let kernel = &platform::Kernel;
    let [kernel_start, .., kernel_end] = image();
    let layout = layout::entries();
    let description = Description {
        page_table_root: paging::kernel().root(),
        linear_map_base: linear_base(),
        kernel_start,
        kernel_end,
        user_end: user_end(),
        init_task: cpu::get(0).map_or(0, |cpu| cpu.idle.load(Ordering::Relaxed) as u64),
        page_table_levels: paging::levels() as u16,
        cpus: cpu::online() as u16,
        release: RELEASE,
        vma_store: VmaStore::List,
        layout: &layout,
    };
    hostile::before_hello(behaviour, control, &description);
    control.hello(kernel, &description)?;
    if let Some(handles) = HANDLES.lock().as_mut() {
        handles.flush = Some(control.flush());
    }
    for vcpu in 0..cpu::online() as u16 {
        control.cpu_state(kernel, vcpu, true)?;
    }
    control.modules(kernel, [], false)?;
    control.symbols(kernel, 0, symbols::of_kernel())
}

/// Takes a sample of what was interrupted. Interrupts are off.
pub fn sample(context: &Context) {
    let cpu = cpu::this();
    // SAFETY: the running task is valid, and it cannot end while an interrupt of it is handled.
    let task = unsafe { &*cpu::current_task() };
    let sample = Sample {
        pc: context.rip,
        is_kernel: !context.is_user(),
        event: 0,
        task: ptr::from_ref(task) as u64,
    };
    let space = task.space().map_or(0, |mm| ptr::from_ref(mm) as u64);
    platform::CPUS[cpu.index]
        .lock()
        .sample(&platform::Kernel, &sample, space, |depth, tracer| {
            backtrace::walk(context, task, depth, |pc| tracer.frame(pc));
        });
}

/// An NMI: takes a sample of what was interrupted if it is the host's clock. No lock may be taken.
pub fn nmi(context: &Context) {
    let Some(sampler) = platform::NMIS.get(cpu::this().index) else {
        return;
    };
    let outcome = sampler.nmi(|depth, frames| {
        // SAFETY: as in `sample`.
        let task = unsafe { &*cpu::current_task() };
        backtrace::walk(context, task, depth, |pc| frames.frame(pc));
        let sample = Sample {
            pc: context.rip,
            is_kernel: !context.is_user(),
            event: 0,
            task: ptr::from_ref(task) as u64,
        };
        (
            sample,
            task.space().map_or(0, |mm| ptr::from_ref(mm) as u64),
        )
    });
    if matches!(outcome, Nmi::Sampled | Nmi::Lost) {
        apic::interrupt_self(SAMPLED_VECTOR);
    }
}

/// Takes what NMIs have sampled on this processor further. Interrupts are off.
pub fn drain() {
    platform::Kernel.with_cpu(cpu::this().index as u16, |_| ());
}

/// This processor runs a task, or idles. Interrupts are off.
pub fn set_busy(busy: bool) {
    platform::NMIS[cpu::this().index].set_busy(busy);
}

/// Has the samples of an address space resolved, before a task gives it up.
pub fn before_release(mm: &Mm) {
    if let Some(flush) = flush() {
        flush.before_release(&platform::Kernel, ptr::from_ref(mm) as u64);
    }
}

/// Has the samples of an address space resolved, before executable memory of it is unmapped.
pub fn before_unmap(mm: &Mm) {
    if let Some(flush) = flush() {
        flush.before_unmap(&platform::Kernel, ptr::from_ref(mm) as u64, true);
    }
}

/// After that memory is gone.
pub fn after_unmap(mm: &Mm) {
    if let Some(flush) = flush() {
        flush.after_unmap(ptr::from_ref(mm) as u64, true);
    }
}

/// Before an address space that no task has any more is torn down.
pub fn before_teardown(mm: &Mm) {
    if let Some(flush) = flush() {
        flush.before_teardown(ptr::from_ref(mm) as u64);
    }
}

fn flush() -> Option<Flush<MmioTransport>> {
    HANDLES.lock().as_ref().and_then(|handles| handles.flush)
}

/// This processor has nothing to run. Interrupts are off.
pub fn going_idle() {
    if period() != 0 || BY_HOST.load(Ordering::Relaxed) {
        let index = cpu::this().index as u16;
        let kernel = &platform::Kernel;
        kernel.with_cpu(index, |agent| agent.idle(kernel, IDLE_POST_AGE));
    }
}

/// Tells the device about the modules; the last one is about to run.
pub fn modules_changed(modules: &[Module]) {
    let mut control = CONTROL.lock();
    let Some(control) = control.as_mut() else {
        return;
    };
    let list = modules.iter().map(symbols::module_entry);
    let told = control
        .modules(&platform::Kernel, list, true)
        .and_then(|()| match modules.last() {
            Some(new) => control.symbols(&platform::Kernel, new.base, symbols::of_module(new)),
            None => Ok(()),
        });
    if let Err(error) = told {
        crate::log!(
            "the profiling device does not learn of a module: {}",
            Causes(&error)
        );
    }
}

/// Before power-off: everything is posted, and the device has seen it.
pub fn shut_down() {
    PERIOD.store(0, Ordering::Relaxed);
    if let Some(control) = CONTROL.lock().as_mut()
        && control.status() == Status::Ready
        && let Err(error) = control.quiesce(&platform::Kernel)
    {
        crate::log!("the last samples may be lost: {}", Causes(&error));
    }
}

/// Samples received and lost, buffers posted, kicks, doorbells, and the period.
pub fn statistics() -> [u64; 6] {
    let mut sum = [0; 6];
    for agent in &platform::CPUS {
        let one = agent.lock().statistics();
        sum[0] += one.counters.received;
        sum[1] += one.counters.lost;
        sum[2] += one.posted;
        sum[3] += one.kicks;
        sum[4] += one.doorbells;
    }
    sum[5] = period();
    sum
}

/// Frees a task that nothing refers to any more.
///
/// # Safety
/// `task` came from `Box::into_raw`, and this is the last pointer to it.
unsafe fn free_task(task: *mut Task) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(task) });
}
