//! The collector: any event stream, with names of files, regions and kernel images as a guest may choose them.
//!
//! Whatever the names are, the session is written; every sample is in one of its files or in one of its counters, and the files are
//! where a reader finds them.

use std::borrow::Cow;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use oprofile_session::events::ESCAPE;
use oprofile_session::sample_file::SampleFile;
use oprofile_session::sample_path::SamplePath;
use oprofile_session::{
    Account, Collector, CollectorOptions, CookieTarget, GuestFile, GuestFiles, GuestNames,
    ImageKind, KernelImage, Separation, Symbol, SymbolKind,
};

use crate::names::Name;

/// Where the images that are not anywhere else lie.
const KERNEL_START: u64 = 0xffff_ffff_8000_0000;

#[derive(Arbitrary, Debug)]
struct Input {
    separation: u8,
    per_cpu: bool,
    /// Bits tell which of the first files the host has.
    host_files: u8,
    targets: Vec<Target>,
    images: Vec<Image>,
    reads: Vec<(Vec<Record>, bool)>,
}

#[derive(Arbitrary, Debug)]
enum Target {
    File(Name, bool),
    Anonymous(u32, u64, u64, Name),
}

#[derive(Arbitrary, Debug)]
struct Image {
    name: Name,
    is_module: bool,
    /// At a usual place, or anywhere.
    range: Option<(u64, u64)>,
    symbols: Vec<(u16, u64, Name)>,
}

#[derive(Arbitrary, Debug)]
enum Record {
    Cpu(u8),
    Task(u8),
    Cookie(u8),
    Kernel,
    User,
    Trace,
    ModuleLoaded,
    Samples(u16, u8),
    KernelSamples(u16, u8),
    Sample(u64, u64),
    Raw(u64),
}

/// What the guest's names are.
struct Names {
    targets: Vec<CookieTarget>,
    images: Vec<Arc<KernelImage>>,
    host_files: u8,
}

impl GuestNames for Names {
    fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        let index = usize::try_from(cookie.checked_sub(1)?).ok()?;
        self.targets.get(index).cloned()
    }

    fn kernel_image(&self, address: u64) -> Option<Arc<KernelImage>> {
        let holds = |image: &&Arc<KernelImage>| (image.start..image.end).contains(&address);
        self.images.iter().find(holds).cloned()
    }
}

impl GuestFiles for Names {
    fn open(&self, path: &[u8]) -> Option<GuestFile<'_>> {
        let known = |target: &CookieTarget| match target {
            CookieTarget::File { path: known, .. } => known == path,
            CookieTarget::Anonymous { .. } => false,
        };
        let index = self.targets.iter().position(known)?;
        (self.host_files >> (index % 8) & 1 != 0).then_some(GuestFile {
            contents: Cow::Borrowed(b"contents"),
            mtime: 7,
        })
    }
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) {
        collect(&input);
    }
}

fn collect(input: &Input) {
    let scratch = scratch();
    let session = scratch.path().join("session");
    let options = CollectorOptions {
        separation: match input.separation % 3 {
            0 => Separation::None,
            1 => Separation::Library,
            _ => Separation::Kernel,
        },
        per_cpu: input.per_cpu,
        ..CollectorOptions::default()
    };
    let mut names = input.names();
    let mut collector = Collector::create(&session, options).expect("the directory is ours");
    let account: Account = [("received", 1u64)].into_iter().collect();
    for (records, flush) in input.reads.iter().take(16) {
        let mut words = Vec::new();
        for record in records {
            record.push(&mut words);
        }
        collector.consume(&words, &mut names);
        assert!(collector.stats().adds_up(), "{:?}", collector.stats());
        if *flush {
            collector
                .flush(&names, &account)
                .expect("no name is in the way");
        }
    }
    let stats = match collector.finish(&names, &account) {
        Ok(stats) => stats,
        Err((_, error)) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    };
    let (mut samples, mut arcs) = (0, 0);
    let current = session.join("samples/current");
    for path in files(&current) {
        let name = path.strip_prefix(&current).expect("it was found there");
        if name.starts_with("stats") {
            continue;
        }
        let parsed = SamplePath::parse(name.as_os_str().as_bytes()).expect("a good name");
        let total = SampleFile::read(&path).expect("a good file").total();
        *match parsed.callee {
            None => &mut samples,
            Some(_) => &mut arcs,
        } += total;
    }
    assert_eq!((samples, arcs), (stats.accepted(), stats.arcs));
    let beside = fs::read_dir(scratch.path()).expect("it is there").count();
    assert_eq!(beside, 1, "something was written beside the session");
}

/// A directory, in memory if there is one.
fn scratch() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("oprofile-fuzz-");
    let made = match shared.is_dir() {
        true => builder.tempdir_in(shared),
        false => builder.tempdir(),
    };
    made.expect("a scratch directory")
}

/// All files below `directory`; links are not followed.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("it is there") {
            let entry = entry.expect("it can be read");
            match entry.file_type().expect("it has a type").is_dir() {
                true => directories.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files
}

impl Input {
    fn names(&self) -> Names {
        let target = |target: &Target| match target {
            Target::File(name, deleted) => CookieTarget::File {
                path: name.bytes(),
                deleted: *deleted,
            },
            Target::Anonymous(tgid, start, end, name) => CookieTarget::Anonymous {
                tgid: *tgid,
                start: *start,
                end: *end,
                name: String::from_utf8_lossy(&name.bytes()).into_owned(),
            },
        };
        let image = |(index, image): (u64, &Image)| {
            let usual = KERNEL_START + (index << 16);
            let (start, end) = image.range.unwrap_or((usual, usual + 0x1_0000));
            Arc::new(KernelImage {
                name: image.name.bytes(),
                kind: match image.is_module {
                    true => ImageKind::Module,
                    false => ImageKind::Kernel,
                },
                start,
                end,
                symbols: image
                    .symbols
                    .iter()
                    .map(|(offset, size, name)| Symbol {
                        address: start.wrapping_add(u64::from(*offset)),
                        size: *size,
                        kind: SymbolKind::Function,
                        name: name.bytes(),
                    })
                    .collect(),
            })
        };
        Names {
            targets: self.targets.iter().take(8).map(target).collect(),
            images: (0..).zip(self.images.iter().take(4)).map(image).collect(),
            host_files: self.host_files,
        }
    }
}

impl Record {
    fn push(&self, words: &mut Vec<u64>) {
        match *self {
            Self::Cpu(cpu) => words.extend([ESCAPE, 2, u64::from(cpu % 3)]),
            Self::Task(cookie) => {
                words.extend([ESCAPE, 1, 10, u64::from(cookie % 10), ESCAPE, 7, 10]);
            }
            Self::Cookie(cookie) => words.extend([ESCAPE, 3, u64::from(cookie % 10)]),
            Self::Kernel => words.extend([ESCAPE, 4]),
            Self::User => words.extend([ESCAPE, 5]),
            Self::Trace => words.extend([ESCAPE, 8]),
            Self::ModuleLoaded => words.extend([ESCAPE, 6]),
            Self::Samples(first, count) => {
                for offset in 0..u64::from(count % 16) {
                    words.extend([u64::from(first) + offset, 0]);
                }
            }
            Self::KernelSamples(first, count) => {
                for offset in 0..u64::from(count % 16) {
                    words.extend([KERNEL_START + u64::from(first) * 16 + offset, 0]);
                }
            }
            Self::Sample(pc, event) => words.extend([pc, event]),
            Self::Raw(word) => words.push(word),
        }
    }
}
