//! A workload on its way: writer, words, pipeline, event buffer.

use std::iter;

use oprofile_device::event_buffer::{EventBuffer, SizeError};
use oprofile_device::sync::{Account, Pipeline, World};
use oprofile_guest_agent::writer::{EntryStore, Tracer, Writer};
use oprofile_wire::sample::{ENTRY_WORDS, ESCAPE, Entries, note_word};

use crate::file::{Sample, Workload};
use crate::stream::StreamHash;
use crate::world::ScriptedWorld;

/// OProfile's sizes of the event buffer, in words.
const BUFFER_SIZE: usize = 131_072;
const BUFFER_WATERSHED: usize = 32_768;

/// Most words of a sample without its frames: a note with a task, and itself.
const SAMPLE_WORDS: usize = 5;

/// The words of a sample buffer, without a header, allocated once.
#[derive(Clone, Debug)]
pub struct WordStore {
    words: Vec<u64>,
    used: usize,
}

impl WordStore {
    /// Room for `capacity` words.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            words: vec![0; capacity],
            used: 0,
        }
    }

    /// What has been written.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words[..self.used]
    }

    /// Empties it.
    pub const fn clear(&mut self) {
        self.used = 0;
    }
}

impl EntryStore for WordStore {
    #[inline]
    fn reserve(&mut self, eip: u64, event: u64, data_words: usize) -> Option<&mut [u64]> {
        let end = self.used + ENTRY_WORDS + data_words;
        let words = self.words.get_mut(self.used..end)?;
        let (head, data) = words.split_first_chunk_mut()?;
        *head = if eip == ESCAPE {
            [ESCAPE, note_word(event, data_words)]
        } else {
            [eip, event]
        };
        data.fill(0);
        self.used = end;
        Some(data)
    }
}

/// Writes `samples` as one sample buffer, which can be understood without the one before.
///
/// `pointer` gives the pointer of a task. Returns how many samples found no room.
#[inline]
pub fn write<S: EntryStore>(
    writer: &mut Writer,
    store: &mut S,
    workload: &Workload,
    samples: &[Sample],
    pointer: impl Fn(u32) -> u64,
) -> usize {
    writer.reset_notes();
    let mut lost = 0;
    for sample in samples {
        let entry = oprofile_guest_agent::Sample {
            pc: sample.pc,
            is_kernel: sample.is_kernel,
            event: sample.event.into(),
            task: pointer(sample.task),
        };
        let walk = |depth: u32, tracer: &mut Tracer<'_, S>| {
            for &pc in workload.chain(sample).iter().take(depth as usize) {
                tracer.frame(pc);
            }
        };
        lost += usize::from(!writer.sample(store, &entry, workload.depth, walk));
    }
    lost
}

/// Most words that a batch of `workload` takes in a sample buffer.
#[must_use]
pub fn most_words(workload: &Workload) -> usize {
    let batches = workload.batches();
    let words = |batch: &[Sample]| {
        let frames: usize = batch.iter().map(|sample| usize::from(sample.frames)).sum();
        SAMPLE_WORDS * batch.len() + ENTRY_WORDS * frames
    };
    batches.map(words).max().unwrap_or(0)
}

/// The steps from samples to the words of an event stream, for one CPU.
#[derive(Debug)]
pub struct Replay<'a, W = ScriptedWorld> {
    workload: &'a Workload,
    world: W,
    writer: Writer,
    store: WordStore,
    pipeline: Pipeline<()>,
    events: EventBuffer,
    words: Vec<u64>,
}

impl<'a> Replay<'a> {
    /// Everything empty, over the scripted world of `workload`.
    ///
    /// # Errors
    /// None, with these sizes of the event buffer.
    pub fn new(workload: &'a Workload) -> Result<Self, SizeError> {
        Ok(Self {
            workload,
            world: ScriptedWorld::new(workload),
            writer: Writer::new(),
            store: WordStore::new(most_words(workload)),
            pipeline: Pipeline::default(),
            events: EventBuffer::new(BUFFER_SIZE, BUFFER_WATERSHED)?,
            words: Vec::with_capacity(BUFFER_SIZE),
        })
    }
}

impl<W: World> Replay<'_, W> {
    /// Writes a batch of samples. Returns how many found no room.
    pub fn write(&mut self, batch: &[Sample]) -> usize {
        self.store.clear();
        let pointer = ScriptedWorld::task_pointer;
        write(
            &mut self.writer,
            &mut self.store,
            self.workload,
            batch,
            pointer,
        )
    }

    /// Syncs what was written.
    pub fn sync(&mut self) {
        let mut sync = self.pipeline.begin(0, &mut self.events);
        sync.boundary();
        // What the writer wrote has no errors.
        for entry in Entries::new(self.store.words()).flatten() {
            sync.entry(&mut self.world, entry);
        }
        drop(sync.end());
    }

    /// Reads the event buffer when it is ready, or `anyway`; what it held is in [`Replay::words`] then.
    pub fn read(&mut self, anyway: bool) {
        self.words.clear();
        if anyway || self.events.is_ready() {
            self.events.take(&mut self.words);
        }
    }

    /// What was read last.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Where each entry ended.
    #[must_use]
    pub const fn account(&self) -> Account {
        self.pipeline.account()
    }

    /// OProfile's counters.
    #[must_use]
    pub const fn statistics(&self) -> oprofile_device::sync::Statistics {
        self.pipeline.statistics()
    }

    /// All of it once; the hash of the stream.
    #[must_use]
    pub fn run(&mut self) -> StreamHash {
        let mut stream = StreamHash::default();
        let workload = self.workload;
        let last: iter::Once<&[Sample]> = iter::once(&[]);
        let mut lost = 0;
        for batch in workload.batches().chain(last) {
            if !batch.is_empty() {
                lost += self.write(batch);
                self.sync();
            }
            self.read(batch.is_empty());
            stream.add(&self.words, ScriptedWorld::file_index);
        }
        debug_assert_eq!(lost, 0, "the store is made for the largest batch");
        stream
    }
}
