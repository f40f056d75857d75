//! What the agent needs of the kernel that it runs in.

use crate::cpu::CpuAgent;
use crate::memory::DmaMemory;
use crate::nmi::NmiSampler;
use crate::transport::Transport;

/// The guest's clock.
pub trait Clock {
    /// Monotonic time in nanoseconds. Called once a buffer, not once a sample.
    fn now_ns(&self) -> u64;
}

/// The kernel, as the agent sees it.
///
/// **Lock order**: the lock around [`crate::Control`], then one vCPU's lock. [`Platform::with_cpu`] takes and drops the latter, so
/// a caller must hold none, its own included; the agent never holds two. [`crate::Flush`] needs no control lock, so a task can exit while
/// another one waits for an answer of the device. Requests wait with the control lock held: take it from task context,
/// never from an interrupt handler.
pub trait Platform: Clock {
    /// How the device is reached.
    type Transport: Transport;

    /// Zeroed memory of `bytes` that is contiguous for the device, kept for ever; `None` when there is none. Called during
    /// bring-up only: queues and requests take up to 16 KiB at a time, sample buffers what the host configured (4 KiB by default).
    fn allocate(&self, bytes: usize) -> Option<DmaMemory>;

    /// Runs `work` on the state of a vCPU, any one, with its lock held and interrupts off. A kernel with [`Platform::nmi`] has
    /// that [drained](NmiSampler::drain) first.
    fn with_cpu<R>(&self, vcpu: u16, work: impl FnOnce(&mut CpuAgent<Self::Transport>) -> R) -> R;

    /// A vCPU's part of the host's clock, for a kernel that takes the host's NMIs: its handler is in place, and stays. `None`, for
    /// any vCPU, where it has none: then the host is not asked to be the clock.
    fn nmi(&self, _vcpu: u16) -> Option<&NmiSampler> {
        None
    }

    /// APIC id of a vCPU, for the host's NMIs.
    fn apic_id(&self, vcpu: u16) -> u32 {
        u32::from(vcpu)
    }

    /// Passes time while the device works on a request, for instance a `pause`.
    fn relax(&self);
}
