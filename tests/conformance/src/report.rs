//! What came of a folder of scenarios.

use std::fmt;
use std::path::PathBuf;

use crate::RamShape;

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
    /// How its guest was laid out in RAM, if it was.
    pub shape: Option<RamShape>,
    /// What came of it.
    pub outcome: Outcome,
}

impl FileReport {
    fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }
}

/// What came of every file of a folder, in order of name, for each shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The files.
    pub files: Vec<FileReport>,
}

impl Report {
    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        count(&self.files, which)
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

fn count<'a>(
    files: impl IntoIterator<Item = &'a FileReport>,
    which: impl Fn(&Outcome) -> bool,
) -> usize {
    let files = files.into_iter();
    files.filter(|file| which(&file.outcome)).count()
}

/// A sum of outcomes.
struct Sum([usize; 3]);

impl Sum {
    fn of<'a>(files: impl Iterator<Item = &'a FileReport> + Clone) -> Self {
        Self([
            count(files.clone(), |outcome| matches!(outcome, Outcome::Passed)),
            count(files.clone(), |outcome| {
                matches!(outcome, Outcome::Failed(_))
            }),
            count(files, |outcome| matches!(outcome, Outcome::Skipped(_))),
        ])
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [passed, failed, skipped] = self.0;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Every failure with its differences, each reason to skip with its number of runs and the files, the sum of each shape, and
/// the sum of all as the last line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: Vec<(&str, usize, Vec<&str>)> = Vec::new();
        let mut shapes: Vec<RamShape> = Vec::new();
        for file in &self.files {
            if let Some(shape) = file.shape
                && shapes.last() != Some(&shape)
            {
                shapes.push(shape);
            }
            match &file.outcome {
                Outcome::Passed => {}
                Outcome::Failed(differences) => {
                    write!(f, "FAILED {}", file.path.display())?;
                    match file.shape {
                        Some(shape) => writeln!(f, " ({shape})")?,
                        None => writeln!(f)?,
                    }
                    for difference in differences {
                        writeln!(f, "  {difference}")?;
                    }
                }
                Outcome::Skipped(reason) => {
                    let known = reasons.iter_mut().find(|(known, ..)| known == reason);
                    match known {
                        Some((_, count, names)) => {
                            *count += 1;
                            if !names.contains(&file.name()) {
                                names.push(file.name());
                            }
                        }
                        None => reasons.push((reason, 1, vec![file.name()])),
                    }
                }
            }
        }
        for (reason, count, names) in reasons {
            writeln!(f, "skipped {count}: {reason} ({})", names.join(", "))?;
        }
        for shape in shapes {
            let files = self.files.iter().filter(|file| file.shape == Some(shape));
            writeln!(f, "{shape}: {}", Sum::of(files))?;
        }
        write!(f, "{}", Sum::of(self.files.iter()))
    }
}
