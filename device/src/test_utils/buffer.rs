//! Sample buffers, entry by entry.

use oprofile_wire::PROTOCOL_VERSION;
use oprofile_wire::sample::{BufferHeader, ESCAPE, MAGIC, note, note_word};
use zerocopy::IntoBytes;

/// A sample buffer in the making; the header is right unless it is changed.
#[derive(Clone, Debug)]
pub struct BufferBuilder {
    /// The header; sizes and sample count follow the entries.
    pub header: BufferHeader,
    words: Vec<u64>,
}

impl BufferBuilder {
    /// Buffer number `sequence` of `vcpu`.
    #[must_use]
    pub fn new(vcpu: u32, sequence: u64) -> Self {
        let header = BufferHeader {
            magic: MAGIC.into(),
            version: PROTOCOL_VERSION.into(),
            header_bytes: u16::try_from(size_of::<BufferHeader>()).unwrap().into(),
            vcpu: vcpu.into(),
            sequence: sequence.into(),
            ..BufferHeader::default()
        };
        Self {
            header,
            words: Vec::new(),
        }
    }

    /// Any words.
    #[must_use]
    pub fn words(mut self, words: &[u64]) -> Self {
        self.words.extend_from_slice(words);
        self.header.entry_bytes = u32::try_from(self.words.len() * 8).unwrap().into();
        self
    }

    /// A note that the task is now `task`, in user mode.
    #[must_use]
    pub fn user(self, task: u64) -> Self {
        let flags = note::KERNEL_CTX_SWITCH | note::USER_CTX_SWITCH;
        self.words(&[ESCAPE, note_word(flags, 1), task])
    }

    /// A note that the task is now `task`, in kernel mode.
    #[must_use]
    pub fn kernel(self, task: u64) -> Self {
        let flags = note::KERNEL_CTX_SWITCH | note::IS_KERNEL | note::USER_CTX_SWITCH;
        self.words(&[ESCAPE, note_word(flags, 1), task])
    }

    /// A note that a call chain begins.
    #[must_use]
    pub fn trace(self) -> Self {
        self.words(&[ESCAPE, note_word(note::TRACE_BEGIN, 0)])
    }

    /// A sample at `address`.
    #[must_use]
    pub fn sample(mut self, address: u64) -> Self {
        self.header.samples = (self.header.samples.get() + 1).into();
        self.words(&[address, 0])
    }

    /// A frame of a call chain.
    #[must_use]
    pub fn frame(self, address: u64) -> Self {
        self.words(&[address, 0])
    }

    /// Header and entries.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let words: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        [self.header.as_bytes(), &words].concat()
    }
}
