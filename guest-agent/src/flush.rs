//! What the device must learn before mappings go away: their samples, and that what it remembers of them ends.

use core::sync::atomic::Ordering;

use oprofile_wire::changes;
use oprofile_wire::config::FLUSH_DOORBELL_OFFSET;
use oprofile_wire::sample::note;

use crate::memory::SharedMemory;
use crate::platform::Platform;
use crate::transport::Transport;

/// The flush doorbell, which drains the sample queues of those vCPUs that hold samples of an address space, and the change words,
/// by which the device knows without asking that what it remembers of one still holds.
///
/// A clone is another handle of the same device; it needs no lock of its own.
///
/// | the kernel is about to | calls before | calls after |
/// |---|---|---|
/// | unmap, move or replace executable mappings | [`before_unmap`](Self::before_unmap) | [`after_unmap`](Self::after_unmap) |
/// | take an address space from a task (exit, exec) | [`before_release`](Self::before_release) | |
/// | tear down an address space that no task has any more | [`before_teardown`](Self::before_teardown) | |
///
/// Where the device has no change words, the kernel must see to one thing more, as only it can: from the first call until the mappings are
/// gone, this vCPU takes no sample of the address space (interrupts off, or the task's space already cleared for the sampler), and
/// no other vCPU runs in it, or at least not in the part that is unmapped. A sample taken in between is looked up in what comes after.
#[derive(Clone, Copy, Debug)]
pub struct Flush<T> {
    pub(crate) transport: T,
    pub(crate) vcpus: u16,
    pub(crate) doorbell: bool,
    /// Where the device reads them.
    pub(crate) change_words: Option<SharedMemory>,
}

impl<T: Transport> Flush<T> {
    /// Before a task of `space` gives it up, by exit or exec. Returns how many vCPUs held samples of it.
    ///
    /// Each vCPU's open buffer is posted under that vCPU's lock; then its doorbell is rung without one, and returns when the device has
    /// resolved what was posted. Must not be called with a vCPU's lock held.
    pub fn before_release<P: Platform<Transport = T>>(&self, platform: &P, space: u64) -> usize {
        self.flush(platform, space, note::SPACE_RELEASED)
    }

    /// Before `space`, which no task has any more, is torn down: its pointer may soon name another address space.
    pub fn before_teardown(&self, space: u64) {
        self.count_change(space, changes::BEGUN);
        self.count_change(space, changes::ENDED);
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

    /// Before a part of `space` is unmapped, moved, or mapped over. Only executable memory can have been sampled, so nothing else is
    /// worth a flush. (OProfile asks for a mapped file as well; here anonymous memory has identities to lose, too.) Returns as
    /// [`before_release`](Self::before_release).
    ///
    /// [`after_unmap`](Self::after_unmap) must follow; until then the device compares all that it remembers of `space` with the guest.
    pub fn before_unmap<P: Platform<Transport = T>>(
        &self,
        platform: &P,
        space: u64,
        executable: bool,
    ) -> usize {
        if !executable {
            return 0;
        }
        let held = self.flush(platform, space, note::SPACE_CHANGES);
        // Behind the flush, whose samples may still be resolved by what is remembered; before the change, so that no others are.
        self.count_change(space, changes::BEGUN);
        held
    }

    /// After what [`before_unmap`](Self::before_unmap) was called for, with the same arguments, also when it failed.
    pub fn after_unmap(&self, space: u64, executable: bool) {
        if executable {
            self.count_change(space, changes::ENDED);
        }
    }

    fn count_change(&self, space: u64, half: usize) {
        if let Some(words) = &self.change_words
            && let Some(count) = words.half(changes::index(space), half)
        {
            // Neither may pass the change of the mappings, on either side.
            count.fetch_add(1, Ordering::SeqCst);
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
