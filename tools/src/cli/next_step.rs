//! What to do about an error, beside what went wrong.

use std::io::ErrorKind;

use oprofile_control::ClientError;
use oprofile_session::sample_file::SampleFileError;

use crate::error::ToolError;
use crate::image::is_missing;
use crate::session::Places;

/// What a person can do about samples that cannot be read, one or more lines; `None` when the error says it. `places` is
/// where they were looked for.
pub fn for_session(error: &ToolError, places: &[&Places]) -> Option<String> {
    let source = match error {
        ToolError::NoSamples => {
            let steps: Vec<String> = places.iter().map(|places| places.next_step()).collect();
            return Some(steps.join("\n"));
        }
        ToolError::TooStrict => {
            return Some(
                "There are samples, but the profile specification selects none of them: opreport without one shows what there is."
                    .to_owned(),
            );
        }
        ToolError::Directory { source, .. } => Some(source),
        ToolError::SampleFile {
            source: SampleFileError::Io(source),
            ..
        } => Some(source),
        ToolError::Name { .. } | ToolError::SampleFile { .. } => None,
        _ => return None,
    };
    let step = match source.map(std::io::Error::kind) {
        Some(ErrorKind::PermissionDenied) => {
            "The session belongs to another user: try as the one that the VM ran as."
        }
        Some(_) => return None,
        None => "Move this file out of the session to read the rest.",
    };
    Some(step.to_owned())
}

/// What a person can do when these warnings say that binaries are missing.
pub fn for_warnings<'a>(mut warnings: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    warnings.any(is_missing).then_some(
        "To see the functions of missing binaries, name the profiled machine's files by --root=DIR, or trees with them by --image-path=DIR.",
    )
}

/// What a person can do when a VM does not answer as it should; `None` when the error says it.
#[must_use]
pub fn for_vm(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::Closed => Some(
            "If it has ended, its standard error says how, and opreport --session-dir=DIR reads its session.",
        ),
        ClientError::TimedOut => Some("It may be stopped or very busy: try again when it runs."),
        ClientError::Frame(_) | ClientError::Message(_) | ClientError::Unexpected(_) => {
            Some("--socket= takes the path that --oprofile-dev socket= of the VM has.")
        }
        ClientError::Version { .. } => Some("Use the tools that were built with the VM's program."),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Specification;

    #[test]
    fn every_place_without_samples_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let places = |name: &str| {
            let session = directory.path().join(name);
            Places::find(Some(&session), None, &Specification::default())
        };
        let (a, b) = (places("a"), places("b"));
        let step = for_session(&ToolError::NoSamples, &[&a, &b]).unwrap();
        assert!(step.contains("/a/samples/current") && step.contains("/b/samples/current"));
        assert!(step.contains("--session-dir=DIR"), "{step}");
    }

    #[test]
    fn what_one_may_not_read_belongs_to_somebody() {
        let error = ToolError::Directory {
            path: "/s".into(),
            source: ErrorKind::PermissionDenied.into(),
        };
        assert!(for_session(&error, &[]).unwrap().contains("user"));
    }
}
