//! How much work a guest's structures may cost the host.
//!
//! A unit of work is a read of guest RAM: some 5 ns when it is in a cache, and 380 ns at worst. That is what the benchmark `worst`
//! takes on a host that is itself a VM without huge pages, where a load that misses every cache takes 290 ns: objects that are read
//! one after the other, each on a page that neither a cache nor the host's own translation knows. Where pointers are walked, it is
//! 250 ns: every other read is of a page-table entry. All times below are of such a host and such a guest.
//!
//! Three bounds hold at once:
//! one for a question, so that a vCPU that waits for its doorbell waits for a bounded time; one for samples on average (and a
//! little that comes with time), which is what they may cost a host that has better things to do; one for each tick of 100 ms,
//! whatever comes.

/// Most work for one question: a path of the greatest depth, in a space that is walked without large pages. At worst 1.6 ms.
pub(crate) const PER_QUESTION: u32 = 4_096;

/// Work that each sample may cost on average: at worst 16 µs. In a Linux 6.1 guest a task takes 4, to compare a mapping
/// with the guest 10, and a process with 200 mappings some 270 when it is seen for the first time.
const PER_SAMPLE: u32 = 40;

/// Work that may be spent ahead of samples: the tables of some hundred processes that are seen for the first time.
const AHEAD: u32 = 248 * 1024;

/// Work that time alone allows, tick by tick, so that a guest that has used up what was ahead recovers: at worst a thirtieth of the time.
const AHEAD_PER_TICK: u32 = 8 * 1024;

/// Work between two ticks: at worst the whole time of a processor, which takes 6,500 samples or what was ahead; commonly an
/// eightieth of it.
pub(crate) const PER_TICK: u32 = 256 * 1024;

/// What is left.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    ahead: u32,
    tick: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            ahead: AHEAD,
            tick: PER_TICK,
        }
    }
}

impl Budget {
    /// Another period begins.
    pub fn tick(&mut self) {
        self.tick = PER_TICK;
        self.ahead = self.ahead.saturating_add(AHEAD_PER_TICK).min(AHEAD);
    }

    /// Samples came.
    pub fn earn(&mut self, samples: u32) {
        let earned = samples.saturating_mul(PER_SAMPLE);
        self.ahead = self.ahead.saturating_add(earned).min(AHEAD);
    }

    /// Work that the next question may cost, at most `wanted`. Nothing, unless it is worth asking.
    #[must_use]
    pub fn grant(&self, wanted: u32) -> Option<u32> {
        let granted = wanted.min(self.ahead).min(self.tick);
        (granted >= wanted.min(PER_SAMPLE)).then_some(granted)
    }

    /// Work for one question.
    #[must_use]
    pub fn question(&self) -> Option<u32> {
        self.grant(PER_QUESTION)
    }

    /// Work was done.
    pub const fn spend(&mut self, work: u32) {
        self.ahead = self.ahead.saturating_sub(work);
        self.tick = self.tick.saturating_sub(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work that questions of `each` get with `samples` in between, until nothing is granted.
    fn spent(budget: &mut Budget, each: u32, samples: u32) -> u64 {
        let mut spent = 0;
        for _ in 0..100_000 {
            budget.earn(samples);
            let Some(granted) = budget.grant(each) else {
                break;
            };
            budget.spend(granted);
            spent += u64::from(granted);
        }
        spent
    }

    #[test]
    fn questions_that_cost_what_samples_may_are_bounded_by_the_tick_alone() {
        let mut budget = Budget::default();
        assert_eq!(
            spent(&mut budget, PER_SAMPLE, 1),
            u64::from(PER_TICK / PER_SAMPLE * PER_SAMPLE)
        );
        budget.tick();
        assert!(spent(&mut budget, PER_SAMPLE, 1) > u64::from(PER_TICK - 2 * PER_SAMPLE));
    }

    #[test]
    fn dear_questions_are_paid_ahead_and_then_by_samples() {
        let mut budget = Budget::default();
        let first = spent(&mut budget, PER_QUESTION, 0);
        assert!(first > u64::from(AHEAD - PER_SAMPLE) && first <= u64::from(AHEAD));
        assert_eq!(budget.question(), None);
        budget.earn(3);
        assert!(
            budget
                .question()
                .is_some_and(|granted| granted <= 4 * PER_SAMPLE)
        );
    }

    #[test]
    fn what_was_used_up_comes_back_with_time() {
        let mut budget = Budget::default();
        spent(&mut budget, PER_QUESTION, 0);
        budget.tick();
        let recovered = spent(&mut budget, PER_QUESTION, 0);
        assert!(recovered > u64::from(AHEAD_PER_TICK - PER_SAMPLE));
        assert!(recovered <= u64::from(AHEAD_PER_TICK + PER_SAMPLE));
    }

    #[test]
    fn nothing_is_saved_up_beyond_the_bounds() {
        let mut budget = Budget::default();
        budget.earn(u32::MAX);
        budget.tick();
        assert!(spent(&mut budget, PER_QUESTION, 0) <= u64::from(AHEAD));
    }
}
