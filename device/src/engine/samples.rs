//! Sample buffers: from a descriptor chain to a header and words.

use oprofile_wire::PROTOCOL_VERSION;
use oprofile_wire::sample::{
    BufferHeader, ENTRY_WORDS, ESCAPE, Entries, Entry, EntryError, MAGIC, MAX_NOTE_DATA,
    WORD_BYTES, note,
};
use thiserror::Error;
use vm_memory::GuestMemoryBackend;
use zerocopy::{FromZeros, IntoBytes};

use crate::account::VcpuAccount;
use crate::event_buffer::record::{IBS_FETCH, IBS_FETCH_VALUES, IBS_OP, IBS_OP_VALUES};
use crate::fault::{Fault, FaultLog};
use crate::front::chain::{ChainError, Segments};

/// Most samples of one kind that a buffer's header may add to a counter: more than a guest can take between two buffers,
/// and so few that no counter wraps in the life of a host.
const MAX_DELTA: u64 = u32::MAX as u64;

/// Why a sample buffer is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum BufferError {
    /// Its chain cannot be copied.
    #[error("Sample buffer's chain cannot be copied")]
    Chain(#[from] ChainError),
    /// Descriptors that the device could write into.
    #[error("Sample buffer has writable descriptors")]
    Writable,
    /// Shorter than a header or no multiple of 8.
    #[error("Sample buffer has {0} bytes")]
    Length(usize),
    /// Another magic number or version.
    #[error("Sample buffer has another magic number or version")]
    Version,
    /// Header and entries do not fill the buffer.
    #[error("Header of {header} bytes and entries of {entries} do not make {total}")]
    Sizes {
        /// Bytes of the header.
        header: u16,
        /// Bytes of entries.
        entries: u32,
        /// Bytes of the buffer.
        total: usize,
    },
    /// On the queue of another vCPU.
    #[error("Sample buffer is of vCPU {0}")]
    Vcpu(u32),
}

impl BufferError {
    pub const fn fault(self) -> Fault {
        match self {
            Self::Chain(_) | Self::Writable => Fault::BadChain,
            Self::Length(_) | Self::Version | Self::Sizes { .. } | Self::Vcpu(_) => {
                Fault::BadBuffer
            }
        }
    }
}

/// Words that are copied at once, 8 KiB, and at least one entry: they are in the first-level cache when they are read, and push little else
/// out of the second.
const PIECE_WORDS: usize = 1_024;

// Else an entry might never be whole.
const _: () = assert!(PIECE_WORDS > ENTRY_WORDS + MAX_NOTE_DATA);

/// Words that buffers are copied into, piece by piece.
#[derive(Debug)]
pub(super) struct Scratch {
    words: Box<[u64; PIECE_WORDS]>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            words: Box::new([0; PIECE_WORDS]),
        }
    }
}

/// Why a buffer cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum CutError {
    /// RAM that was there is gone.
    #[error("Sample buffer's chain cannot be copied")]
    Chain(#[from] ChainError),
    /// Words that are no entry.
    #[error("Sample buffer ends inside an entry, or has one that is too long")]
    Entry(EntryError),
}

/// A buffer whose header makes sense and whose bytes are in RAM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer<'a> {
    pub header: BufferHeader,
    segments: &'a Segments,
    /// Where its entries begin, in bytes.
    start: usize,
    /// Words of its entries.
    words: usize,
}

impl<'a> Buffer<'a> {
    /// Copies a buffer's header and checks it; the buffer must be of `vcpu`.
    pub fn read<M: GuestMemoryBackend>(
        memory: &M,
        segments: &'a Segments,
        vcpu: u16,
    ) -> Result<Self, BufferError> {
        if segments.is_writable() {
            return Err(BufferError::Writable);
        }
        let total = segments.readable_bytes();
        if total < size_of::<BufferHeader>() || !total.is_multiple_of(WORD_BYTES) {
            return Err(BufferError::Length(total));
        }
        if !segments.is_in_ram(memory) {
            return Err(ChainError::OutOfRam.into());
        }
        let mut header = BufferHeader::new_zeroed();
        segments.read(memory, 0, header.as_mut_bytes())?;
        if header.magic.get() != MAGIC || header.version.get() != PROTOCOL_VERSION {
            return Err(BufferError::Version);
        }
        if header.vcpu.get() != u32::from(vcpu) {
            return Err(BufferError::Vcpu(header.vcpu.get()));
        }
        let (header_bytes, entry_bytes) = (header.header_bytes.get(), header.entry_bytes.get());
        let start = usize::from(header_bytes);
        let fits = start >= size_of::<BufferHeader>()
            && start.is_multiple_of(WORD_BYTES)
            && start.checked_add(entry_bytes as usize) == Some(total);
        if !fits {
            return Err(BufferError::Sizes {
                header: header_bytes,
                entries: entry_bytes,
                total,
            });
        }
        Ok(Self {
            header,
            segments,
            start,
            words: (total - start) / WORD_BYTES,
        })
    }

    /// Copies the entries piece by piece and hands them out in their order, each with words that follow it.
    #[inline]
    pub fn entries<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        scratch: &mut Scratch,
        mut take: impl FnMut(Entry<'_>, &[u64]),
    ) -> Result<(), CutError> {
        let words = &mut scratch.words[..];
        let (mut offset, mut left) = (self.start, self.words);
        // Words in front that begin an entry of which the rest follows.
        let mut kept = 0;
        while left != 0 {
            let filled = words.len().min(kept + left);
            let piece = words.get_mut(kept..filled).unwrap_or_default();
            self.segments.read(memory, offset, piece.as_mut_bytes())?;
            for word in &mut *piece {
                *word = u64::from_le(*word);
            }
            offset += size_of_val(piece);
            left -= piece.len();
            let mut entries = Entries::new(words.get(..filled).unwrap_or_default());
            kept = loop {
                let unread = entries.rest().len();
                match entries.next() {
                    None => break 0,
                    Some(Ok(entry)) => take(entry, entries.rest()),
                    Some(Err(EntryError::Truncated)) if left != 0 => break unread,
                    Some(Err(error)) => return Err(CutError::Entry(error)),
                }
            };
            words.copy_within(filled - kept..filled, 0);
        }
        Ok(())
    }

    /// Samples that the header claims, as far as there can be.
    pub fn claimed(&self) -> u64 {
        let most = self.words / ENTRY_WORDS;
        u64::from(self.header.samples.get()).min(most as u64)
    }
}

/// Code and address of a data record, in front of its values.
const RECORD_HEAD: usize = 2;

/// A reader of the event buffer knows by its code how many words a data record has, so one that is not of a known kind and
/// length would have it take other samples for words of the record, or words of the record for anything. Such a record is left
/// out: `entry` is what remains, and true says that there was one.
#[inline]
pub(super) fn without_unknown_record(entry: Entry<'_>) -> (Entry<'_>, bool) {
    if entry.eip != ESCAPE || entry.data.is_empty() {
        return (entry, false);
    }
    let task = usize::from(entry.event & note::USER_CTX_SWITCH != 0);
    let (task, record) = entry.data.split_at(task);
    let values = record.len().checked_sub(RECORD_HEAD);
    let is_known = match (record.first(), values) {
        // Too short to be told at all: the pipeline counts it.
        (None, _) | (_, None | Some(0)) => true,
        (Some(&IBS_FETCH), Some(values)) => values == IBS_FETCH_VALUES,
        (Some(&IBS_OP), Some(values)) => values == IBS_OP_VALUES,
        _ => false,
    };
    match is_known {
        true => (entry, false),
        false => (
            Entry {
                data: task,
                ..entry
            },
            true,
        ),
    }
}

/// What a vCPU's driver told with its last buffer. All 0 when it starts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    next_sequence: u64,
    lost: u64,
    aborted: u64,
    invalid: u64,
}

impl Totals {
    /// Takes the counters of a buffer of which `decoded` samples were found, and gives each sample that is not among them
    /// its end.
    pub fn settle(
        &mut self,
        buffer: &Buffer<'_>,
        decoded: u64,
        account: &mut VcpuAccount,
        faults: &FaultLog,
    ) {
        let header = &buffer.header;
        let vcpu = header.vcpu.get();
        let sequence = header.sequence.get();
        if sequence != self.next_sequence {
            let expected = self.next_sequence;
            faults.count(Fault::SequenceGap, || {
                format!("vCPU {vcpu}: buffer {sequence}, not {expected}")
            });
        }
        self.next_sequence = sequence.wrapping_add(1);
        let claimed = buffer.claimed();
        if claimed != decoded {
            faults.count(Fault::SampleCount, || {
                format!("vCPU {vcpu}: {decoded} samples, not {claimed}")
            });
        }
        let malformed = claimed.saturating_sub(decoded);
        let delta = |last: &mut u64, now: u64| {
            let delta = now.checked_sub(*last).filter(|&delta| delta <= MAX_DELTA);
            *last = now;
            delta.unwrap_or_else(|| {
                faults.count(Fault::BadCounter, || format!("vCPU {vcpu}"));
                0
            })
        };
        let lost = delta(&mut self.lost, header.lost.get());
        let invalid = delta(&mut self.invalid, header.invalid.get());
        let aborted = delta(&mut self.aborted, header.aborted.get());
        account.guest_received = header.received.get();
        account.malformed += malformed;
        account.lost += lost;
        account.invalid += invalid;
        account.aborted += aborted;
        account.received += decoded + malformed + lost + invalid;
    }
}
