//! The path of a sample file, and what it says beside the header.

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::sample_file::Content;
use super::{Report, Rule};
use crate::sample_path::{AnonRange, ImageName, SamplePath};

/// Which of the names in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// APP.
    Program,
    /// IMAGE.
    Image,
    /// CALLEE.
    Callee,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Program => "The program",
            Self::Image => "The image",
            Self::Callee => "The callee",
        })
    }
}

/// Checks the path of a sample file; `relative` is the part below the session.
pub(super) fn check(path: &Path, relative: &Path, report: &mut Report) -> Option<SamplePath> {
    let bytes = relative.as_os_str().as_bytes();
    let name = match SamplePath::parse(bytes) {
        // A reader takes other forms, too; a writer has one.
        Ok(name) if name.to_bytes() == bytes => name,
        _ => {
            report.find(path, Rule::Path);
            return None;
        }
    };
    if matches!(name.app, ImageName::Anon { .. }) {
        report.find(path, Rule::AnonymousProgram);
    }
    for (part, image) in parts(&name) {
        check_image(path, part, image, report);
    }
    let spec = &name.spec;
    let is_number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok();
    let is_selector = |text: &str| text == "all" || is_number(text);
    if ![&spec.count, &spec.unit_mask]
        .iter()
        .all(|text| is_number(text))
        || ![&spec.tgid, &spec.tid, &spec.cpu]
            .iter()
            .all(|text| is_selector(text))
    {
        report.find(path, Rule::SpecNumber);
    }
    Some(name)
}

fn parts(name: &SamplePath) -> impl Iterator<Item = (Part, &ImageName)> {
    [(Part::Program, &name.app), (Part::Image, &name.image)]
        .into_iter()
        .chain(name.callee.as_ref().map(|callee| (Part::Callee, callee)))
}

fn check_image(path: &Path, part: Part, image: &ImageName, report: &mut Report) {
    let component_is_good = |component: &[u8]| {
        !component.is_empty()
            && component != b"."
            && component != b".."
            && component[0] != b'{'
            && component.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f)
    };
    match image {
        ImageName::Root(name) => {
            if name == b"/proc/kallsyms" {
                report.find(path, Rule::Kallsyms(part));
            }
            let good = name
                .strip_prefix(b"/")
                .is_some_and(|name| name.split(|byte| *byte == b'/').all(component_is_good));
            if !good {
                report.find(path, Rule::Component(part));
            }
        }
        ImageName::Kern(name) => {
            if name.contains(&b'/') {
                report.find(path, Rule::KernelName(part));
            } else if !component_is_good(name) {
                report.find(path, Rule::Component(part));
            }
        }
        ImageName::Anon { name, range } => {
            if name.is_empty() || name.iter().any(|byte| *byte < 0x20 || *byte == 0x7f) {
                report.find(path, Rule::Component(part));
            }
            if bounds(range).is_none() {
                report.find(path, Rule::Range(part));
            }
        }
    }
}

/// First and last address of a region that is named as it should be.
fn bounds(range: &AnonRange) -> Option<(u64, u64)> {
    let address = |text: &[u8]| {
        let digits = std::str::from_utf8(text.strip_prefix(b"0x")?).ok()?;
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(digits, 16).ok().filter(|_| is_plain)
    };
    let (start, end) = (address(&range.start)?, address(&range.end)?);
    (!range.tgid.is_empty() && start <= end).then_some((start, end))
}

/// Checks what the path and the header both tell.
pub(super) fn check_header(path: &Path, name: &SamplePath, content: &Content, report: &mut Report) {
    let header = &content.header;
    if name.spec.count != header.ctr_count.to_string() {
        report.find(path, Rule::CountDiffers);
    }
    if name.spec.unit_mask != header.ctr_um.to_string() {
        report.find(path, Rule::UnitMaskDiffers);
    }
    let region = |image: &ImageName| match image {
        ImageName::Anon { range, .. } => bounds(range),
        _ => None,
    };
    let start_is_right = |image: &ImageName, start: u64| match image {
        // A range that cannot be read has been found already.
        ImageName::Anon { range, .. } => bounds(range).is_none_or(|(first, _)| first == start),
        _ => start == 0,
    };
    if !start_is_right(&name.image, header.anon_start) {
        report.find(path, Rule::AnonStart(Part::Image));
    }
    if matches!(name.image, ImageName::Anon { .. }) {
        if header.mtime != 0 {
            report.find(path, Rule::AnonTime);
        }
        if header.is_kernel != 0 {
            report.find(path, Rule::AnonKernel);
        }
    }
    match &name.callee {
        None => {
            if header.cg_to_is_kernel != 0 || header.cg_to_anon_start != 0 {
                report.find(path, Rule::NoCallee);
            }
            if let (Some((start, end)), Some(key)) = (region(&name.image), content.largest_key)
                && key > end - start
            {
                report.find(path, Rule::KeyOutsideRegion(key));
            }
        }
        Some(callee) => {
            if !start_is_right(callee, header.cg_to_anon_start) {
                report.find(path, Rule::AnonStart(Part::Callee));
            }
            if matches!(callee, ImageName::Anon { .. }) && header.cg_to_is_kernel != 0 {
                report.find(path, Rule::AnonKernel);
            }
        }
    }
}
