//! The guest's half against a device that breaks every rule: wrong registers, wild used rings, answers of any kind or none.
//!
//! The agent may lose samples and give up the device; it may not panic, wait for ever, hand out a task twice, or post a
//! buffer that makes no sense.

mod device;
mod kernel;
mod memory;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use arbitrary::{Arbitrary, Unstructured};
use oprofile_guest_agent::{Clocks, Control, Module, Sample, Symbol, TaskFate, Transport};
use oprofile_wire::DEFAULT_DEVICE_ID;

use device::{DevicePlan, HostileDevice};
use kernel::{Kernel, MAX_RELAXES, description};

/// vCPUs of the kernel; the device may have fewer queues, or more.
const CPUS: u16 = 3;

/// Most steps of an input.
const MAX_STEPS: usize = 64;

/// Longest list that is sent.
const MAX_LIST: usize = 40;

#[derive(Arbitrary, Debug)]
struct Input {
    device: DevicePlan,
    /// Memory that the kernel has for the agent, in units of 16 KiB.
    memory: u8,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Hello,
    Update,
    CpuState(u8, bool),
    Samples(u8, u8, u8, bool, Vec<u64>),
    SampleAt(u8, u64),
    WithoutRegisters(u8),
    Idle(u8, u64),
    Release(u8),
    Unmap(u8, bool),
    FreeTasks(u16),
    FreedTasks,
    Modules(Vec<Vec<u8>>, bool),
    Symbols(u64, Vec<Vec<u8>>),
    Quiesce,
    Interrupt,
    Pass(u64),
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let device = Rc::new(RefCell::new(HostileDevice::new(input.device)));
    let memory = usize::from(input.memory) * 16 * 1024;
    let kernel = Kernel::new(CPUS, Rc::clone(&device), memory);
    let Ok(control) = Control::bring_up(&kernel, kernel.transport(), DEFAULT_DEVICE_ID, CPUS)
    else {
        return;
    };
    let mut guest = Guest {
        kernel,
        control,
        next_task: 1,
        held: BTreeSet::new(),
    };
    for step in input.steps.iter().take(MAX_STEPS) {
        guest.kernel.begin_step();
        guest.take(step);
        guest.check();
    }
}

/// A kernel with a driver in it.
struct Guest {
    kernel: Kernel,
    control: Control<kernel::HostileTransport>,
    next_task: u64,
    /// Tasks that the device is to let go of.
    held: BTreeSet<u64>,
}

impl Guest {
    fn take(&mut self, step: &Step) {
        let Self {
            kernel,
            control,
            next_task,
            held,
        } = self;
        let cpu = |index: &u8| u16::from(*index) % CPUS;
        // What the agent makes of a device like this is its business.
        match step {
            Step::Hello => drop(control.hello(kernel, &description())),
            Step::Update => {
                if let Ok(Clocks::Run { period_ns }) = control.update(kernel) {
                    assert_ne!(period_ns, 0);
                }
            }
            Step::CpuState(index, online) => {
                let _ = control.cpu_state(kernel, u16::from(*index), *online);
            }
            Step::Samples(index, count, task, is_kernel, frames) => {
                for pc in 0..u64::from(*count) {
                    let sample = Sample {
                        pc,
                        is_kernel: *is_kernel,
                        event: 0,
                        task: u64::from(*task) + 1,
                    };
                    kernel.sample(cpu(index), &sample, u64::from(*task / 2), frames);
                }
            }
            Step::SampleAt(index, pc) => {
                let sample = Sample {
                    pc: *pc,
                    is_kernel: false,
                    event: *pc >> 32,
                    task: 1,
                };
                kernel.sample(cpu(index), &sample, *pc, &[]);
            }
            Step::WithoutRegisters(index) => kernel.sample_without_registers(cpu(index)),
            Step::Idle(index, age) => kernel.idle(cpu(index), *age),
            Step::Release(space) => {
                let count = control.flush().before_release(kernel, u64::from(*space));
                assert!(count <= usize::from(CPUS));
            }
            Step::Unmap(space, executable) => {
                let flush = control.flush();
                flush.before_unmap(kernel, u64::from(*space), *executable);
            }
            Step::FreeTasks(count) => {
                let tasks: Vec<u64> = (*next_task..).take(usize::from(count % 300)).collect();
                if let Ok(TaskFate::Held) = control.free_tasks(kernel, &tasks) {
                    *next_task += tasks.len() as u64;
                    held.extend(tasks);
                }
            }
            Step::FreedTasks => {
                let _ = control.freed_tasks(|task| assert!(held.remove(&task), "task {task}"));
            }
            Step::Modules(names, coming) => {
                let modules = names
                    .iter()
                    .take(MAX_LIST)
                    .zip(1..)
                    .map(|(name, base)| Module {
                        base,
                        size: 1,
                        name,
                    });
                let _ = control.modules(kernel, modules, *coming);
            }
            Step::Symbols(base, names) => {
                let symbols = names
                    .iter()
                    .take(MAX_LIST)
                    .zip(1..)
                    .map(|(name, address)| Symbol {
                        address,
                        size: 1,
                        name,
                    });
                let _ = control.symbols(kernel, *base, symbols);
            }
            Step::Quiesce => drop(control.quiesce(kernel)),
            Step::Interrupt => drop(kernel.transport().acknowledge_interrupt()),
            Step::Pass(ns) => kernel.pass(*ns),
        }
    }

    /// What must hold whatever the device did.
    fn check(&self) {
        let settings = self.control.settings();
        assert!(settings.period_ns != 0 && settings.vcpus != 0);
        assert!(self.control.vcpus() <= CPUS);
        // A request gives up after ten seconds, each list is sent in few parts, and a step ends with one that fails.
        let relaxes = self.kernel.relaxes();
        assert!(relaxes <= MAX_RELAXES, "waited {relaxes} times");
        self.kernel.check();
    }
}
