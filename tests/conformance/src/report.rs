//! What came of a folder of scenarios.

use std::fmt;
use std::path::PathBuf;

/// What came of one scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything as the original did it.
    Passed,
    /// What differs, or why the file cannot be run.
    Failed(Vec<String>),
    /// Why it was not run.
    Skipped(&'static str),
}

/// One file and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of every file of a folder, in order of name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The files.
    pub files: Vec<FileReport>,
}

impl Report {
    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.files
            .iter()
            .filter(|file| which(&file.outcome))
            .count()
    }

    /// Number of scenarios that passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Passed))
    }

    /// Number of scenarios that failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// Number of scenarios that were skipped.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Skipped(_)))
    }
}

/// Every failure with its differences, each reason to skip with its number of files, and the sum as the last line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: Vec<(&str, usize)> = Vec::new();
        for file in &self.files {
            match &file.outcome {
                Outcome::Passed => {}
                Outcome::Failed(differences) => {
                    writeln!(f, "FAILED {}", file.path.display())?;
                    for difference in differences {
                        writeln!(f, "  {difference}")?;
                    }
                }
                Outcome::Skipped(reason) => {
                    match reasons.iter_mut().find(|(known, _)| known == reason) {
                        Some((_, count)) => *count += 1,
                        None => reasons.push((reason, 1)),
                    }
                }
            }
        }
        for (reason, count) in reasons {
            writeln!(f, "skipped {count}: {reason}")?;
        }
        let (passed, failed, skipped) = (self.passed(), self.failed(), self.skipped());
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}
