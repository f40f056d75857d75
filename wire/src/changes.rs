//! Change words: how a driver tells, without an exit, that an address space loses executable mappings.
//!
//! The driver keeps [`WORDS`] of them in guest memory and tells where in its hello, when
//! [`capability::CHANGE_WORDS`](crate::config::capability::CHANGE_WORDS) is in force. A word stands for all address spaces with its
//! [`index`]. Its low half counts changes that have begun, its high half those that have ended, both wrapping. What a device has seen of
//! an address space still holds when the word is the one that it was before, and no change was under way.

/// Number of change words: a few spaces share each on a busy machine, and all of them fit four pages.
pub const WORDS: usize = 1 << INDEX_BITS;

/// Bytes of all change words, 16 KiB.
pub const BYTES: usize = WORDS * size_of::<u64>();

/// Offset in a word of the `u32` that counts changes that have begun.
pub const BEGUN: usize = 0;

/// Offset in a word of the `u32` that counts changes that have ended.
pub const ENDED: usize = 4;

const INDEX_BITS: u32 = 11;

/// 2^64 divided by the golden ratio: spreads pointers that differ in any bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Index of the word of the address space whose pointer is `space`, below [`WORDS`].
#[must_use]
pub const fn index(space: u64) -> usize {
    (space.wrapping_mul(SPREAD) >> (u64::BITS - INDEX_BITS)) as usize
}

/// Whether every change that has begun has ended.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub const fn is_settled(word: u64) -> bool {
    (word >> 32) as u32 == word as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_spaces_spread_over_the_words() {
        let mut hit = [false; WORDS];
        for number in 0..WORDS as u64 {
            // As a slab of Linux lays `mm_struct` out.
            hit[index(0xffff_8880_0123_4000 + number * 1_088)] = true;
        }
        let used = hit.into_iter().filter(|&hit| hit).count();
        assert!(used > WORDS / 2, "{used}");
    }

    #[test]
    fn a_word_is_settled_when_its_halves_are_equal() {
        assert!(is_settled(0));
        assert!(is_settled(0xffff_ffff_ffff_ffff));
        assert!(!is_settled(1));
        assert!(!is_settled(0x0000_0001_0000_0002));
    }
}
