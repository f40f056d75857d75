//! Getting samples resolved before what they refer to goes away.

use oprofile_wire::config::FLUSH_DOORBELL_OFFSET;
use oprofile_wire::sample::note;

use crate::platform::Platform;
use crate::transport::Transport;

/// The flush doorbell: drains the sample queues of those vCPUs that hold samples of an address space.
///
/// A clone is another handle of the same device; it needs no lock of its own.
///
/// What the kernel must see to, as only it can: from the call until the mappings are gone, this vCPU takes no sample of
/// the address space (interrupts off, or the task's space already cleared for the sampler), and no other vCPU runs in
/// it, or at least not in the part that is unmapped. A sample taken in between is looked up in what comes after.
#[derive(Clone, Copy, Debug)]
pub struct Flush<T> {
    pub(crate) transport: T,
    pub(crate) vcpus: u16,
    pub(crate) doorbell: bool,
}

impl<T: Transport> Flush<T> {
    /// Before a task of `space` gives it up, by exit or exec. Returns how many vCPUs held samples of it.
    ///
    /// Each vCPU's open buffer is posted under that vCPU's lock; then its doorbell is rung without one, and returns when the device has
    /// resolved what was posted. Must not be called with a vCPU's lock held.
    pub fn before_release<P: Platform<Transport = T>>(&self, platform: &P, space: u64) -> usize {
        self.flush(platform, space, note::SPACE_RELEASED)
    }

    /// Flushes what holds samples of `space`, and tells in a note what will happen to it.
    fn flush<P: Platform<Transport = T>>(&self, platform: &P, space: u64, event: u64) -> usize {
        if space == 0 {
            return 0;
        }
        let mut held = 0;
        for vcpu in 0..self.vcpus {
            let posted = platform.with_cpu(vcpu, |agent| {
                let holds = agent.post_space(platform, space, event);
                if holds && !self.doorbell {
                    // A device without the doorbell: the best that can be done is to hurry it.
                    agent.kick();
                }
                holds
            });
            if posted {
                held += 1;
                self.ring(vcpu);
            }
        }
        held
    }

    /// Before a part of `space` is unmapped. Only executable memory can have been sampled, so nothing else is worth a flush.
    /// (OProfile asks for a mapped file as well; here anonymous memory has identities to lose, too.)
    pub fn before_unmap<P: Platform<Transport = T>>(
        &self,
        platform: &P,
        space: u64,
        executable: bool,
    ) -> usize {
        if executable {
            self.flush(platform, space, note::SPACE_CHANGES)
        } else {
            0
        }
    }

    /// Rings the doorbell for a vCPU's queue, where the device has one.
    pub(crate) fn ring(&self, vcpu: u16) {
        if self.doorbell {
            #[expect(clippy::cast_possible_truncation, reason = "the offset is 48")]
            let offset = FLUSH_DOORBELL_OFFSET as usize;
            self.transport.write_config(offset, u32::from(vcpu));
        }
    }
}
