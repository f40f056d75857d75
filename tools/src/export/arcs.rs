//! Callers from call-graph files.
//!
//! Such a file holds arcs, not chains: how often a frame at one offset was seen right above a frame at another. An arc whose
//! callee is the sampled instruction itself ends a chain there; that much is certain. What lay above the caller is not known,
//! since the arcs of all chains are mixed. So stacks have two frames where an arc says who called, and one where none does.

use std::collections::BTreeMap;

/// Arcs of one callee image, by the lower 32 bits of the callee's key.
pub type Callers<C> = BTreeMap<u32, BTreeMap<C, u64>>;

/// Divides the `count` samples of one instruction among its callers, whose arcs are `callers`.
///
/// The parts and the rest (samples without a caller) add up to `count`. An instruction may be a return address of longer chains
/// too and have more arcs than samples: then each caller gets its share, rounded so that the sum is right.
pub fn divide<C: Clone>(count: u64, callers: &BTreeMap<C, u64>) -> (Vec<(C, u64)>, u64) {
    let arcs: u128 = callers.values().map(|arcs| u128::from(*arcs)).sum();
    if arcs <= u128::from(count) {
        let parts: Vec<(C, u64)> = callers
            .iter()
            .map(|(caller, arcs)| (caller.clone(), *arcs))
            .collect();
        let known = u64::try_from(arcs).unwrap_or(count);
        return (parts, count - known);
    }
    // Running sums are rounded down, not the parts: the last one is exact, so nothing is lost or made up.
    let (mut before, mut given) = (0_u128, 0_u64);
    let parts = callers
        .iter()
        .map(|(caller, share)| {
            before += u128::from(*share);
            // At most `count`: no truncation. The product is below 2¹²⁸, see `scaled`.
            let upto = scaled(count, before, arcs);
            let part = upto - given;
            given = upto;
            (caller.clone(), part)
        })
        .collect();
    (parts, 0)
}

/// `count · part / whole` for `part ≤ whole`.
fn scaled(count: u64, part: u128, whole: u128) -> u64 {
    // Sums of more than 2⁶⁴ are made smaller until the product fits; equal parts stay equal.
    let excess = u128::BITS - whole.leading_zeros();
    let shift = excess.saturating_sub(u64::BITS);
    let (part, whole) = (part >> shift, (whole >> shift).max(1));
    u64::try_from(u128::from(count) * part / whole).unwrap_or(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn arcs_within_the_samples_are_taken_as_they_are() {
        let callers = BTreeMap::from([("a", 3), ("b", 4)]);
        assert_eq!(divide(10, &callers), (vec![("a", 3), ("b", 4)], 3));
        assert_eq!(divide(7, &callers), (vec![("a", 3), ("b", 4)], 0));
    }

    #[test]
    fn arcs_beyond_the_samples_are_scaled_down() {
        let callers = BTreeMap::from([("a", 10), ("b", 10), ("c", 10)]);
        assert_eq!(
            divide(10, &callers),
            (vec![("a", 3), ("b", 3), ("c", 4)], 0)
        );
    }

    proptest! {
        #[test]
        fn parts_and_rest_are_the_whole(
            count in any::<u64>(),
            callers in prop::collection::btree_map(any::<u16>(), prop_oneof![1..100_u64, any::<u64>()], 0..20),
        ) {
            let (parts, rest) = divide(count, &callers);
            let sum: u128 = parts.iter().map(|(_, part)| u128::from(*part)).sum();
            prop_assert_eq!(sum + u128::from(rest), u128::from(count));
            // Rounding of sums that had to be made smaller may give a caller one more.
            let arcs: u128 = callers.values().map(|arcs| u128::from(*arcs)).sum();
            if arcs <= u128::from(u64::MAX) {
                prop_assert!(parts.iter().all(|(caller, part)| *part <= callers[caller]));
            }
        }
    }
}
