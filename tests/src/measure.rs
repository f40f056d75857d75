//! A session's profile, measured against what is true by construction.

use std::path::Path;

use oprofile_images::truth::{Group, Image, Share};
use oprofile_session::sample_path::ImageName;
use oprofile_tools::classes::Merge;
use oprofile_tools::error::ToolError;
use oprofile_tools::profile::Selection;
use oprofile_tools::session::Places;
use oprofile_tools::spec::Specification;

/// One line of a profile: all vCPUs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Path of the program that ran, in the guest; the image itself for kernel code.
    pub application: String,
    /// Path of the file that the code lies in; `None` for an anonymous region.
    pub image: Option<String>,
    /// The function, mangled; the image's name where it has no symbols.
    pub symbol: String,
    /// Samples.
    pub samples: u64,
}

/// The profile of a session by function.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Its lines, in no order.
    pub rows: Vec<Row>,
}

impl Profile {
    /// Reads a session directory, with the guest's files that it carries.
    ///
    /// # Errors
    /// As `opreport`.
    pub fn read(session: &Path) -> Result<Self, ToolError> {
        let spec = Specification::default();
        let places = Places::find(Some(session), None, &spec);
        let merge = Merge::parse(&["cpu".to_owned()])?;
        let selection = Selection::new(&places, &spec, merge, false)?;
        let mut rows = Vec::new();
        for image in 0..selection.images.len() {
            let profile = selection.read_image(image)?;
            for app in &profile.apps {
                for samples in &app.symbols {
                    let symbol = profile.symbols.symbol(samples.symbol);
                    let name = profile.symbols.name(symbol);
                    rows.push(Row {
                        application: path(&selection.images[app.app].name).unwrap_or_default(),
                        image: path(&selection.images[image].name),
                        symbol: String::from_utf8_lossy(&name).into_owned(),
                        samples: samples.counts.iter().sum(),
                    });
                }
            }
        }
        Ok(Self { rows })
    }

    /// Samples in the rows that `matches`.
    pub fn samples(&self, matches: impl Fn(&Row) -> bool) -> u64 {
        self.rows
            .iter()
            .filter(|row| matches(row))
            .map(|row| row.samples)
            .sum()
    }

    /// Measures a group.
    #[must_use]
    pub fn measure(&self, group: &'static Group) -> Measured {
        let counts: Vec<u64> = group
            .shares
            .iter()
            .map(|share| self.samples(|row| is_part(row, share)))
            .collect();
        Measured {
            group,
            samples: counts.iter().sum(),
            counts,
        }
    }
}

/// What a profile says of a group.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The group.
    pub group: &'static Group,
    /// Samples of all its functions.
    pub samples: u64,
    /// Samples of each, in the group's order.
    pub counts: Vec<u64>,
}

/// One function: what is true, and what was measured, in percent of the group.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The function.
    pub share: &'static Share,
    /// Its samples.
    pub samples: u64,
    /// Its part of the samples in percent; 0 without samples.
    pub percent: f64,
}

impl Line {
    /// Distance from the truth, in percentage points.
    #[must_use]
    pub fn error(&self) -> f64 {
        (self.percent - f64::from(self.share.percent)).abs()
    }
}

/// How far a true share may be off when it is measured with so many samples, in percentage points: four standard deviations, and a point
/// for what programs do besides. Chance exceeds that once in 15,000 times.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of samples are far below 2^52"
)]
pub fn tolerance(percent: f64, samples: u64) -> f64 {
    4.0 * (percent * (100.0 - percent) / samples.max(1) as f64).sqrt() + 1.0
}

impl Measured {
    /// Each function.
    pub fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        self.group
            .shares
            .iter()
            .zip(&self.counts)
            .map(|(share, &samples)| Line {
                share,
                samples,
                percent: percent(samples, self.samples),
            })
    }

    /// The largest distance from the truth, in percentage points.
    #[must_use]
    pub fn worst_error(&self) -> f64 {
        self.lines().map(|line| line.error()).fold(0.0, f64::max)
    }

    /// Whether each share is as near to the truth as its samples can tell: few of them tell little.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.lines().all(|line| {
            let percent = f64::from(line.share.percent);
            line.error() <= tolerance(percent, self.samples)
        })
    }
}

/// `part` of `whole` in percent, 0 of nothing.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of samples are far below 2^52"
)]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

/// Whether a row is what the share speaks of. Kernel code is filed under itself, so its program is not compared.
fn is_part(row: &Row, share: &Share) -> bool {
    let image = row.image.as_deref();
    match share.image {
        Image::File(path) => {
            image == Some(path)
                && share.application == Some(&*row.application)
                && row.symbol == share.symbol
        }
        Image::Anonymous => image.is_none() && share.application == Some(&*row.application),
        Image::Module(name) => {
            image.is_some_and(|path| path.ends_with(&format!("/{name}.ko")))
                && row.symbol == share.symbol
        }
        Image::Kernel => {
            image.is_some_and(|path| path.starts_with("/boot/")) && row.symbol == share.symbol
        }
    }
}

/// Path of an image that is a file.
fn path(image: &ImageName) -> Option<String> {
    match image {
        ImageName::Root(path) | ImageName::Kern(path) => {
            Some(String::from_utf8_lossy(path).into_owned())
        }
        ImageName::Anon { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_images::truth;

    fn row(application: &str, image: Option<&str>, symbol: &str, samples: u64) -> Row {
        Row {
            application: application.to_owned(),
            image: image.map(str::to_owned),
            symbol: symbol.to_owned(),
            samples,
        }
    }

    #[test]
    fn shares_are_relative_to_the_group_and_other_rows_do_not_count() {
        let program = Some("/bin/shares");
        let profile = Profile {
            rows: vec![
                row("/bin/shares", program, "hot", 120),
                row("/bin/shares", program, "warm", 60),
                row("/bin/shares", program, "cool", 20),
                row("/bin/shares", program, "_start", 900),
                row("/bin/other", program, "hot", 900),
            ],
        };
        let measured = profile.measure(&truth::SHARES);
        assert_eq!(measured.samples, 200);
        assert!(measured.worst_error() < 1e-9);
    }

    #[test]
    fn a_wrong_share_shows() {
        let profile = Profile {
            rows: vec![
                row("/bin/jit", None, "anon", 50),
                row("/bin/jit", Some("/bin/jit"), "interpreted", 50),
            ],
        };
        let measured = profile.measure(&truth::JIT);
        assert!((measured.worst_error() - 15.0).abs() < 1e-9);
    }

    #[test]
    fn more_samples_are_held_to_a_truth_more_closely() {
        for (samples, points) in [(100, 20.6), (2_500, 4.92), (10_000, 2.96)] {
            assert!(
                (tolerance(40.0, samples) - points).abs() < 0.01,
                "{samples}"
            );
        }
        // 54 percent of what is 60 percent.
        let measured = |samples: u64| Measured {
            group: &truth::SHARES,
            samples,
            counts: [54, 34, 12].map(|percent| percent * samples / 100).to_vec(),
        };
        assert!(measured(1_000).is_true());
        assert!(!measured(4_000).is_true());
    }

    #[test]
    fn nothing_measured_is_not_the_truth() {
        let measured = Profile::default().measure(&truth::TRAP);
        assert_eq!(measured.samples, 0);
        assert!((measured.worst_error() - 50.0).abs() < 1e-9);
    }
}
