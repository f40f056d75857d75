//! Work in the proportions of a [`Group`].

use guest_rt::dl::Work;
use guest_rt::sys;
use guest_truth::{Group, Image};

use crate::random::Random;

/// Least and most iterations per percent in a round: 20,000 to 60,000 in all, well below a millisecond on any machine
/// in sight, so that shares hold over any window worth looking at.
const UNIT: (u64, u64) = (200, 600);

/// The functions of a group, in its order.
#[derive(Clone, Copy, Debug)]
pub struct Plan<const N: usize> {
    percent: [u64; N],
    work: [Work; N],
}

impl<const N: usize> Plan<N> {
    /// Pairs functions with the shares of `group`.
    ///
    /// # Panics
    /// At compile time, when their names are not the group's.
    #[must_use]
    pub const fn new(group: &Group, names: [&str; N], work: [Work; N]) -> Self {
        assert!(group.shares.len() == N, "a function or a share is missing");
        let mut percent = [0; N];
        let mut index = 0;
        while index < N {
            let share = &group.shares[index];
            let named = match share.image {
                Image::Anonymous => "",
                Image::File(_) | Image::Module(_) | Image::Kernel => names[index],
            };
            assert!(same(named, share.symbol), "functions in another order");
            percent[index] = share.percent as u64;
            index += 1;
        }
        Self { percent, work }
    }

    /// One round: `unit` iterations per percent, once around from `start` percent of the plan. What lies before `start` in the
    /// function that begins is done last.
    pub fn round(&self, unit: u64, start: u64) {
        for lap in [start..u64::MAX, 0..start] {
            let mut begin = 0;
            for (&percent, work) in self.percent.iter().zip(self.work) {
                let end = begin + percent;
                let part = end.min(lap.end).saturating_sub(begin.max(lap.start));
                if part > 0 {
                    work(unit * part);
                }
                begin = end;
            }
        }
    }
}

/// Rounds of the plan until `clock_ns` reaches `deadline`, at least one.
///
/// Each begins at random in the plan, so that the shares hold at any distance from the start. Were it a whole function, drawn
/// evenly, that began, then a rare one would have more than its share of a young process's time, and that is sampled more
/// often than the rest: where starting made an interrupt wait, it comes right behind.
pub fn run_until<const N: usize>(plan: &Plan<N>, deadline: u64) {
    let mut random = Random::new(deadline);
    loop {
        let unit = random.between(UNIT.0, UNIT.1);
        plan.round(unit, random.between(0, 100));
        if sys::clock_ns() >= deadline {
            return;
        }
    }
}

const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering};

    static DONE: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

    extern "C" fn first(n: u64) -> u64 {
        DONE[0].fetch_add(n, Ordering::Relaxed)
    }
    extern "C" fn second(n: u64) -> u64 {
        DONE[1].fetch_add(n, Ordering::Relaxed)
    }
    extern "C" fn third(n: u64) -> u64 {
        DONE[2].fetch_add(n, Ordering::Relaxed)
    }

    #[test]
    fn rounds_keep_the_shares_wherever_they_begin() {
        let group = &guest_truth::SHARES;
        let plan = Plan::new(group, ["hot", "warm", "cool"], [first, second, third]);
        for start in [0, 1, 59, 60, 61, 89, 90, 99] {
            for done in &DONE {
                done.store(0, Ordering::Relaxed);
            }
            plan.round(200, start);
            let done = DONE.each_ref().map(|n| n.load(Ordering::Relaxed));
            assert_eq!(done, [12_000, 6_000, 2_000], "from {start}");
        }
    }

    static BEGAN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
    static ROUND: AtomicU64 = AtomicU64::new(0);

    fn begins(index: usize) {
        if ROUND.swap(0, Ordering::Relaxed) == 1 {
            BEGAN[index].fetch_add(1, Ordering::Relaxed);
        }
    }
    extern "C" fn hot(n: u64) -> u64 {
        begins(0);
        n
    }
    extern "C" fn warm(n: u64) -> u64 {
        begins(1);
        n
    }
    extern "C" fn cool(n: u64) -> u64 {
        begins(2);
        n
    }

    #[test]
    fn functions_begin_as_often_as_their_shares_say() {
        let plan = Plan::new(
            &guest_truth::SHARES,
            ["hot", "warm", "cool"],
            [hot, warm, cool],
        );
        for start in 0..100 {
            ROUND.store(1, Ordering::Relaxed);
            plan.round(1, start);
        }
        let began = BEGAN.each_ref().map(|n| n.load(Ordering::Relaxed));
        assert_eq!(began, [60, 30, 10]);
    }

    #[test]
    #[should_panic(expected = "another order")]
    fn functions_in_another_order_are_refused() {
        let group = &guest_truth::SHARES;
        let _ = Plan::new(group, ["warm", "hot", "cool"], [first, second, third]);
    }
}
