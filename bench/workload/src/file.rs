//! The files: a world, then samples in their order.
//!
//! Little endian: magic, counts, for each task its program and mappings, then the samples, each with its call chain.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use oprofile_wire::Cursor;
use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::stream::{StreamHash, WrongStream};

/// File index of a mapping without a file.
pub const ANONYMOUS: u64 = u64::MAX;

/// Largest file after decompression, 256 MiB: those that exist have some 10 MB.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

const MAGIC: [u8; 8] = *b"OPWL0001";

/// A workload file with what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Name of the file in `bench/data`, without its endings.
    pub name: &'static str,
    /// Samples between two syncs.
    pub batch: usize,
    /// Words of the event stream.
    pub words: u64,
    /// Hash of the event stream.
    pub hash: u64,
    /// Samples and frames in no mapping.
    pub no_mapping: u64,
}

/// 64 processes with 200 mappings each, 25 % kernel samples, no call chains.
pub const MIXED: Recorded = Recorded {
    name: "mixed64x200_200k",
    batch: 4_096,
    words: 931_266,
    hash: 0x6952_724b_07b4_9679,
    no_mapping: 0,
};

/// Call chains of depth 6, 3 % of the addresses in no mapping.
pub const TRACE: Recorded = Recorded {
    name: "trace6_50k",
    batch: 700,
    words: 1_389_158,
    hash: 0xdf4a_1a61_71f4_0e3f,
    no_mapping: 7_096,
};

impl Recorded {
    /// Compares a stream with the one that is known.
    ///
    /// # Errors
    /// When it is another one.
    pub fn check(&self, stream: &StreamHash) -> Result<(), WrongStream> {
        let (words, hash) = (stream.words(), stream.hash());
        if (words, hash) != (self.words, self.hash) {
            return Err(WrongStream {
                name: self.name,
                words,
                hash,
                expected_words: self.words,
                expected_hash: self.hash,
            });
        }
        Ok(())
    }
}

/// A workload cannot be read.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// The file is missing or damaged.
    #[error("Cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file does not have the form of a workload.
    #[error("{} is no workload file: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A mapping of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Offset in the file in pages.
    pub page_offset: u64,
    /// Index of the file, or [`ANONYMOUS`].
    pub file: u64,
}

/// A process of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Index of the program's file.
    pub exe: u64,
    /// Mappings, ascending and disjoint.
    pub vmas: Vec<Vma>,
}

impl Task {
    /// Process and thread id of task number `index`.
    #[must_use]
    pub const fn pid(index: u32) -> u32 {
        1_000 + index
    }
}

/// A sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Sampled address.
    pub pc: u64,
    /// Index of the task.
    pub task: u32,
    /// Taken in kernel mode.
    pub is_kernel: bool,
    /// Event number.
    pub event: u8,
    /// Frames of its call chain.
    pub frames: u8,
    /// Index of its first frame.
    pub(crate) first_frame: u32,
}

/// A workload.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Number of files.
    pub files: u64,
    /// Depth of call chains that is asked for; 0 for none.
    pub depth: u64,
    /// The samples in their order, all of CPU 0.
    pub samples: Vec<Sample>,
    pub(crate) frames: Vec<u64>,
    pub(crate) batch: usize,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    tasks: U32,
    vmas: U32,
    files: U32,
    depth: U32,
    samples: U64,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawVma {
    start: U64,
    end: U64,
    page_offset: U64,
    file: U64,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSample {
    pc: U64,
    task: U32,
    kernel: u8,
    event: u8,
    frames: u8,
    zero: u8,
}

impl Workload {
    /// Reads `recorded` from this repository's `bench/data`.
    ///
    /// # Errors
    /// When the file is missing, damaged, or not a workload.
    pub fn load(recorded: &Recorded) -> Result<Self, WorkloadError> {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../data"));
        let path = folder.join(recorded.name).with_extension("bin.gz");
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| GzDecoder::new(file).take(MAX_BYTES).read_to_end(&mut bytes));
        if let Err(source) = read {
            return Err(WorkloadError::Read { path, source });
        }
        Self::parse(&bytes, recorded.batch).map_err(|what| WorkloadError::Malformed { path, what })
    }

    fn parse(bytes: &[u8], batch: usize) -> Result<Self, &'static str> {
        const SHORT: &str = "it ends too early";
        let mut cursor = Cursor::new(bytes);
        let header: &Header = cursor.take().ok_or(SHORT)?;
        if header.magic != MAGIC {
            return Err("another magic number");
        }
        let files = u64::from(header.files.get());
        let is_file = |file: u64| file < files;
        let vma_count = usize::try_from(header.vmas.get()).map_err(|_| SHORT)?;
        let mut tasks = Vec::new();
        for _ in 0..header.tasks.get() {
            let exe = cursor.take::<U64>().ok_or(SHORT)?.get();
            let raw: &[RawVma] = cursor.take_slice(vma_count).ok_or(SHORT)?;
            let vmas: Vec<Vma> = raw
                .iter()
                .map(|vma| Vma {
                    start: vma.start.get(),
                    end: vma.end.get(),
                    page_offset: vma.page_offset.get(),
                    file: vma.file.get(),
                })
                .collect();
            let ascending = vmas.windows(2).all(|pair| pair[0].end <= pair[1].start);
            if !ascending || vmas.iter().any(|vma| vma.start >= vma.end) {
                return Err("mappings that do not ascend");
            }
            let known = |vma: &Vma| vma.file == ANONYMOUS || is_file(vma.file);
            if !is_file(exe) || !vmas.iter().all(known) {
                return Err("a file that does not exist");
            }
            tasks.push(Task { exe, vmas });
        }
        let mut samples = Vec::new();
        let mut frames = Vec::new();
        for _ in 0..header.samples.get() {
            let raw: &RawSample = cursor.take().ok_or(SHORT)?;
            if raw.task.get() >= header.tasks.get() {
                return Err("a sample of no task");
            }
            let first_frame = u32::try_from(frames.len()).map_err(|_| "too many frames")?;
            let chain: &[U64] = cursor.take_slice(raw.frames.into()).ok_or(SHORT)?;
            frames.extend(chain.iter().map(|frame| frame.get()));
            samples.push(Sample {
                pc: raw.pc.get(),
                task: raw.task.get(),
                is_kernel: raw.kernel != 0,
                event: raw.event,
                frames: raw.frames,
                first_frame,
            });
        }
        if !cursor.rest().is_empty() {
            return Err("bytes behind the last sample");
        }
        Ok(Self {
            tasks,
            files,
            depth: header.depth.get().into(),
            samples,
            frames,
            batch,
        })
    }

    /// The samples, from sync to sync.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = &[Sample]> {
        self.samples.chunks(self.batch)
    }

    /// Most samples between two syncs.
    #[must_use]
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// The call chain of `sample`, nearest caller first.
    #[inline]
    #[must_use]
    pub fn chain(&self, sample: &Sample) -> &[u64] {
        let start = sample.first_frame as usize;
        &self.frames[start..start + usize::from(sample.frames)]
    }
}
