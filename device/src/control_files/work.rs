//! Delayed work on a virtual clock.

/// Something to be done later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The periodic sync of a CPU.
    Sync(u16),
    /// The switch to the next events, at the end of a time slice.
    SwitchEvents,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    expiry: u64,
    /// Counts what has been scheduled: of two that expire together, the one that was scheduled first runs first.
    order: u64,
    work: Work,
}

/// The work that waits, and the time in jiffies. Each work waits once at most, so it holds one for each CPU and one more.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkQueue {
    now: u64,
    scheduled: u64,
    pending: Vec<Pending>,
}

impl WorkQueue {
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Schedules `work`, which waits not yet, `delay` jiffies from now.
    pub fn schedule(&mut self, work: Work, delay: u64) {
        if self.is_pending(work) {
            return;
        }
        self.scheduled = self.scheduled.wrapping_add(1);
        self.pending.push(Pending {
            expiry: self.now.saturating_add(delay),
            order: self.scheduled,
            work,
        });
    }

    pub fn is_pending(&self, work: Work) -> bool {
        self.pending.iter().any(|pending| pending.work == work)
    }

    /// Takes `work` out; whether it waited.
    pub fn cancel(&mut self, work: Work) -> bool {
        let waited = self.is_pending(work);
        self.pending.retain(|pending| pending.work != work);
        waited
    }

    /// Takes every sync out.
    pub fn cancel_syncs(&mut self) {
        self.pending
            .retain(|pending| !matches!(pending.work, Work::Sync(_)));
    }

    /// Takes out what expires next, by the time `end` at the latest, and lets the time pass until then.
    pub fn next_due(&mut self, end: u64) -> Option<Work> {
        let (index, next) = self
            .pending
            .iter()
            .enumerate()
            .min_by_key(|(_, pending)| (pending.expiry, pending.order))
            .filter(|(_, pending)| pending.expiry <= end)?;
        self.now = self.now.max(next.expiry);
        Some(self.pending.swap_remove(index).work)
    }

    /// Nothing more is due by the time `end`: lets it pass.
    pub fn advance_to(&mut self, end: u64) {
        self.now = self.now.max(end);
    }

    /// When the next work expires.
    pub fn next_expiry(&self) -> Option<u64> {
        self.pending.iter().map(|pending| pending.expiry).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(queue: &mut WorkQueue, end: u64) -> Vec<(u64, Work)> {
        std::iter::from_fn(|| queue.next_due(end).map(|work| (queue.now(), work))).collect()
    }

    #[test]
    fn work_runs_by_expiry_and_then_in_the_order_of_scheduling() {
        let mut queue = WorkQueue::default();
        queue.schedule(Work::Sync(1), 20);
        queue.schedule(Work::SwitchEvents, 10);
        queue.schedule(Work::Sync(0), 10);
        queue.schedule(Work::Sync(2), 21);
        let due = drain(&mut queue, 20);
        let expected = [
            (10, Work::SwitchEvents),
            (10, Work::Sync(0)),
            (20, Work::Sync(1)),
        ];
        assert_eq!(due, expected);
        assert_eq!(queue.next_expiry(), Some(21));
        queue.advance_to(20);
        assert_eq!(queue.now(), 20);
    }

    #[test]
    fn work_that_waits_is_not_scheduled_again() {
        let mut queue = WorkQueue::default();
        queue.schedule(Work::Sync(0), 5);
        queue.schedule(Work::Sync(0), 1);
        assert_eq!(drain(&mut queue, 10), [(5, Work::Sync(0))]);
    }

    #[test]
    fn cancelled_work_does_not_run() {
        let mut queue = WorkQueue::default();
        queue.schedule(Work::Sync(0), 5);
        queue.schedule(Work::SwitchEvents, 5);
        queue.schedule(Work::Sync(1), 5);
        assert!(queue.cancel(Work::Sync(1)));
        assert!(!queue.cancel(Work::Sync(1)));
        queue.cancel_syncs();
        assert_eq!(drain(&mut queue, 10), [(5, Work::SwitchEvents)]);
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        let mut queue = WorkQueue::default();
        queue.advance_to(u64::MAX);
        queue.schedule(Work::Sync(0), 100);
        assert_eq!(drain(&mut queue, u64::MAX), [(u64::MAX, Work::Sync(0))]);
    }

    proptest! {
        #[test]
        fn time_never_goes_back_and_nothing_runs_early_or_late(
            delays in prop::collection::vec(0u64..50, 1..20), steps in prop::collection::vec(0u64..20, 1..20))
        {
            let mut queue = WorkQueue::default();
            for (cpu, &delay) in (0..).zip(&delays) {
                queue.schedule(Work::Sync(cpu), delay);
            }
            let mut ran = 0;
            for step in steps {
                let start = queue.now();
                let end = start + step;
                let due = drain(&mut queue, end);
                prop_assert!(due.is_sorted_by_key(|&(time, _)| time));
                for (time, work) in &due {
                    let Work::Sync(cpu) = *work else { panic!("{work:?}") };
                    prop_assert_eq!(*time, delays[usize::from(cpu)]);
                }
                ran += due.len();
                queue.advance_to(end);
                prop_assert_eq!(ran, delays.iter().filter(|&&delay| delay <= end).count());
            }
        }
    }
}
