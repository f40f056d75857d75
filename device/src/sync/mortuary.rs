//! Where dead tasks wait until nothing refers to them any more.

use std::mem;

use super::CpuSet;

/// OProfile's two-pass mortuary.
///
/// A task that dies may still be named by entries of any vCPU. It is kept until each online vCPU has been synced at
/// least once since: a pass runs when all of them are marked, and it frees on the second pass after its death, for
/// the first may end a round that began before it. `T` is what is freed: a task, or a batch of them.
///
/// It is as long as what is handed over; a device bounds that by the control requests that it leaves unanswered.
#[derive(Clone, Debug)]
pub struct Mortuary<T> {
    registered: bool,
    online: CpuSet,
    marked: CpuSet,
    passes: u64,
    /// Arrived since the last pass, oldest first.
    dying: Vec<T>,
    /// Arrived before it, oldest first.
    dead: Vec<T>,
}

impl<T> Default for Mortuary<T> {
    fn default() -> Self {
        Self {
            registered: false,
            online: CpuSet::default(),
            marked: CpuSet::default(),
            passes: 0,
            dying: Vec::new(),
            dead: Vec::new(),
        }
    }
}

impl<T> Mortuary<T> {
    /// Begins to keep the dead: profiling was set up.
    pub fn register(&mut self) {
        self.registered = true;
        self.marked = CpuSet::default();
    }

    /// Ends keeping the dead, and returns those that still waited, in the order in which two passes free them.
    #[must_use]
    pub fn unregister(&mut self) -> Vec<T> {
        self.registered = false;
        let mut freed = self.pass();
        freed.extend(self.pass());
        freed
    }

    /// Whether the dead are kept.
    #[must_use]
    pub const fn is_registered(&self) -> bool {
        self.registered
    }

    /// Takes a dead task; gives it back, free at once, when nobody is registered.
    #[must_use = "a task that is given back is free"]
    pub fn bury(&mut self, task: T) -> Option<T> {
        if !self.registered {
            return Some(task);
        }
        self.dying.push(task);
        None
    }

    /// The vCPUs that a pass waits for, from the next mark on.
    pub const fn set_online(&mut self, online: CpuSet) {
        self.online = online;
    }

    /// The vCPUs that a pass waits for.
    #[must_use]
    pub const fn online(&self) -> &CpuSet {
        &self.online
    }

    /// Notes that `vcpu` has been synced, and frees who has waited long enough, the newest of a batch first.
    #[must_use = "the tasks that are returned are free"]
    pub fn mark(&mut self, vcpu: u16) -> Vec<T> {
        self.marked.insert(vcpu);
        if !self.online.is_subset(&self.marked) {
            return Vec::new();
        }
        self.marked = CpuSet::default();
        self.pass()
    }

    /// Passes so far: between two of them each online vCPU is synced at least once.
    #[must_use]
    pub const fn passes(&self) -> u64 {
        self.passes
    }

    fn pass(&mut self) -> Vec<T> {
        self.passes += 1;
        let mut freed = mem::replace(&mut self.dead, mem::take(&mut self.dying));
        freed.reverse();
        freed
    }

    /// Those that two more passes will free, newest first.
    pub fn dying(&self) -> impl Iterator<Item = &T> {
        self.dying.iter().rev()
    }

    /// Those that the next pass will free, newest first.
    pub fn dead(&self) -> impl Iterator<Item = &T> {
        self.dead.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mortuary(vcpus: u16) -> Mortuary<u64> {
        let mut mortuary = Mortuary::default();
        mortuary.register();
        mortuary.set_online((0..vcpus).collect());
        mortuary
    }

    #[test]
    fn unregistered_frees_at_once() {
        assert_eq!(Mortuary::default().bury(7), Some(7));
    }

    #[test]
    fn second_pass_frees_the_newest_first() {
        let mut mortuary = mortuary(1);
        assert_eq!(mortuary.bury(1), None);
        assert_eq!(mortuary.bury(2), None);
        assert!(mortuary.mark(0).is_empty());
        assert_eq!(mortuary.bury(3), None);
        assert_eq!(mortuary.mark(0), [2, 1]);
        assert_eq!(mortuary.mark(0), [3]);
    }

    #[test]
    fn a_pass_needs_every_online_vcpu() {
        let mut mortuary = mortuary(2);
        assert_eq!(mortuary.bury(1), None);
        for vcpu in [0, 0, 1, 1, 1] {
            assert!(mortuary.mark(vcpu).is_empty());
        }
        assert_eq!(mortuary.mark(0), [1]);
    }

    #[test]
    fn a_vcpu_that_goes_offline_is_not_waited_for() {
        let mut mortuary = mortuary(2);
        assert_eq!(mortuary.bury(1), None);
        assert!(mortuary.mark(0).is_empty());
        mortuary.set_online([0].into_iter().collect());
        assert!(mortuary.mark(0).is_empty());
        assert_eq!(mortuary.mark(0), [1]);
    }

    #[test]
    fn unregistering_frees_everyone() {
        let mut mortuary = mortuary(1);
        assert_eq!(mortuary.bury(1), None);
        assert!(mortuary.mark(0).is_empty());
        assert_eq!(mortuary.bury(2), None);
        assert_eq!(mortuary.bury(3), None);
        assert_eq!(mortuary.unregister(), [1, 3, 2]);
        assert_eq!(mortuary.bury(4), Some(4));
    }

    proptest! {
        /// The reason for two passes: whoever is freed has seen a sync of every online vCPU since its death.
        #[test]
        fn nobody_is_freed_before_every_online_vcpu_was_synced_since(
            vcpus in 1u16..4, steps in prop::collection::vec(prop_oneof![Just(None), (0u16..4).prop_map(Some)], 0..60))
        {
            let mut mortuary = mortuary(vcpus);
            let mut synced_since: Vec<CpuSet> = Vec::new();
            let mut freed_count = 0;
            for step in steps {
                let Some(vcpu) = step else {
                    prop_assert_eq!(mortuary.bury(synced_since.len() as u64), None);
                    synced_since.push(CpuSet::default());
                    continue;
                };
                for set in &mut synced_since {
                    set.insert(vcpu);
                }
                for task in mortuary.mark(vcpu) {
                    freed_count += 1;
                    prop_assert!(mortuary.online().is_subset(&synced_since[usize::try_from(task).unwrap()]));
                }
            }
            let waiting = mortuary.dying().count() + mortuary.dead().count();
            prop_assert_eq!(freed_count + waiting, synced_since.len());
        }
    }
}
