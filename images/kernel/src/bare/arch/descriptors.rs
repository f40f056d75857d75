//! Segment descriptors, the task-state segment with the interrupt stacks, and the interrupt table.

use alloc::alloc::{alloc_zeroed, handle_alloc_error};
use core::alloc::Layout;
use core::arch::asm;

use crate::arch::cpu::Cpu;

/// Selector of the kernel's code.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of the kernel's data.
pub const KERNEL_DATA: u16 = 0x10;
/// Selector of user data.
pub const USER_DATA: u16 = 0x1b;
/// Selector of user code.
pub const USER_CODE: u16 = 0x23;
const TASK_STATE: u16 = 0x28;

/// Bytes of one interrupt stack: room for a panic's formatting in an unoptimised build.
const STACK_BYTES: usize = 32 * 1024;

/// Stacks of the interrupt-stack table. Every gate uses one: prebuilt core keeps data in the red zone below the stack pointer,
/// which an interrupt on the same stack would overwrite.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stack {
    Interrupt = 1,
    Nmi = 2,
    Fatal = 3,
    Exception = 4,
}

#[repr(C, align(16))]
struct InterruptStack([u8; STACK_BYTES]);

/// Task-state segment (Intel SDM 3A §8.7); the words are shifted by four bytes against their natural alignment.
#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    privilege_stacks: [u64; 3],
    reserved2: u64,
    interrupt_stacks: [u64; 7],
    reserved3: [u16; 5],
    io_map: u16,
}

/// What each processor has of its own.
#[repr(C)]
pub struct Tables {
    segments: [u64; 7],
    task_state: TaskState,
    stacks: [InterruptStack; 4],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    attributes: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    /// 256 entry stubs, 16 bytes apart, in `entry.s`.
    static trap_stubs: [u8; 256 * 16];
    fn syscall_entry();
}

impl Tables {
    /// Makes the tables of one processor. They are not built on a stack: the interrupt stacks in them are larger than it.
    pub fn new() -> &'static mut Self {
        let layout = Layout::new::<Self>();
        // SAFETY: the layout is not empty; every field may be zero; the memory is never freed.
        let tables = unsafe {
            let memory = alloc_zeroed(layout).cast::<Self>();
            if memory.is_null() {
                handle_alloc_error(layout);
            }
            &mut *memory
        };
        // Flat 64-bit kernel code, kernel data, user data, user code; then the task state.
        tables.segments[1] = 0x00af_9b00_0000_ffff;
        tables.segments[2] = 0x00cf_9300_0000_ffff;
        tables.segments[3] = 0x00cf_f300_0000_ffff;
        tables.segments[4] = 0x00af_fb00_0000_ffff;
        tables.prepare();
        tables
    }

    fn prepare(&mut self) {
        self.task_state.io_map = size_of::<TaskState>() as u16;
        for (index, stack) in self.stacks.iter().enumerate() {
            let top = (&raw const *stack) as u64 + STACK_BYTES as u64;
            self.task_state.interrupt_stacks[index] = top;
        }
        let base = (&raw const self.task_state) as u64;
        let limit = size_of::<TaskState>() as u64 - 1;
        // 64-bit available TSS, present (Intel SDM 3A §8.2.3).
        self.segments[5] =
            limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        self.segments[6] = base >> 32;
    }
}

fn stack_of(vector: usize) -> Stack {
    match vector {
        2 => Stack::Nmi,
        8 | 18 => Stack::Fatal,
        0..32 => Stack::Exception,
        _ => Stack::Interrupt,
    }
}

/// The interrupt table, the same for each processor.
static GATES: gates::Gates = gates::Gates::new();

mod gates {
    use core::cell::UnsafeCell;

    use super::{Gate, KERNEL_CODE, stack_of, trap_stubs};

    pub struct Gates(UnsafeCell<[Gate; 256]>);

    // SAFETY: written once by `fill`, before the other processors run; read by hardware only.
    unsafe impl Sync for Gates {}

    impl Gates {
        pub const fn new() -> Self {
            let gate = Gate {
                offset_low: 0,
                selector: 0,
                stack: 0,
                attributes: 0,
                offset_middle: 0,
                offset_high: 0,
                reserved: 0,
            };
            Self(UnsafeCell::new([gate; 256]))
        }

        /// # Safety
        /// The boot processor calls it, once, before the table is loaded anywhere.
        pub unsafe fn fill(&self) {
            // SAFETY: by the contract nobody else looks at the table.
            let gates = unsafe { &mut *self.0.get() };
            for (vector, gate) in gates.iter_mut().enumerate() {
                let stub = (&raw const trap_stubs) as u64 + 16 * vector as u64;
                *gate = Gate {
                    offset_low: stub as u16,
                    selector: KERNEL_CODE,
                    stack: stack_of(vector) as u8,
                    // Present, ring 0, interrupt gate: interrupts off on entry.
                    attributes: 0x8e,
                    offset_middle: (stub >> 16) as u16,
                    offset_high: (stub >> 32) as u32,
                    reserved: 0,
                };
            }
        }

        pub fn address(&self) -> u64 {
            self.0.get() as u64
        }
    }
}

/// Fills the interrupt table.
///
/// # Safety
/// The boot processor calls it, once, before any processor calls [`load`].
pub unsafe fn init() {
    // SAFETY: the caller's promise is the callee's.
    unsafe { GATES.fill() };
}

/// Loads this processor's tables, its GS base and the entry point of system calls.
///
/// # Safety
/// `cpu` is this processor's own, prepared, and lives for ever.
pub unsafe fn load(cpu: &Cpu, tables: *const Tables) {
    const GS_BASE: u32 = 0xc000_0101;
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    const SFMASK: u32 = 0xc000_0084;
    // Trap, interrupt, direction and alignment-check flags are cleared on entry.
    const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 1 << 18;
    // SAFETY: the tables describe flat segments that agree with those in use, the task state and the stubs; the registers
    // are those of every x86-64 processor.
    unsafe {
        let segments = TablePointer {
            limit: (size_of::<[u64; 7]>() - 1) as u16,
            base: (&raw const (*tables).segments) as u64,
        };
        let gates = TablePointer {
            limit: (size_of::<[Gate; 256]>() - 1) as u16,
            base: GATES.address(),
        };
        asm!(
            "lgdt [{segments}]",
            "lidt [{gates}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "ltr {task_state:x}",
            segments = in(reg) &raw const segments,
            gates = in(reg) &raw const gates,
            code = in(reg) u64::from(KERNEL_CODE),
            data = in(reg) u32::from(KERNEL_DATA),
            task_state = in(reg) TASK_STATE,
            scratch = out(reg) _,
        );
        use crate::arch::instructions::write_msr;
        write_msr(GS_BASE, (&raw const *cpu) as u64);
        write_msr(KERNEL_GS_BASE, 0);
        write_msr(STAR, u64::from(KERNEL_CODE) << 32);
        write_msr(LSTAR, syscall_entry as *const () as u64);
        write_msr(SFMASK, CLEARED_FLAGS);
    }
}
