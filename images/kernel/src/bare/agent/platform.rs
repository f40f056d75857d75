//! What the agent's core asks of this kernel.

use core::ptr::NonNull;

use oprofile_guest_agent::{Clock, CpuAgent, DmaMemory, MmioTransport, NmiSampler, Platform};

use crate::agent::hostile;
use crate::arch::clock;
use crate::arch::cpu::MAX_CPUS;
use crate::mm::{frames, physical_to_virtual};
use crate::sync::SpinLock;

/// Each processor's half of the agent.
pub static CPUS: [SpinLock<CpuAgent<MmioTransport>>; MAX_CPUS] =
    [const { SpinLock::new(CpuAgent::new()) }; MAX_CPUS];

/// Each processor's part of the host's clock.
pub static NMIS: [NmiSampler; MAX_CPUS] = [const { NmiSampler::new() }; MAX_CPUS];

/// This kernel.
pub struct Kernel;

impl Clock for Kernel {
    fn now_ns(&self) -> u64 {
        clock::now()
    }
}

impl Platform for Kernel {
    type Transport = MmioTransport;

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        let gpa = frames::allocate(bytes)?;
        hostile::note_allocation(bytes, gpa);
        let start = NonNull::new(physical_to_virtual(gpa) as *mut u8)?;
        // SAFETY: the block was just taken, is as large as asked for, contiguous, and never given back; so nothing else
        // uses it, and zeroing it initialises it.
        unsafe {
            start.write_bytes(0, bytes);
            DmaMemory::new(start, bytes, gpa)
        }
    }

    fn with_cpu<R>(&self, vcpu: u16, work: impl FnOnce(&mut CpuAgent<MmioTransport>) -> R) -> R {
        // The driver has no more vCPUs than the kernel, which has at most `MAX_CPUS`.
        let mut agent = CPUS[usize::from(vcpu)].lock();
        NMIS[usize::from(vcpu)].drain(&mut agent, self);
        work(&mut agent)
    }

    fn nmi(&self, vcpu: u16) -> Option<&NmiSampler> {
        NMIS.get(usize::from(vcpu))
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }
}
