//! Which files may lie where in a session directory.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{CURRENT, Report, Rule, sample_file};
use crate::collector::ABI;
use crate::file_list;

/// Most entries of a session; the collector makes 65,536 files, each in a few directories of its own.
const MAX_ENTRIES: usize = 1 << 20;
/// Deepest directory of a session: three names of 1,000 bytes, and a component has at least one byte and a slash.
const MAX_DEPTH: usize = 1600;
/// Longest text file looked at in bytes.
const MAX_TEXT: u64 = 64 * 1024;
/// Where the collector keeps files until they are whole; empty or gone afterwards.
const LEFTOVERS: &str = "partial";
/// Logs in `samples`.
const LOGS: [&str; 2] = ["operf.log", "oprofiled.log"];
/// The files of a `stats` directory.
const STATISTICS: [&str; 10] = [
    "total_samples",
    "lost_invalid_domain",
    "lost_kernel",
    "lost_samplefile",
    "lost_no_mapping",
    "lost_no_app_for_kernel_sample",
    "lost_no_app_for_user_sample",
    "lost_bt_no_mapping",
    "lost_invalid_hypervisor_addr",
    "lost_records_by_kernel",
];

/// The list of files, beside them.
const FILES: &str = "files";

/// A file in the place of a sample file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Below the session.
    pub(super) relative: PathBuf,
}

/// Checks what lies around the sessions.
pub(super) fn check_frame(dir: &Path, report: &mut Report) {
    let abi = dir.join("abi");
    match read_text(&abi) {
        Ok(text) if text == ABI => {}
        _ => report.find(&abi, Rule::Abi),
    }
    for (path, _) in entries(&dir.join(LEFTOVERS), report) {
        report.find(&path, Rule::Torn);
    }
    let tree = dir.join("root");
    let link = tree.join("var/lib/oprofile");
    if tree.symlink_metadata().is_ok() {
        let leads_back = match (fs::canonicalize(&link), fs::canonicalize(dir)) {
            (Ok(there), Ok(here)) => there == here,
            _ => false,
        };
        if !leads_back {
            report.find(&link, Rule::ArchiveLink);
        }
    }
    let log = dir.join("samples").join(LOGS[0]);
    match read_text(&log) {
        Ok(text)
            if text
                .trim_start()
                .starts_with("-- OProfile/operf Statistics --\n") => {}
        _ => report.find(&log, Rule::Log),
    }
}

/// The sessions below `samples`.
pub(super) fn sessions(dir: &Path, report: &mut Report) -> Vec<PathBuf> {
    let samples = dir.join("samples");
    let mut sessions = Vec::new();
    for (path, metadata) in entries(&samples, report) {
        let is_log = LOGS
            .iter()
            .any(|log| path.file_name() == Some(OsStr::new(log)));
        if metadata.is_dir() {
            sessions.push(path);
        } else if !(is_log && metadata.is_file()) {
            report.find(&path, Rule::Foreign);
        }
    }
    sessions.sort();
    if !sessions.contains(&samples.join(CURRENT)) {
        report.find(&samples.join(CURRENT), Rule::NoSession);
    }
    sessions
}

/// The files in the places of sample files, in the order of their paths.
pub(super) fn sample_files(session: &Path, report: &mut Report) -> Vec<Found> {
    let mut files = Vec::new();
    for (path, metadata) in entries(session, report) {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let may_hold_samples = name.starts_with(b"{root}") || name.starts_with(b"{kern}");
        if !metadata.is_dir() {
            report.find(&path, Rule::Foreign);
        } else if may_hold_samples {
            walk(session, path, &mut files, report);
        } else if name == b"stats" {
            check_statistics(session, &path, report);
        } else {
            report.find(&path, Rule::Foreign);
        }
    }
    files.sort_by(|a, b| a.relative.cmp(&b.relative));
    files
}

/// Collects the files below `top`.
fn walk(session: &Path, top: PathBuf, files: &mut Vec<Found>, report: &mut Report) {
    let mut open = vec![(top, 1)];
    let mut seen = 0;
    while let Some((dir, depth)) = open.pop() {
        for (path, metadata) in entries(&dir, report) {
            seen += 1;
            if seen > MAX_ENTRIES || depth > MAX_DEPTH {
                report.find(&dir, Rule::TooMany);
                return;
            }
            if metadata.is_dir() {
                open.push((path, depth + 1));
            } else if !metadata.is_file() {
                report.find(&path, Rule::Foreign);
            } else if path.extension() == Some(OsStr::new("jo")) {
                check_jit_symbols(&path, report);
            } else if metadata.len() > sample_file::MAX_LENGTH {
                report.find(&path, Rule::Length);
            } else {
                let relative = path.strip_prefix(session).unwrap_or(&path).to_owned();
                files.push(Found { path, relative });
            }
        }
    }
}

/// Symbols of an anonymous region are an ELF file beside the region's directory, in that of its name.
fn check_jit_symbols(path: &Path, report: &mut Report) {
    let dir = path.parent().and_then(Path::file_name).unwrap_or_default();
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    if !dir.as_bytes().starts_with(b"{anon:") || read.is_err() || magic != *b"\x7fELF" {
        report.find(path, Rule::Foreign);
    }
}

fn check_statistics(session: &Path, dir: &Path, report: &mut Report) {
    let mut lost = 0u64;
    let mut total = None;
    for (path, metadata) in entries(dir, report) {
        let name = path.file_name().unwrap_or_default();
        if name == "throttled" && metadata.is_dir() {
            continue;
        }
        if name == FILES && metadata.is_file() {
            if file_list::read(session).is_err() {
                report.find(&path, Rule::FileList);
            }
            continue;
        }
        let known = STATISTICS.iter().any(|known| name == *known);
        let number = read_text(&path)
            .ok()
            .filter(|_| known && metadata.is_file())
            .and_then(|text| text.trim_end_matches('\n').parse::<u64>().ok());
        let Some(number) = number else {
            report.find(&path, Rule::Statistics);
            continue;
        };
        if name == STATISTICS[0] {
            total = Some(number);
        } else {
            lost = lost.saturating_add(number);
            if number == 0 {
                report.find(&path, Rule::StatisticsTotal);
            }
        }
    }
    if total.is_some() != (lost > 0) {
        report.find(dir, Rule::StatisticsTotal);
    }
}

/// The entries of a directory, none when it does not exist. Links are not followed.
fn entries(dir: &Path, report: &mut Report) -> Vec<(PathBuf, Metadata)> {
    let mut found = Vec::new();
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                report.unreadable(dir, &error);
            }
            return found;
        }
    };
    for entry in read {
        match entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))) {
            Ok(_) if found.len() >= MAX_ENTRIES => {
                report.find(dir, Rule::TooMany);
                break;
            }
            Ok(entry) => found.push(entry),
            Err(error) => report.unreadable(dir, &error),
        }
    }
    found
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_TEXT).read_to_string(&mut text)?;
    Ok(text)
}
