//! Profiles in the formats of other viewers.
//!
//! [`read`] makes a [`model::Profile`] of a session, [`arcs`] gives its samples callers, and each format has a module that
//! writes the model.

pub mod arcs;
pub mod firefox;
pub mod flamegraph;
pub mod folded;
pub mod json;
pub mod model;
pub mod perf_script;
pub mod pprof;
pub mod proto;
pub mod read;
pub mod speedscope;

use std::io::{self, Write};

use model::Profile;

/// Most samples in a text with a record for each: some 2 GB.
const MAX_RECORDS: u128 = 10_000_000;
/// Numbers up to here are exact in readers that know doubles only.
const MAX_DOUBLE: u128 = 1 << 53;

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Stacks as text, one a line
    Folded,
    /// Flame graph, an SVG image
    Flamegraph,
    /// pprof's profile.proto, compressed
    Pprof,
    /// Firefox Profiler, JSON
    Firefox,
    /// speedscope, JSON
    Speedscope,
    /// Text as `perf script` writes it
    PerfScript,
    /// All that is known, JSON
    Json,
}

impl Format {
    /// Whether a terminal is no place for it.
    pub fn is_binary(self) -> bool {
        self == Self::Pprof
    }

    /// Largest total that the format can hold.
    fn most_samples(self) -> u128 {
        match self {
            Self::Folded | Self::Flamegraph | Self::Json => u128::from(u64::MAX),
            Self::Pprof => i64::MAX.unsigned_abs().into(),
            Self::Firefox | Self::Speedscope => MAX_DOUBLE,
            Self::PerfScript => MAX_RECORDS,
        }
    }
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The counts do not fit.
    #[error(
        "The profile has {found} samples, {limit} are the limit of this format. Choose fewer by a profile specification, or the formats json or folded"
    )]
    TooManySamples {
        /// Samples of the profile.
        found: u128,
        /// The limit.
        limit: u128,
    },
    /// The output cannot be written.
    #[error("Cannot write the output")]
    Output(#[from] io::Error),
}

impl From<serde_json::Error> for ExportError {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}

/// Writes `profile`; `title` is for people.
pub fn write(
    profile: &Profile,
    format: Format,
    title: &str,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let (found, limit) = (profile.total(), format.most_samples());
    if found > limit {
        return Err(ExportError::TooManySamples { found, limit });
    }
    match format {
        Format::Folded => folded::write(profile, out)?,
        Format::Flamegraph => flamegraph::write(profile, title, out)?,
        Format::Pprof => pprof::write(profile, title, out)?,
        Format::Firefox => firefox::write(profile, title, out)?,
        Format::Speedscope => speedscope::write(profile, title, out)?,
        Format::PerfScript => perf_script::write(profile, out)?,
        Format::Json => json::write(profile, out)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_beyond_a_format_is_refused() {
        let mut profile = model::tests::example();
        profile.samples[0].count = 1 << 53;
        let mut out = Vec::new();
        for format in [Format::PerfScript, Format::Firefox, Format::Speedscope] {
            let refused = write(&profile, format, "", &mut out);
            assert!(matches!(refused, Err(ExportError::TooManySamples { .. })));
        }
        assert!(out.is_empty());
        write(&profile, Format::Json, "", &mut out).unwrap();
        assert!(!out.is_empty());
    }
}
