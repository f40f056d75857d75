//! Checks a session directory against every rule of OProfile's format, so that what the collector writes is known to be
//! fit for OProfile's own tools.
//!
//! The checks share no code with the writer but the parser of file names: each number is read from its offset in the
//! format, not through the structures that wrote it.
//!
//! * [`sample_file`]: one sample file, header to last bucket;
//! * [`names`]: the path of a sample file, and what it says beside the header;
//! * [`tree`]: which files may lie where;
//! * [`agreement`]: what all files of a session have to agree in.

mod agreement;
mod names;
mod sample_file;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

pub use names::Part;

use agreement::Agreement;

/// Most findings kept. A session that breaks a rule so often breaks it everywhere.
pub const MAX_FINDINGS: usize = 1000;
/// Session that is being written, or was written last.
const CURRENT: &str = "current";

/// A rule of the format that is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// A file or directory cannot be read.
    #[error("Cannot be read: {0}")]
    Unreadable(String),
    /// There is no `samples/current`.
    #[error("A session has a directory samples/current")]
    NoSession,
    /// `abi` is missing or tells another layout than this machine's.
    #[error("The abi file does not tell this machine's layout")]
    Abi,
    /// Something that no session holds at this place.
    #[error("No session holds anything of this name or kind here")]
    Foreign,
    /// A file that was being written when the writer ended.
    #[error("A file that was not written to its end")]
    Torn,
    /// A directory deeper than any name makes it, or more entries than a session has.
    #[error("More files or deeper directories than a session has")]
    TooMany,
    /// `root/var/lib/oprofile` does not lead to the session directory, so `archive:` finds nothing.
    #[error("The guest tree does not lead back to the session")]
    ArchiveLink,
    /// `operf.log` is missing or does not begin as operf's does.
    #[error("The log does not begin with operf's heading")]
    Log,
    /// A file of `stats` is not one of OProfile's or holds no decimal number.
    #[error("A statistics file has a known name and one decimal number in it")]
    Statistics,
    /// Statistics tell of nothing lost, or of losses without a total.
    #[error("Statistics are written for losses, then with a total, and not for zeros")]
    StatisticsTotal,
    /// The list of files cannot be read as one.
    #[error("Not a list of files: \"BUILD-ID MAJOR:MINOR INODE NAME\" in each line")]
    FileList,
    /// The path is not `APP/{dep}/IMAGE/[{cg}/CALLEE/]EVENT.COUNT.UNITMASK.TGID.TID.CPU`.
    #[error("Not the path of a sample file")]
    Path,
    /// A name holds a component that has a meaning of its own, a control character or nothing.
    #[error("{0} has a component that no path can have")]
    Component(Part),
    /// An anonymous region is named as the program.
    #[error("A program cannot be an anonymous region")]
    AnonymousProgram,
    /// The range of an anonymous region is not `TGID.0xSTART.0xEND`.
    #[error("The range of {0} is not TGID.0xSTART.0xEND")]
    Range(Part),
    /// The name of a kernel image has a slash in it.
    #[error("{0} is below {{kern}} and has a slash in its name")]
    KernelName(Part),
    /// `/proc/kallsyms`: the reader would read the live host's.
    #[error("{0} is /proc/kallsyms, which a reader takes from its own machine")]
    Kallsyms(Part),
    /// COUNT, UNITMASK, TGID, TID or CPU is no number.
    #[error("COUNT and UNITMASK are decimal, TGID, TID and CPU decimal or 'all'")]
    SpecNumber,
    /// The header has another count than the file name.
    #[error("The name tells another count than the header")]
    CountDiffers,
    /// The header has another unit mask than the file name.
    #[error("The name tells another unit mask than the header")]
    UnitMaskDiffers,
    /// The file is shorter than header and descriptor.
    #[error("Shorter than its header and descriptor")]
    TooShort,
    /// The file does not begin with `DAE\n`.
    #[error("Wrong magic number")]
    Magic,
    /// The version is not 0x13.
    #[error("Header version {0:#x}, 0x13 is right")]
    Version(u32),
    /// The processor type is not in OProfile's list.
    #[error("Processor type {0} is not in the list")]
    CpuType(u32),
    /// The event of a timer profile is not 0.
    #[error("A timer has no event number")]
    TimerEvent,
    /// A flag is neither 0 nor 1.
    #[error("A flag of the header is neither 0 nor 1")]
    Flag,
    /// Bytes that mean nothing are not 0.
    #[error("Unused bytes of the {0} are not zero")]
    Padding(&'static str),
    /// The speed is no number, or negative.
    #[error("The processor's speed is no speed")]
    Speed,
    /// The callee's fields are set in a file without one.
    #[error("There is no callee, and its fields are not zero")]
    NoCallee,
    /// The start of an anonymous region is not that in its name, or is set for a file.
    #[error("The start of {0} is not the one in its name")]
    AnonStart(Part),
    /// An anonymous region with a modification time.
    #[error("An anonymous region has no modification time")]
    AnonTime,
    /// An anonymous region with kernel keys.
    #[error("An anonymous region is no kernel image")]
    AnonKernel,
    /// The number of nodes is not a power of two, or less than a new table has.
    #[error("{0} nodes: a power of two from 128 is right")]
    Size(u32),
    /// The length of the file does not fit the number of nodes.
    #[error("The length does not fit the number of nodes")]
    Length,
    /// More nodes than any table has.
    #[error("{0} nodes are more than a session has addresses")]
    TooLarge(u32),
    /// The next free node is node 0 or lies behind the table.
    #[error("The next free node {0} is not within the table")]
    CurrentSize(u32),
    /// A node is not in exactly the chain of its bucket.
    #[error("Node {0} is not in the chain of its bucket, once")]
    Chain(u32),
    /// A bucket or a node leads to a node that is not used.
    #[error("A chain leads to node {0}, which is not used")]
    ChainTarget(u32),
    /// A key is there twice.
    #[error("Key {0:#x} is there twice")]
    DuplicateKey(u64),
    /// A count of zero.
    #[error("Key {0:#x} has no count")]
    ZeroCount(u64),
    /// The key lies behind the end of the region.
    #[error("Key {0:#x} lies outside of its region")]
    KeyOutsideRegion(u64),
    /// Another file of the session has another modification time for the same image.
    #[error("The image has another modification time in another file")]
    TimeDiffers,
    /// Another file of the session has another `is_kernel` for the same image.
    #[error("The image is a kernel image in one file and none in another")]
    KernelDiffers,
    /// The copy in the guest tree has another modification time.
    #[error("The image in the guest tree has another modification time")]
    TreeTime,
    /// The files differ in more than one of event, tgid, tid and cpu, which no report can show.
    #[error("The files differ by {0} and by {1}, and a report shows one difference")]
    Axes(&'static str, &'static str),
}

/// A broken rule and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file or directory.
    pub path: PathBuf,
    /// The rule.
    pub rule: Rule,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `Debug` escapes what a guest may have put into the name.
        write!(f, "{:?}: {}", self.path, self.rule)
    }
}

/// What a validation has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Sample files checked, those of call chains included.
    pub sample_files: usize,
    /// Sum of the counts in files that are not of call chains.
    pub samples: u64,
    /// Broken rules, [`MAX_FINDINGS`] at most.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether no rule is broken.
    pub fn is_valid(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, path: &Path, rule: Rule) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding {
                path: path.to_owned(),
                rule,
            });
        }
    }

    fn unreadable(&mut self, path: &Path, error: &std::io::Error) {
        self.find(path, Rule::Unreadable(error.to_string()));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} sample files, {} samples, {} broken rules",
            self.sample_files,
            self.samples,
            self.findings.len()
        )?;
        self.findings
            .iter()
            .try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

/// Checks the session directory `dir`, once nobody writes to it any more: the frame around the sessions, the session
/// `current` together with the guest tree, and every other session by itself.
///
/// Never fails: what cannot be read is a finding.
///
/// ```
/// # use oprofile_session::{Account, Collector, CollectorOptions, validate::validate};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let collector = Collector::create(dir.path(), CollectorOptions::default())?;
/// collector.finish(&(), &Account::default()).map_err(|(_, error)| error)?;
/// let report = validate(dir.path());
/// assert!(report.is_valid(), "{report}");
/// # Ok(())
/// # }
/// ```
pub fn validate(dir: &Path) -> Report {
    let mut report = Report::default();
    tree::check_frame(dir, &mut report);
    for session in tree::sessions(dir, &mut report) {
        let is_current = session.file_name().is_some_and(|name| name == CURRENT);
        check_session(&session, is_current.then(|| dir.join("root")), &mut report);
    }
    report
}

/// Checks one session; `guest_tree` holds the images.
fn check_session(session: &Path, guest_tree: Option<PathBuf>, report: &mut Report) {
    let mut agreement = Agreement::new(guest_tree);
    for found in tree::sample_files(session, report) {
        let Some(name) = names::check(&found.path, &found.relative, report) else {
            continue;
        };
        report.sample_files += 1;
        let bytes = match fs::read(&found.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                report.unreadable(&found.path, &error);
                continue;
            }
        };
        let Some(content) = sample_file::check(&found.path, &bytes, report) else {
            continue;
        };
        names::check_header(&found.path, &name, &content, report);
        agreement.check(&found.path, &name, &content.header, report);
        if name.callee.is_none() {
            report.samples = report.samples.saturating_add(content.total);
        }
    }
    agreement.check_axes(session, report);
}
