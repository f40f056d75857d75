//! What came of a folder of cases.

use std::collections::BTreeSet;
use std::fmt;

/// Lines told of the differences of one case.
const MAX_LINES: usize = 60;

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As the original did it, or better where better is asked for.
    Passed,
    /// What differs.
    Failed(Vec<String>),
    /// The original is wrong here and nothing says what would be right; whether ours is alike.
    Defect {
        /// Ours did the same.
        alike: bool,
    },
    /// The machine lacks what the case needs.
    NotRun(String),
}

/// One case and what came of it.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// The case's id.
    pub id: String,
    /// Tool and arguments.
    pub command: String,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of all cases, in their order.
#[derive(Clone, Debug)]
pub struct Report {
    /// The cases.
    pub cases: Vec<CaseReport>,
    /// Ids of cases that are known to fail.
    pub expected_failures: BTreeSet<String>,
}

impl Report {
    fn count(&self, which: impl Fn(&Verdict) -> bool) -> usize {
        self.cases
            .iter()
            .filter(|case| which(&case.verdict))
            .count()
    }

    /// Number of cases that passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.count(|verdict| *verdict == Verdict::Passed)
    }

    /// Number of cases that failed, whether or not that was known.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.count(|verdict| matches!(verdict, Verdict::Failed(_)))
    }

    /// Cases that failed and are not on the list.
    pub fn broken(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| {
            matches!(case.verdict, Verdict::Failed(_)) && !self.expected_failures.contains(&case.id)
        })
    }

    /// Cases that are on the list and passed.
    pub fn solved(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| {
            case.verdict == Verdict::Passed && self.expected_failures.contains(&case.id)
        })
    }

    /// Whether exactly those failed that are known to.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        self.broken().next().is_none() && self.solved().next().is_none()
    }

    /// Every failure with what differs, `known` ones too or not; then what does not agree with the list.
    pub fn write_details(&self, f: &mut impl fmt::Write, known: bool) -> fmt::Result {
        for case in &self.cases {
            let is_known = self.expected_failures.contains(&case.id);
            match &case.verdict {
                Verdict::Failed(differences) if known || !is_known => {
                    writeln!(f, "FAILED {}: {}", case.id, case.command)?;
                    for line in differences.iter().take(MAX_LINES) {
                        writeln!(f, "    {line}")?;
                    }
                    if differences.len() > MAX_LINES {
                        writeln!(f, "    … {} more lines", differences.len() - MAX_LINES)?;
                    }
                }
                Verdict::NotRun(need) => {
                    writeln!(f, "not run {}: there is no {need}", case.id)?;
                }
                _ => {}
            }
        }
        for case in self.solved() {
            writeln!(
                f,
                "passes, but is in {}: {}",
                crate::expected::FILE,
                case.id
            )?;
        }
        Ok(())
    }
}

/// All numbers in one line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defects = self.count(|verdict| matches!(verdict, Verdict::Defect { .. }));
        let alike = self.count(|verdict| *verdict == Verdict::Defect { alike: true });
        let not_run = self.count(|verdict| matches!(verdict, Verdict::NotRun(_)));
        let broken = self.broken().count();
        write!(
            f,
            "{} passed, {} failed ({} known to, {broken} not; {} passed that are known to fail; not judged: {defects} defects of \
             the original, {alike} of them alike; {not_run} not run)",
            self.passed(),
            self.failed(),
            self.failed() - broken,
            self.solved().count(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(expected: &[&str]) -> Report {
        let case = |id: &str, verdict| CaseReport {
            id: id.to_owned(),
            command: "opreport".to_owned(),
            verdict,
        };
        Report {
            cases: vec![
                case("good", Verdict::Passed),
                case("bad", Verdict::Failed(vec!["-a".to_owned()])),
                case("wrong", Verdict::Defect { alike: false }),
            ],
            expected_failures: expected.iter().map(|&id| id.to_owned()).collect(),
        }
    }

    #[test]
    fn exactly_the_known_failures_are_as_expected() {
        assert!(report(&["bad"]).is_as_expected());
        assert!(!report(&[]).is_as_expected());
        assert!(!report(&["bad", "good"]).is_as_expected());
        assert!(!report(&["good"]).is_as_expected());
    }

    #[test]
    fn known_failures_are_failures() {
        let line = report(&["bad"]).to_string();
        assert!(
            line.starts_with("1 passed, 1 failed (1 known to, 0 not"),
            "{line}"
        );
    }

    #[test]
    fn details_of_known_failures_are_left_out_on_demand() {
        let details = |known| {
            let mut text = String::new();
            report(&["bad"]).write_details(&mut text, known).unwrap();
            text
        };
        assert!(details(false).is_empty());
        assert!(details(true).contains("FAILED bad: opreport\n    -a"));
    }
}
