//! The tiny kernel: an SMP guest for x86-64 with processes, files, threads and modules, and a sampling agent whose
//! truth is known. Its structures are laid out unlike Linux's on purpose; the layout descriptor makes them readable.
#![no_std]
#![no_main]

extern crate alloc;

mod agent;
#[macro_use]
mod arch;
mod fs;
mod memory_functions;
mod mm;
mod module;
mod panic;
mod sync;
mod syscall;
mod task;

use alloc::vec::Vec;

use tiny_kernel::cmdline::CommandLine;

use crate::arch::cpu::{Cpu, MAX_CPUS};
use crate::arch::instructions::enable_interrupts;
use crate::arch::trap::SPURIOUS_VECTOR;
use crate::arch::{apic, clock, descriptors, ioapic, machine, serial, smp, timer};
use crate::mm::boot::BootInfo;
use crate::task::{process, scheduler};

/// The first program.
const INIT: &[u8] = b"/bin/init";

/// Called by `boot.s` on the boot processor, on the boot tables, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(start_info: u64) -> ! {
    serial::init();
    // SAFETY: the boot tables are in use, and the loader left this in a register.
    let Some(boot) = (unsafe { BootInfo::read(start_info) }) else {
        log!("not started by a PVH loader");
        machine::reset();
    };
    // SAFETY: called once, here.
    let initrd = unsafe { mm::boot::init(&boot) };
    let line = CommandLine::new(boot.command_line());
    let cpus = line.number("cpus").unwrap_or(1).clamp(1, MAX_CPUS as u64) as usize;

    // SAFETY: called once, here, before any processor loads its tables.
    unsafe { descriptors::init() };
    let cpu = Cpu::new(0, task::new_idle(0));
    // SAFETY: this is processor 0, and the interrupt table was filled.
    unsafe { cpu.load() };
    apic::init();
    apic::enable(SPURIOUS_VECTOR);
    ioapic::init();
    clock::init();
    timer::init();
    enable_interrupts();
    log!(
        "{} levels of page tables, {} MiB free, command line \"{}\"",
        mm::paging::levels(),
        (mm::frames::available() * 4096) >> 20,
        line.bytes().escape_ascii(),
    );
    smp::start(cpus);
    fs::init(initrd);
    agent::init(&line);
    log!("{} processors, starting init", arch::cpu::online());
    let argument = Vec::from(line.value("init").unwrap_or_default());
    if let Err(error) = process::spawn(0, INIT, argument) {
        log!("cannot start {}: {error}", INIT.escape_ascii());
        machine::reset();
    }
    scheduler::idle()
}
