//! Pseudo-random numbers, the same in each run.

/// Lengths of rounds. Rounds of one length could fall in step with the sampling clock, which would then see the same
/// part of each; unequal ones drift through all phases.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from `low` to `high - 1`; `low` when that range is empty.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        // splitmix64: every seed is good, and one multiply-xor chain spreads its bits.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        match high.checked_sub(low) {
            None | Some(0) => low,
            Some(span) => low + z % span,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_range_and_fill_it() {
        let mut random = Random::new(1);
        let mut seen = [0_u32; 8];
        for _ in 0..800 {
            seen[usize::try_from(random.between(10, 18) - 10).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&n| n > 50), "{seen:?}");
    }

    #[test]
    fn empty_range_gives_its_start() {
        assert_eq!(Random::new(7).between(5, 5), 5);
        assert_eq!(Random::new(7).between(5, 4), 5);
    }
}
