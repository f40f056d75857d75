//! Files of an ext4 file system. The guest wrote it, or whoever made the image, so nothing in it is trusted: before the reader gets
//! it, its size is checked, and each question may cost a bounded number of bytes that are read.

use std::borrow::Cow;
use std::cell::Cell;
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read, Path};
use oprofile_session::GuestFile;
use thiserror::Error as ThisError;

/// Largest file that is read, in bytes: the session takes no larger one.
const MAX_FILE: u64 = 512 << 20;
/// Bytes that may be read to open a file system: its groups, and a journal that has not been played back.
const BYTES_TO_OPEN: u64 = 256 << 20;
/// Bytes that may be read for one file: itself, and the directories and extents on the way.
const BYTES_PER_FILE: u64 = MAX_FILE + (64 << 20);
/// Most reads for one of them: blocks of 1 KiB at least, but for fields of tables.
const MAX_READS: u64 = 4 << 20;
/// Most groups of blocks: 8 TiB in groups of 128 MiB.
const MAX_GROUPS: u64 = 65_536;
/// Largest block in bytes, as log2 of a multiple of 1 KiB.
const MAX_BLOCK_SHIFT: u32 = 6;

/// A part of an image.
#[derive(Debug)]
pub struct Part {
    /// The image.
    pub image: Arc<File>,
    /// First byte.
    pub start: u64,
    /// Bytes from there on.
    pub bytes: u64,
}

impl Part {
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let end = at.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.image.read_exact_at(into, self.start + at)
    }
}

/// What a question may still cost.
#[derive(Debug)]
struct Budget {
    bytes: Cell<u64>,
    reads: Cell<u64>,
}

impl Budget {
    fn set(&self, bytes: u64) {
        self.bytes.set(bytes);
        self.reads.set(MAX_READS);
    }

    fn spend(&self, bytes: usize) -> io::Result<()> {
        let bytes = self.bytes.get().checked_sub(bytes as u64);
        let reads = self.reads.get().checked_sub(1);
        let (Some(bytes), Some(reads)) = (bytes, reads) else {
            return Err(io::Error::other("More had to be read than any file needs"));
        };
        self.bytes.set(bytes);
        self.reads.set(reads);
        Ok(())
    }
}

/// A part that is read within a budget.
struct Rationed {
    part: Part,
    budget: Rc<Budget>,
}

impl Ext4Read for Rationed {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        self.budget.spend(dst.len())?;
        Ok(self.part.read(start_byte, dst)?)
    }
}

/// Why there are no files in a part of an image.
#[derive(Debug, ThisError)]
pub enum OpenError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no ext4 file system, or says of itself what cannot be.
    #[error("no ext4 file system of a possible size")]
    Size,
    /// The reader refuses it.
    #[error("{0}")]
    Reader(#[from] Ext4Error),
    /// The reader panicked.
    #[error("the reader of file systems failed on it")]
    Panic,
}

/// Files of a file system.
pub struct Ext4Files {
    file_system: Ext4,
    budget: Rc<Budget>,
}

impl Ext4Files {
    /// Opens the file system in `part`.
    ///
    /// # Errors
    /// When there is none that can be read.
    pub fn open(part: Part) -> Result<Self, OpenError> {
        check_size(&part)?;
        let budget = Rc::new(Budget {
            bytes: Cell::new(0),
            reads: Cell::new(0),
        });
        budget.set(BYTES_TO_OPEN);
        let reader = Rationed {
            part,
            budget: Rc::clone(&budget),
        };
        Ok(Self {
            file_system: Ext4::load(Box::new(reader))?,
            budget,
        })
    }

    /// The regular file at this absolute path; `None` when there is none that can be read.
    pub fn read(&self, path: &[u8]) -> Option<GuestFile<'static>> {
        let path = Path::try_from(path).ok()?;
        self.budget.set(BYTES_PER_FILE);
        let metadata = self.file_system.symlink_metadata(path).ok()?;
        if !metadata.file_type().is_regular_file() || metadata.len() > MAX_FILE {
            return None;
        }
        let contents = self.file_system.read(path).ok()?;
        Some(GuestFile {
            contents: Cow::Owned(contents),
            mtime: u64::try_from(metadata.modified().seconds()).unwrap_or(0),
        })
    }
}

/// Checks that a file system is no larger than its part, and in not too many groups: the reader keeps each.
fn check_size(part: &Part) -> Result<(), OpenError> {
    let mut block = [0; 1024];
    part.read(1024, &mut block)?;
    let word = |at: usize| -> u32 {
        let field = block.get(at..).and_then(|bytes| bytes.first_chunk());
        field.map_or(0, |field| u32::from_le_bytes(*field))
    };
    let has_magic = word(56) & 0xffff == 0xef53;
    let (shift, per_group) = (word(24), u64::from(word(32)));
    // Upper half of the number of blocks, where the file system has 64-bit block numbers.
    let is_wide = word(96) & 0x80 != 0;
    let upper = if is_wide { u64::from(word(336)) } else { 0 };
    let blocks = upper << 32 | u64::from(word(4));
    let fits = has_magic
        && shift <= MAX_BLOCK_SHIFT
        && per_group > 0
        && blocks.div_ceil(per_group) <= MAX_GROUPS
        && blocks
            .checked_mul(1024 << shift)
            .is_some_and(|bytes| bytes <= part.bytes);
    match fits {
        true => Ok(()),
        false => Err(OpenError::Size),
    }
}
