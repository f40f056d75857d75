//! Sets of vCPUs.

use oprofile_wire::MAX_VCPUS;

const WORD_BITS: usize = u64::BITS as usize;
/// Room for every vCPU that a device can serve.
const WORDS: usize = (MAX_VCPUS as usize).div_ceil(WORD_BITS);

/// A set of vCPUs below [`MAX_VCPUS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet {
    bits: [u64; WORDS],
}

impl CpuSet {
    /// Word and bit of `vcpu`.
    fn place(vcpu: u16) -> (usize, u64) {
        let index = usize::from(vcpu);
        (index / WORD_BITS, 1 << (index % WORD_BITS))
    }

    /// Puts `vcpu` in; one that no device can have is left out.
    pub fn insert(&mut self, vcpu: u16) {
        let (word, bit) = Self::place(vcpu);
        if let Some(word) = self.bits.get_mut(word) {
            *word |= bit;
        }
    }

    /// Takes `vcpu` out.
    pub fn remove(&mut self, vcpu: u16) {
        let (word, bit) = Self::place(vcpu);
        if let Some(word) = self.bits.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Whether `vcpu` is in the set.
    #[must_use]
    pub fn contains(&self, vcpu: u16) -> bool {
        let (word, bit) = Self::place(vcpu);
        self.bits.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether every vCPU of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.bits
            .iter()
            .zip(&other.bits)
            .all(|(mine, theirs)| mine & !theirs == 0)
    }
}

impl FromIterator<u16> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u16>>(vcpus: I) -> Self {
        let mut set = Self::default();
        for vcpu in vcpus {
            set.insert(vcpu);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_last_vcpu_fits_and_impossible_ones_are_left_out() {
        let set: CpuSet = [MAX_VCPUS - 1, u16::MAX].into_iter().collect();
        assert!(set.contains(MAX_VCPUS - 1));
        assert!(!set.contains(u16::MAX));
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(
            ours in prop::collection::btree_set(0..MAX_VCPUS, 0..8),
            extra in prop::collection::btree_set(0..MAX_VCPUS, 0..8),
            gone in 0..MAX_VCPUS)
        {
            let mut all: BTreeSet<u16> = ours.union(&extra).copied().collect();
            let small: CpuSet = ours.iter().copied().collect();
            let mut large: CpuSet = all.iter().copied().collect();
            prop_assert!(small.is_subset(&large));
            all.remove(&gone);
            large.remove(gone);
            prop_assert_eq!(small.is_subset(&large), !ours.contains(&gone));
            for vcpu in 0..MAX_VCPUS {
                prop_assert_eq!(large.contains(vcpu), all.contains(&vcpu));
            }
        }
    }
}
