//! The loop of a vCPU: enter the guest, serve its exits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_bindings::{
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::end::{EndReport, GuestEnd};
use super::kick::Kickable;
use crate::bus::{Bus, Effect};

/// Instruction pointer of a vCPU after INIT (Intel SDM vol. 3, table 10-1).
const RESET_VECTOR: u64 = 0xfff0;

/// The address spaces of a VM.
#[derive(Debug, Default)]
pub struct Buses {
    /// Port I/O.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
}

/// A vCPU on its way to a thread.
#[derive(Debug)]
pub struct Vcpu {
    /// Its number, which is its APIC id.
    pub id: u16,
    /// KVM's handle.
    pub fd: VcpuFd,
    /// What it can reach.
    pub buses: Arc<Buses>,
    /// Set when all vCPUs are to stop.
    pub stop: Arc<AtomicBool>,
    /// Entries into the guest that came back for the VMM to do something.
    pub exits: u64,
}

/// What an exit leads to.
enum Next {
    Enter,
    End(GuestEnd),
    /// The end whose details have to be asked for.
    InternalError,
}

impl Vcpu {
    /// Runs until the guest ends, then tells how; `None` when it was stopped.
    pub fn run(&mut self) -> Option<EndReport> {
        let run: *mut kvm_run = self.fd.get_kvm_run();
        // SAFETY: `run` is the mapping of this vCPU, as long-lived as `self.fd`, which outlives this function's locals;
        // the projection stays inside it. KVM and atomics alone access the byte.
        let kicks = unsafe { Kickable::new(&raw mut (*run).immediate_exit) };
        loop {
            if self.stop.load(Ordering::Acquire) {
                return None;
            }
            let next = match self.fd.run() {
                Ok(exit) => {
                    self.exits += 1;
                    serve(exit, &self.buses)
                }
                Err(error) => match error.errno() {
                    // A signal, or a vCPU that got INIT while it waited for SIPI.
                    libc::EINTR | libc::EAGAIN => {
                        kicks.clear();
                        Next::Enter
                    }
                    _ => Next::End(GuestEnd::VmmError(format!("KVM_RUN: {error}"))),
                },
            };
            let end = match next {
                Next::Enter => continue,
                Next::End(end) => end,
                Next::InternalError => GuestEnd::InternalError(self.internal_error()),
            };
            let rip = self.fd.get_regs().ok().map(|registers| registers.rip);
            // On AMD, KVM puts a vCPU that shut down into its INIT state: where it had been is not known any more.
            let rip = rip.filter(|rip| *rip != RESET_VECTOR);
            return Some(EndReport {
                end,
                vcpu: self.id,
                rip,
            });
        }
    }

    /// What KVM says about its internal error.
    fn internal_error(&mut self) -> String {
        let run = self.fd.get_kvm_run();
        // SAFETY: called after an exit with KVM_EXIT_INTERNAL_ERROR, for which this member of the union is the valid one;
        // it consists of plain integers.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let meaning = match internal.suberror {
            1 => " (an instruction that it cannot emulate)",
            2 => " (an event while another one was being delivered)",
            3 => " (an exit while an event was being delivered)",
            4 => " (an exit that it does not know)",
            _ => "",
        };
        format!("internal error {}{meaning}", internal.suberror)
    }
}

fn serve(exit: VcpuExit<'_>, buses: &Buses) -> Next {
    let effect = match exit {
        VcpuExit::MmioWrite(address, data) => buses.mmio.write(address, data),
        VcpuExit::MmioRead(address, data) => {
            buses.mmio.read(address, data);
            Effect::None
        }
        VcpuExit::IoOut(port, data) => buses.ports.write(u64::from(port), data),
        VcpuExit::IoIn(port, data) => {
            buses.ports.read(u64::from(port), data);
            Effect::None
        }
        VcpuExit::Shutdown => return Next::End(GuestEnd::TripleFault),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => {
            return Next::End(GuestEnd::PowerOff);
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => return Next::End(GuestEnd::Reset),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => {
            return Next::End(GuestEnd::InternalError("guest crash event".into()));
        }
        VcpuExit::InternalError => return Next::InternalError,
        VcpuExit::FailEntry(reason, cpu) => {
            let what =
                format!("hardware refuses to enter the guest (reason {reason:#x}, CPU {cpu})");
            return Next::End(GuestEnd::InternalError(what));
        }
        // Nothing to do but to enter again.
        VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt => Effect::None,
        other => {
            return Next::End(GuestEnd::InternalError(format!(
                "unexpected exit {other:?}"
            )));
        }
    };
    match effect {
        Effect::None => Next::Enter,
        Effect::End(end) => Next::End(end),
    }
}
