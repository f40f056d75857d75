//! The thread that gives the host's clock: it sends NMIs to vCPUs as message-signalled interrupts.
//!
//! Not by the vCPU's own `KVM_NMI`: that waits for the vCPU to leave `KVM_RUN`.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use oprofile_device::{Device, HostClock};
use vm_memory::GuestMemoryMmap;

/// Address of a message to a local APIC; the APIC id goes to bits 19:12, physical destination (Intel SDM vol. 3, 11.11.1).
const MSI_ADDRESS: u32 = 0xfee0_0000;
const APIC_ID_SHIFT: u32 = 12;
/// Data of a message that is an NMI: delivery mode 4 in bits 10:8, edge (11.11.2).
const NMI: u32 = 4 << 8;

/// The running clock. Dropping it ends the thread.
#[derive(Debug)]
pub struct NmiClock {
    clock: Arc<HostClock<GuestMemoryMmap>>,
    thread: Option<JoinHandle<()>>,
}

impl NmiClock {
    /// Starts giving the clock of `device` to the vCPUs of `vm`, as far as their driver asks for it.
    ///
    /// # Errors
    /// When the host lacks threads.
    pub fn start(device: &Device<GuestMemoryMmap>, vm: Arc<VmFd>) -> io::Result<Self> {
        let clock = Arc::clone(device.host_clock());
        let served = Arc::clone(&clock);
        let thread = thread::Builder::new()
            .name("oprofile-clock".into())
            .spawn(move || served.serve(|apic_id| send(&vm, apic_id)))?;
        Ok(Self {
            clock,
            thread: Some(thread),
        })
    }
}

impl Drop for NmiClock {
    fn drop(&mut self) {
        self.clock.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends an NMI; whether a local APIC took it. KVM answers with the number of those that did: none when it is not enabled.
fn send(vm: &VmFd, apic_id: u32) -> bool {
    let message = message(apic_id);
    matches!(vm.signal_msi(message), Ok(taken) if taken > 0)
}

fn message(apic_id: u32) -> kvm_msi {
    kvm_msi {
        address_lo: MSI_ADDRESS | apic_id << APIC_ID_SHIFT,
        data: NMI,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_wire::clock::MAX_APIC_ID;

    #[test]
    fn a_message_names_one_vcpu() {
        for apic_id in [0, 1, MAX_APIC_ID] {
            let kvm_msi {
                address_lo,
                address_hi,
                data,
                ..
            } = message(apic_id);
            assert_eq!(address_lo >> 20, 0xfee);
            assert_eq!(address_lo >> 12 & 0xff, apic_id);
            assert_eq!((address_lo & 0xfff, address_hi, data), (0, 0, 0x400));
        }
    }
}
