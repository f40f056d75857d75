//! What all files of a session have to agree in.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::sample_file::Header;
use super::{Report, Rule};
use crate::sample_path::{ImageName, SamplePath};

/// What the headers of an image's files said first.
#[derive(Debug, Clone, Copy)]
struct Image {
    mtime: u64,
    is_kernel: u32,
}

/// What has been seen of a session.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    guest_tree: Option<PathBuf>,
    images: HashMap<ImageName, Image>,
    events: BTreeSet<(String, String, String)>,
    tgids: BTreeSet<String>,
    tids: BTreeSet<String>,
    cpus: BTreeSet<String>,
    /// Whether some file is of a thread other than the first of its group.
    threads_differ: bool,
}

impl Agreement {
    pub(super) fn new(guest_tree: Option<PathBuf>) -> Self {
        Self {
            guest_tree,
            ..Self::default()
        }
    }

    /// Checks one more file.
    pub(super) fn check(
        &mut self,
        path: &Path,
        name: &SamplePath,
        header: &Header,
        report: &mut Report,
    ) {
        let spec = name.spec.clone();
        self.threads_differ |= spec.tgid != spec.tid;
        self.events.insert((spec.event, spec.count, spec.unit_mask));
        self.tgids.insert(spec.tgid);
        self.tids.insert(spec.tid);
        self.cpus.insert(spec.cpu);

        let image = Image {
            mtime: header.mtime,
            is_kernel: header.is_kernel,
        };
        match self.images.get(&name.image) {
            None => {
                self.images.insert(name.image.clone(), image);
                self.check_guest_tree(path, name, header, report);
            }
            Some(first) => {
                if first.mtime != image.mtime {
                    report.find(path, Rule::TimeDiffers);
                }
                if first.is_kernel != image.is_kernel {
                    report.find(path, Rule::KernelDiffers);
                }
            }
        }
    }

    /// The copy of an image has the time that the header tells. That there is none is no fault: not every file can be copied.
    fn check_guest_tree(
        &self,
        path: &Path,
        name: &SamplePath,
        header: &Header,
        report: &mut Report,
    ) {
        let (Some(tree), ImageName::Root(image)) = (&self.guest_tree, &name.image) else {
            return;
        };
        let relative = image.strip_prefix(b"/").unwrap_or(image);
        let copy = tree.join(OsStr::from_bytes(relative));
        let Ok(metadata) = fs::symlink_metadata(copy) else {
            return;
        };
        let seconds = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map(|since| since.as_secs());
        if metadata.is_file() && seconds != Some(header.mtime) {
            report.find(path, Rule::TreeTime);
        }
    }

    /// A report has columns for one difference only; tgid and tid may differ together when they are the same number.
    pub(super) fn check_axes(&self, session: &Path, report: &mut Report) {
        let axes = [
            ("event", self.events.len()),
            ("tgid", self.tgids.len()),
            ("tid", self.tids.len()),
            ("cpu", self.cpus.len()),
        ];
        let differing: Vec<_> = axes
            .iter()
            .filter(|(_, values)| *values > 1)
            .map(|(axis, _)| *axis)
            .collect();
        match differing[..] {
            ["tgid", "tid"] if !self.threads_differ => {}
            [first, second, ..] => report.find(session, Rule::Axes(first, second)),
            _ => {}
        }
    }
}
