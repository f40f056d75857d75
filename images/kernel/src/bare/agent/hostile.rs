//! Bad behaviour on request, for tests of the host: `hostile=` on the command line makes this kernel do exactly one thing wrong,
//! and then go on with its normal work.

use alloc::alloc::{Layout, alloc_zeroed};
use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use oprofile_guest_agent::virtqueue::QUEUE_BYTES;
use oprofile_guest_agent::{Control, Description, MmioTransport, Sample, Transport};
use oprofile_wire::config::FLUSH_DOORBELL_OFFSET;
use oprofile_wire::layout::{Field, LayoutEntry};
use oprofile_wire::{MAX_VCPUS, QUEUE_SIZE};
use tiny_kernel::cmdline::CommandLine;

use super::{HANDLES, platform};
use crate::arch::instructions::{disable_interrupts, enable_interrupts};
use crate::mm::space::Mm;
use crate::mm::vma::{EXEC, Vma};
use crate::mm::{MODULE_AREA, PAGE, frames, paging, physical_to_virtual};
use crate::task::Task;

/// A guest-physical address beyond any machine's RAM.
const OUTSIDE_RAM: u64 = 1 << 45;
/// A user address that no test program maps.
const UNMAPPED: u64 = 0x1234_5000;
/// A vCPU that no machine has.
const NO_VCPU: u32 = 4_000_000;
const _: () = assert!(NO_VCPU > MAX_VCPUS as u32);

/// How often the device is raced for a buffer. Each lost race leaves a sample of no task.
const BAD_CHAIN_ATTEMPTS: usize = 32;

/// What to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Post a descriptor chain that leads outside RAM and back to itself.
    BadChain,
    /// Introduce itself with a garbage layout descriptor first.
    BadLayout,
    /// Post a sample of a task whose VMA list is a cycle.
    CyclicVmas,
    /// Introduce itself with page tables that lead to themselves first; then post samples of tasks behind an entry that leads
    /// outside RAM.
    BadPageTable,
    /// Post samples of tasks that are nowhere.
    BadTask,
    /// Ring the doorbell for a vCPU that does not exist.
    BadDoorbell,
    /// Say nothing at all.
    NoHello,
}

impl Behaviour {
    /// What the command line asks for.
    pub fn from_command_line(line: &CommandLine<'_>) -> Option<Self> {
        let name = line.value("hostile")?;
        let behaviour = match name {
            b"bad-chain" => Self::BadChain,
            b"bad-layout" => Self::BadLayout,
            b"cyclic-vmas" => Self::CyclicVmas,
            b"bad-page-table" => Self::BadPageTable,
            b"bad-task" => Self::BadTask,
            b"bad-doorbell" => Self::BadDoorbell,
            b"no-hello" => Self::NoHello,
            _ => {
                crate::log!("no such hostile behaviour: {}", name.escape_ascii());
                return None;
            }
        };
        crate::log!("hostile: {}", name.escape_ascii());
        Some(behaviour)
    }
}

/// Queues handed out so far, and where vCPU 0's sample queue lies: the second, behind the control queue.
static QUEUES: AtomicU32 = AtomicU32::new(0);
static SAMPLE_QUEUE: AtomicU64 = AtomicU64::new(0);

/// The agent's core has got memory; queues are known by their size.
pub fn note_allocation(bytes: usize, gpa: u64) {
    if bytes == QUEUE_BYTES && QUEUES.fetch_add(1, Ordering::Relaxed) == 1 {
        SAMPLE_QUEUE.store(gpa, Ordering::Relaxed);
    }
}

/// What is done in front of the good hello.
pub fn before_hello(
    behaviour: Option<Behaviour>,
    control: &mut Control<MmioTransport>,
    good: &Description<'_>,
) {
    let answer = match behaviour {
        Some(Behaviour::BadLayout) => {
            let garbage = [LayoutEntry::field(Field::TaskMm, u32::MAX, 7); 3];
            let bad = Description {
                layout: &garbage,
                ..*good
            };
            control.hello(&platform::Kernel, &bad)
        }
        Some(Behaviour::BadPageTable) => {
            let Some(table) = self_referring_table() else {
                return;
            };
            let bad = Description {
                page_table_root: table,
                linear_map_base: 0,
                ..*good
            };
            control.hello(&platform::Kernel, &bad)
        }
        _ => return,
    };
    match answer {
        Ok(()) => crate::log!("hostile: the bad hello was accepted"),
        Err(error) => crate::log!("hostile: {error}"),
    }
}

/// A page table of which every entry leads to itself.
fn self_referring_table() -> Option<u64> {
    let table = frames::allocate_zeroed()?;
    for index in 0..512 {
        let entry = (physical_to_virtual(table) as *mut u64).wrapping_add(index);
        // SAFETY: the frame was just taken and has 512 words; no processor uses it as a table.
        unsafe { entry.write(table | paging::PRESENT | paging::WRITABLE) };
    }
    Some(table)
}

/// What is done when sampling has begun.
pub fn misbehave(behaviour: Option<Behaviour>) {
    match behaviour {
        Some(Behaviour::BadChain) => bad_chain(),
        Some(Behaviour::CyclicVmas) => cyclic_vmas(),
        Some(Behaviour::BadPageTable) => unreachable_task(),
        Some(Behaviour::BadTask) => {
            for task in [0x10, 0xdead_beef_0000, 0x0123_4567_89ab_cdef, u64::MAX - 7] {
                post_sample(task);
            }
        }
        Some(Behaviour::BadDoorbell) => ring(NO_VCPU),
        Some(Behaviour::BadLayout | Behaviour::NoHello) | None => {}
    }
}

fn ring(vcpu: u32) {
    let transport = HANDLES.lock().as_ref().map(|handles| handles.transport);
    if let Some(transport) = transport {
        transport.write_config(FLUSH_DOORBELL_OFFSET as usize, vcpu);
    }
}

/// Puts a user-mode sample of `task` into vCPU 0's buffer and posts it.
fn post_sample(task: u64) {
    let sample = Sample {
        pc: UNMAPPED,
        is_kernel: false,
        event: 0,
        task,
    };
    let mut agent = platform::CPUS[0].lock();
    agent.sample(&platform::Kernel, &sample, 0, |_, _| ());
    agent.idle(&platform::Kernel, 0);
}

/// Posts a buffer, and changes its descriptor before the device has looked: it does at the doorbell, ten times a second, and, should
/// the agent kick, at once. So it is tried until the buffer was not used when its descriptor had been changed. The driver writes the
/// descriptor afresh when it uses it again.
fn bad_chain() {
    let queue = SAMPLE_QUEUE.load(Ordering::Relaxed);
    if queue == 0 {
        return;
    }
    let queue = physical_to_virtual(queue) as *mut u8;
    for _ in 0..BAD_CHAIN_ATTEMPTS {
        let interrupts = disable_interrupts();
        post_sample(0);
        // SAFETY: the driver's core holds no references into the queue between calls, and other processors do not touch vCPU 0's queue
        // while it has nothing to flush.
        let is_unused = unsafe { lead_last_chain_astray(queue) };
        if interrupts {
            enable_interrupts();
        }
        if is_unused {
            return ring(0);
        }
    }
    crate::log!("hostile: the device was faster each time");
}

/// Changes the descriptor of the chain that was offered last: it leads outside RAM and to itself. Whether the device had not used the
/// chain yet.
///
/// # Safety
/// `queue` is the memory of a queue that nobody but the device uses meanwhile, and a chain was offered.
unsafe fn lead_last_chain_astray(queue: *mut u8) -> bool {
    const NEXT: u16 = 1;
    let size = usize::from(QUEUE_SIZE);
    // Behind the descriptor table is the available ring, and behind that one the used ring, at a multiple of four (virtio 1.2 §2.7); each
    // begins with flags and its index. The available ring ends with a word for notifications.
    let available = queue.wrapping_add(16 * size);
    let used = queue.wrapping_add((16 * size + 2 * (2 + size + 1)).next_multiple_of(4));
    // SAFETY: all of it is inside the queue's memory, which is mapped for ever.
    unsafe {
        let index = available.add(2).cast::<u16>().read_volatile();
        let slot = usize::from(index.wrapping_sub(1) % QUEUE_SIZE);
        let head = available.add(4 + 2 * slot).cast::<u16>().read_volatile();
        let descriptor = queue.add(16 * usize::from(head));
        descriptor.cast::<u64>().write_volatile(OUTSIDE_RAM);
        descriptor.add(8).cast::<u32>().write_volatile(u32::MAX);
        descriptor.add(12).cast::<u16>().write_volatile(NEXT);
        descriptor.add(14).cast::<u16>().write_volatile(head);
        used.add(2).cast::<u16>().read_volatile() != index
    }
}

/// A task's worth of zeros with a process id.
fn fake_task() -> Option<*mut Task> {
    // SAFETY: the layout is not empty.
    let task = unsafe { alloc_zeroed(Layout::new::<Task>()) }.cast::<Task>();
    if task.is_null() {
        return None;
    }
    // SAFETY: the memory is ours; only plain fields are written, and no `Task` is ever made of it.
    unsafe {
        (&raw mut (*task).pid).write(0xbad);
        (&raw mut (*task).tgid).write(0xbad);
    }
    Some(task)
}

fn cyclic_vmas() {
    // SAFETY: the layout is not empty.
    let mm = unsafe { alloc_zeroed(Layout::new::<Mm>()) }.cast::<Mm>();
    let Some(task) = fake_task() else {
        return;
    };
    if mm.is_null() {
        return;
    }
    let first = Box::leak(Vma::new(mm, PAGE, 2 * PAGE, EXEC, None));
    let second = Box::leak(Vma::new(mm, 2 * PAGE, 3 * PAGE, EXEC, None));
    let (first, second) = (&raw mut *first, &raw mut *second);
    // SAFETY: leaked or freshly allocated memory; nothing in this kernel follows these links.
    unsafe {
        (*first).next.store(second, Ordering::Relaxed);
        (*second).next.store(first, Ordering::Relaxed);
        (&raw const (*mm).areas)
            .as_ref()
            .inspect(|areas| areas.store(first, Ordering::Relaxed));
        (&raw const (*mm).area_count)
            .as_ref()
            .inspect(|count| count.store(2, Ordering::Relaxed));
        ptr::addr_of!((*task).mm)
            .as_ref()
            .inspect(|link| link.store(mm, Ordering::Relaxed));
    }
    post_sample(task as u64);
}

/// A task pointer into a page of the module area that is mapped to nowhere.
fn unreachable_task() {
    let address = MODULE_AREA.end - PAGE;
    let mapped = paging::kernel().map(
        address,
        OUTSIDE_RAM,
        PAGE,
        paging::DATA,
        &mut frames::allocate_zeroed,
    );
    if mapped.is_ok() {
        post_sample(address + 0x100);
    }
}
