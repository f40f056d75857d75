//! Printed text: what of it counts.

use std::sync::LazyLock;

use regex::Regex;
use similar::TextDiff;

use crate::run::{DIR, OUT};

#[expect(clippy::unwrap_used, reason = "patterns of this file")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

static BLANKS: LazyLock<Regex> = LazyLock::new(|| pattern("[ \t]+"));
static COUNTED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^( \* )?Counted \S+ events? \("));
static DESCRIPTIONS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\(.*?\) with a unit mask of (0x[0-9a-f]+) \(.*\) count"));
static RULE: LazyLock<Regex> = LazyLock::new(|| pattern("^-{60,}$"));
static ROW: LazyLock<Regex> = LazyLock::new(|| pattern(r"^ +\d+ +[\d.e-]+ \S"));
static COUNT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s*(?:[0-9a-f]{8,16} )?\s*(\d+) "));
static COMPLAINT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        "(?i)warning|error|invalid|illegal|cannot|could not|fail|must|not |too strict|missing|unknown|option|specify",
    )
});

/// The lines of `text` as they are compared: no blanks at the end of a line and no empty lines at the end, one blank for many
/// beside a path of the copy (columns are as wide as paths), no description of an event, which is made up.
#[must_use]
pub fn normal(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.split('\n').map(normal_line).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn normal_line(line: &str) -> String {
    let mut line = line.trim_end().to_owned();
    if line.contains(DIR) || line.contains(OUT) {
        line = BLANKS.replace_all(&line, " ").into_owned();
    }
    if COUNTED.is_match(&line) {
        let without = "(...) with a unit mask of $1 (...) count";
        line = DESCRIPTIONS.replace_all(&line, without).into_owned();
    }
    line
}

/// Whether both are the same but for the order of rows with equal counts.
#[must_use]
pub fn equal_but_ties(expected: &[String], actual: &[String]) -> bool {
    counts(expected) == counts(actual) && blocks(expected) == blocks(actual)
}

/// The count that each line begins with, after an address perhaps.
fn counts(lines: &[String]) -> Vec<Option<&str>> {
    let count = |line| Some(COUNT.captures(line)?.get(1)?.as_str());
    lines.iter().map(|line| count(line)).collect()
}

/// Rows with the details that follow them, or blocks of a call graph, sorted.
fn blocks(lines: &[String]) -> Vec<Vec<&str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    if lines.iter().any(|line| RULE.is_match(line)) {
        for block in lines.split(|line| RULE.is_match(line)) {
            let mut block: Vec<&str> = block.iter().map(String::as_str).collect();
            block.sort_unstable();
            blocks.push(block);
        }
    } else {
        for line in lines {
            let is_detail =
                (line.starts_with("  ") || line.starts_with('\t')) && !ROW.is_match(line);
            match blocks.last_mut() {
                Some(block) if is_detail => block.push(line),
                _ => blocks.push(vec![line]),
            }
        }
    }
    blocks.sort_unstable();
    blocks
}

/// Whether `stderr` holds a warning or an error.
#[must_use]
pub fn complains(stderr: &str) -> bool {
    COMPLAINT.is_match(stderr)
}

/// The differences in unified form; nothing when there are none.
#[must_use]
pub fn diff(expected: &[String], actual: &[String], what: &str) -> Vec<String> {
    if expected == actual {
        return Vec::new();
    }
    let joined = |lines: &[String]| {
        lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let (expected, actual) = (joined(expected), joined(actual));
    let diff = TextDiff::from_lines(&expected, &actual);
    let text = diff
        .unified_diff()
        .context_radius(2)
        .header(&format!("expected {what}"), &format!("actual {what}"))
        .to_string();
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_at_ends_do_not_count_and_others_do() {
        assert_eq!(normal("a \nb\n\n"), normal("a\nb"));
        assert_ne!(normal("a  b"), normal("a b"));
        assert_ne!(normal("\na"), normal("a"));
    }

    #[test]
    fn beside_a_path_many_blanks_are_one() {
        assert_eq!(normal("@DIR@/x   1"), normal("@DIR@/x 1"));
    }

    #[test]
    fn descriptions_of_events_do_not_count_but_their_masks_do() {
        let line = |what, mask, means| {
            normal(&format!(
                "Counted A events ({what}) with a unit mask of {mask} ({means}) count 1"
            ))
        };
        assert_eq!(line("x", "0x01", "y"), line("p (q)", "0x01", "z (w)"));
        assert_ne!(line("x", "0x01", "y"), line("x", "0x02", "y"));
    }

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn rows_of_equal_count_may_be_exchanged_and_no_others() {
        let rows = |one, its, other, others| {
            lines(&format!(
                "5 {one}\n  0000100a 1 {its}\n5 {other}\n  0000100a 1 {others}"
            ))
        };
        let two = rows("a", "of a", "b", "of b");
        assert!(equal_but_ties(&two, &rows("b", "of b", "a", "of a")));
        assert!(!equal_but_ties(&two, &rows("a", "of b", "b", "of a")));
        assert!(!equal_but_ties(&lines("5 a\n4 b"), &lines("4 b\n5 a")));
    }

    #[test]
    fn blocks_of_a_call_graph_may_be_exchanged() {
        let rule = "-".repeat(79);
        let graph = |one, two| lines(&format!("{one}\n{rule}\n{two}\n{rule}"));
        assert!(equal_but_ties(&graph("5 a", "5 b"), &graph("5 b", "5 a")));
        assert!(!equal_but_ties(&graph("5 a", "5 b"), &graph("5 b", "5 c")));
    }

    #[test]
    fn differences_are_told_with_their_sign() {
        let told = diff(&lines("a\nb"), &lines("a\nc"), "stdout");
        assert!(
            told.contains(&"-b".to_owned()) && told.contains(&"+c".to_owned()),
            "{told:?}"
        );
        assert!(diff(&lines("a"), &lines("a"), "stdout").is_empty());
    }
}
