//! The columns at the left of an annotated line.

use std::fmt::Write as _;

use crate::profile::Counts;
use crate::report::{format_percent, percent};

/// Width of a class with the blanks that may follow it.
const CLASS_WIDTH: usize = 16;

/// Count and percentage of `total` for each class.
pub(super) fn columns(counts: &Counts, total: &Counts) -> String {
    let mut text = String::new();
    for (count, total) in counts.iter().zip(total) {
        let share = format_percent(percent(*count, *total));
        // Infallible for a String.
        let _ = write!(text, "{count:>6} {share:>7}");
    }
    text
}

/// What stands before a line, up to and including the colon; blanks when the line was not hit.
pub(super) fn margin(counts: Option<&Counts>, total: &Counts) -> String {
    let width = (CLASS_WIDTH * total.len()).saturating_sub(2);
    let text = counts.map_or_else(String::new, |counts| columns(counts, total));
    format!("{text:<width$} :")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margin_is_as_wide_with_samples_as_without() {
        assert_eq!(margin(Some(&vec![301]), &vec![11595]), "   301  2.5959 :");
        assert_eq!(margin(None, &vec![11595]), "               :");
        let total = vec![18395, 9445];
        let text = margin(Some(&vec![49, 0]), &total);
        assert_eq!(text, "    49  0.2664     0       0   :");
        assert_eq!(margin(None, &total).len(), text.len());
    }

    #[test]
    fn large_counts_push_the_colon_away() {
        assert_eq!(
            margin(Some(&vec![12_345_678]), &vec![12_345_678]),
            "12345678 100.000 :"
        );
    }
}
