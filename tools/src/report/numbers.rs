//! Numbers as OProfile prints them.

use crate::profile::Counts;

/// Sum by class.
pub(super) fn sum<'a>(rows: impl Iterator<Item = &'a Counts>, classes: usize) -> Counts {
    let mut total = vec![0u64; classes];
    for row in rows {
        for (sum, count) in total.iter_mut().zip(row) {
            *sum = sum.saturating_add(*count);
        }
    }
    total
}

/// `count` in percent of `total`, 0 when there is nothing.
pub fn percent(count: u64, total: u64) -> f64 {
    if total == 0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "six digits are shown")]
    let ratio = count as f64 / total as f64;
    ratio * 100.0
}

/// Below this, four decimals would hold less than two digits.
const SMALLEST_FIXED: f64 = 0.001;

/// A percentage in at most seven characters: four decimals, none for 0, a power of ten below [`SMALLEST_FIXED`].
pub fn format_percent(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value < SMALLEST_FIXED {
        let scientific = format!("{value:.1e}");
        return match scientific.split_once("e-") {
            Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
            None => scientific,
        };
    }
    let fixed = format!("{value:.4}");
    if fixed.len() > 7 {
        format!("{value:.3}")
    } else {
        fixed
    }
}

/// Whether a row is shown: not below the threshold in every class.
pub fn reaches(counts: &[u64], total: &[u64], threshold: f64) -> bool {
    threshold <= 0.0
        || counts
            .iter()
            .zip(total)
            .any(|(count, total)| percent(*count, *total) >= threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_oprofiles_form() {
        for (count, total, text) in [
            (1, 1, "100.000"),
            (576_967, 1_000_000, "57.6967"),
            (73_652, 1_000_000, "7.3652"),
            (431, 1_000_000, "0.0431"),
            (0, 5, "0"),
            (0, 0, "0"),
            (3, 16_884_901_875, "1.8e-08"),
            (41, 10_000_000, "4.1e-04"),
            (1, 1_000_000_000_000, "1.0e-10"),
        ] {
            assert_eq!(format_percent(percent(count, total)), text);
        }
    }

    #[test]
    fn row_is_hidden_when_below_the_threshold_everywhere() {
        assert!(reaches(&[1, 50], &[100, 100], 10.0));
        assert!(!reaches(&[1, 9], &[100, 100], 10.0));
        assert!(reaches(&[0, 0], &[0, 0], 0.0));
    }
}
