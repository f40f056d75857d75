//! OProfile's CPU-buffer writer: one per vCPU, generic over where the entries go.
//!
//! A note is written only when something changed: the mode, the task, or with a backtrace depth the beginning of
//! a call chain. The state that decides so moves on *before* room is asked for: a note that found no room is
//! not retried (OProfile 4.7 does the same, and the golden vectors pin it). A store whose entries must be
//! understood on their own resets the state with [`Writer::reset_notes`] when it starts over.
//!
//! Plain `&mut` methods and no locks: the caller makes sure that nothing else writes for this vCPU meanwhile.

use oprofile_wire::sample::{ESCAPE, note};

/// The task pointer that stands for "none".
pub const NO_TASK: u64 = 0;

/// Where entries go: a FIFO, or the words of an open sample buffer.
pub trait EntryStore {
    /// Appends an entry with `data_words` words of data and returns those, zeroed, for the caller to fill;
    /// `None` when there is no room, and then nothing has changed.
    fn reserve(&mut self, eip: u64, event: u64, data_words: usize) -> Option<&mut [u64]>;

    /// Appends a whole entry; false when there is no room.
    #[inline]
    fn write(&mut self, eip: u64, event: u64, data: &[u64]) -> bool {
        match self.reserve(eip, event, data.len()) {
            Some(words) => {
                words.copy_from_slice(data);
                true
            }
            None => false,
        }
    }
}

/// What a vCPU's writer has counted. They only grow, until [`Writer::reset_counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Samples offered, also invalid and lost ones; frames do not count.
    pub received: u64,
    /// Samples for which there was no room.
    pub lost: u64,
    /// Call chains cut short: a frame was [`ESCAPE`] or found no room.
    pub aborted: u64,
    /// Samples whose address was [`ESCAPE`].
    pub invalid: u64,
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Sampled address; [`ESCAPE`] when it is not known.
    pub pc: u64,
    /// Taken in kernel mode.
    pub is_kernel: bool,
    /// Number of the counter that expired; 0 for time.
    pub event: u64,
    /// Pointer to the task that it belongs to.
    pub task: u64,
}

/// A vCPU's writer.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// Mode that the last note told, `None` when the next sample must tell it.
    last_is_kernel: Option<bool>,
    /// Task that the last note told, [`NO_TASK`] when the next sample must tell it.
    last_task: u64,
    tracing: bool,
    counters: Counters,
}

/// Offers the frames of one call chain, nearest caller first.
#[derive(Debug)]
pub struct Tracer<'a, S> {
    writer: &'a mut Writer,
    store: &'a mut S,
}

impl<S: EntryStore> Tracer<'_, S> {
    /// Offers the next frame; false when the chain has been cut and further frames would be ignored.
    #[inline]
    pub fn frame(&mut self, pc: u64) -> bool {
        self.writer.add_trace(self.store, pc);
        self.writer.tracing
    }
}

/// A data record that could not be reserved has been committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReserved;

/// A data record being filled. Words that are not filled stay zero.
#[derive(Debug)]
pub struct DataSample<'a> {
    /// The value words; `None` when the record found no room.
    words: Option<&'a mut [u64]>,
    filled: usize,
}

impl DataSample<'_> {
    /// Adds a word and returns how many are still free. So 0 means both "that was the last" and "refused".
    pub fn add(&mut self, word: u64) -> usize {
        self.fill([word])
    }

    /// Adds a value as two words, its low 32 bits first, and returns how many words are still free. With fewer
    /// than two free it adds nothing and returns 0.
    pub fn add64(&mut self, value: u64) -> usize {
        self.fill([value & 0xffff_ffff, value >> 32])
    }

    fn fill<const N: usize>(&mut self, values: [u64; N]) -> usize {
        let Some(free) = self.words.as_mut().and_then(|w| w.get_mut(self.filled..)) else {
            return 0;
        };
        let Some(target) = free.first_chunk_mut() else {
            return 0;
        };
        *target = values;
        self.filled += N;
        free.len() - N
    }

    /// Ends the record.
    ///
    /// # Errors
    /// When there was no room for it; the loss has been counted already.
    pub fn commit(self) -> Result<(), NotReserved> {
        self.words.map(|_| ()).ok_or(NotReserved)
    }
}

impl Writer {
    /// Words of a data record in front of its values: code and address.
    const DATA_RECORD_HEAD: usize = 2;

    /// A writer that knows neither mode nor task, counters at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            last_is_kernel: None,
            last_task: NO_TASK,
            tracing: false,
            counters: Counters {
                received: 0,
                lost: 0,
                aborted: 0,
                invalid: 0,
            },
        }
    }

    /// What has been counted.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Counts from zero again; mode and task stay known.
    pub fn reset_counters(&mut self) {
        self.counters = Counters::default();
    }

    /// First store of a reset: the next sample tells its mode.
    pub fn forget_mode(&mut self) {
        self.last_is_kernel = None;
    }

    /// Second store of a reset: the next sample tells its task. OProfile's sync does the two one after the other, and a
    /// sample that interrupts it in between gets a note with the task only.
    pub fn forget_task(&mut self) {
        self.last_task = NO_TASK;
    }

    /// The next sample tells mode and task.
    #[inline]
    pub fn reset_notes(&mut self) {
        self.forget_mode();
        self.forget_task();
    }

    /// Counts a sample that was lost elsewhere.
    pub fn inc_lost(&mut self) {
        self.counters.lost += 1;
    }

    /// Counts samples that were taken and lost before they came here.
    pub fn lose(&mut self, count: u32) {
        self.counters.received += u64::from(count);
        self.counters.lost += u64::from(count);
    }

    /// Writes a sample and, with a `depth` other than 0, its call chain: `walk` offers the frames, and is told the low
    /// 32 bits of the depth, which bounds nothing by itself. Returns whether the sample was written.
    ///
    /// OProfile's `add_sample`, `add_ext_sample` and `add_ext_hw_sample`.
    #[inline]
    pub fn sample<S: EntryStore>(
        &mut self,
        store: &mut S,
        sample: &Sample,
        depth: u64,
        walk: impl FnOnce(u32, &mut Tracer<'_, S>),
    ) -> bool {
        let begin = if depth == 0 { 0 } else { note::TRACE_BEGIN };
        if !self.log(store, sample, begin) {
            return false;
        }
        if depth != 0 {
            self.tracing = true;
            let mut tracer = Tracer {
                writer: self,
                store,
            };
            // The setting is an unsigned long, but OProfile's walkers take 32 bits of it.
            #[expect(clippy::cast_possible_truncation)]
            walk(depth as u32, &mut tracer);
            self.tracing = false;
        }
        true
    }

    /// A sample without registers: received and invalid, nothing is written.
    pub fn sample_without_registers(&mut self) {
        self.counters.received += 1;
        self.counters.invalid += 1;
    }

    /// Writes a sample that never begins a call chain. Returns whether it was written.
    #[inline]
    pub fn add_pc<S: EntryStore>(&mut self, store: &mut S, sample: &Sample) -> bool {
        self.log(store, sample, 0)
    }

    /// Writes a frame of the call chain being traced; ignored outside one.
    #[inline]
    pub fn add_trace<S: EntryStore>(&mut self, store: &mut S, pc: u64) {
        if !self.tracing {
            return;
        }
        if pc == ESCAPE || !store.write(pc, 0, &[]) {
            self.tracing = false;
            self.counters.aborted += 1;
        }
    }

    /// Reserves a data record of `values` value words. Unlike a sample's, its address is not checked. When there is no
    /// room the sample counts as lost, and the record takes nothing.
    pub fn reserve_data<'a, S: EntryStore>(
        &mut self,
        store: &'a mut S,
        sample: &Sample,
        code: u64,
        values: usize,
    ) -> DataSample<'a> {
        self.counters.received += 1;
        let words = if self.write_note(store, sample, 0) {
            store
                .reserve(ESCAPE, 0, values.saturating_add(Self::DATA_RECORD_HEAD))
                .and_then(|words| words.split_first_chunk_mut())
                .map(|(head, values): (&mut [u64; Self::DATA_RECORD_HEAD], _)| {
                    *head = [code, sample.pc];
                    values
                })
        } else {
            None
        };
        if words.is_none() {
            self.counters.lost += 1;
        }
        DataSample { words, filled: 0 }
    }

    #[inline]
    fn log<S: EntryStore>(&mut self, store: &mut S, sample: &Sample, begin: u64) -> bool {
        self.counters.received += 1;
        if sample.pc == ESCAPE {
            self.counters.invalid += 1;
            return false;
        }
        let written =
            self.write_note(store, sample, begin) && store.write(sample.pc, sample.event, &[]);
        if !written {
            self.counters.lost += 1;
        }
        written
    }

    /// Writes the note that `sample` needs, if any; false when there was no room. The state moves on either way.
    #[inline]
    fn write_note<S: EntryStore>(&mut self, store: &mut S, sample: &Sample, begin: u64) -> bool {
        let mut flags = begin;
        if self.last_is_kernel != Some(sample.is_kernel) {
            self.last_is_kernel = Some(sample.is_kernel);
            flags |= note::KERNEL_CTX_SWITCH;
            if sample.is_kernel {
                flags |= note::IS_KERNEL;
            }
        }
        let task_changed = self.last_task != sample.task;
        if task_changed {
            self.last_task = sample.task;
            flags |= note::USER_CTX_SWITCH;
        }
        if flags == 0 {
            return true;
        }
        let task = [sample.task];
        store.write(ESCAPE, flags, if task_changed { &task } else { &[] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER_PC: u64 = 0x40_0100;
    const KERNEL_PC: u64 = 0xffff_ffff_8100_0123;
    const TASK: u64 = 0x2000_0000;
    const OTHER_TASK: u64 = 0x2000_0400;

    /// A FIFO with OProfile's nominal byte budget (20 bytes for each entry of its size).
    struct Fifo {
        entries: Vec<Vec<u64>>,
        free: usize,
    }

    impl Fifo {
        fn of_entries(count: usize) -> Self {
            Self {
                entries: Vec::new(),
                free: count * 20,
            }
        }
    }

    impl EntryStore for Fifo {
        fn reserve(&mut self, eip: u64, event: u64, data_words: usize) -> Option<&mut [u64]> {
            let bytes = 8 * (2 + data_words);
            let cost = bytes + if bytes > 112 { 8 } else { 4 };
            self.free = self.free.checked_sub(cost)?;
            let mut entry = vec![eip, event];
            entry.resize(2 + data_words, 0);
            self.entries.push(entry);
            self.entries.last_mut().map(|entry| &mut entry[2..])
        }
    }

    fn user(pc: u64, task: u64) -> Sample {
        Sample {
            pc,
            is_kernel: false,
            event: 0,
            task,
        }
    }

    fn kernel(pc: u64, task: u64) -> Sample {
        Sample {
            is_kernel: true,
            ..user(pc, task)
        }
    }

    fn frames<S: EntryStore>(list: &[u64]) -> impl FnOnce(u32, &mut Tracer<'_, S>) {
        move |depth, tracer| {
            for &pc in list.iter().take(depth as usize) {
                tracer.frame(pc);
            }
        }
    }

    #[test]
    fn notes_are_written_on_change_only_and_combined() {
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(256));
        for sample in [
            user(USER_PC, TASK),
            user(USER_PC + 4, TASK),
            kernel(KERNEL_PC, TASK),
            kernel(KERNEL_PC, OTHER_TASK),
            user(USER_PC, TASK),
        ] {
            assert!(writer.add_pc(&mut fifo, &sample));
        }
        assert_eq!(
            fifo.entries,
            [
                vec![ESCAPE, 9, TASK],
                vec![USER_PC, 0],
                vec![USER_PC + 4, 0],
                vec![ESCAPE, 3],
                vec![KERNEL_PC, 0],
                vec![ESCAPE, 8, OTHER_TASK],
                vec![KERNEL_PC, 0],
                vec![ESCAPE, 9, TASK],
                vec![USER_PC, 0],
            ]
        );
    }

    #[test]
    fn full_store_loses_the_sample_and_keeps_its_note() {
        // One note with a task (28) and two samples (40) leave 12 bytes of 100 once a bare note (20) is in.
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(5));
        writer.add_pc(&mut fifo, &user(USER_PC, TASK));
        writer.add_pc(&mut fifo, &user(USER_PC, TASK));
        assert!(!writer.add_pc(&mut fifo, &kernel(KERNEL_PC, TASK)));
        assert_eq!(fifo.entries.last(), Some(&vec![ESCAPE, 3]));
        assert_eq!(writer.counters().received, 3);
        assert_eq!(writer.counters().lost, 1);
    }

    #[test]
    fn lost_note_is_not_retried() {
        // 28 + 20 of 72 bytes are taken: no room for a note with a task, but for a bare entry.
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(0));
        fifo.free = 72;
        writer.add_pc(&mut fifo, &user(USER_PC, TASK));
        assert!(!writer.add_pc(&mut fifo, &user(USER_PC, OTHER_TASK)));
        assert!(writer.add_pc(&mut fifo, &user(USER_PC, OTHER_TASK)));
        assert_eq!(
            fifo.entries,
            [vec![ESCAPE, 9, TASK], vec![USER_PC, 0], vec![USER_PC, 0]]
        );
    }

    #[test]
    fn escape_address_is_invalid_and_not_lost() {
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(256));
        assert!(!writer.sample(&mut fifo, &user(ESCAPE, TASK), 4, frames(&[USER_PC])));
        writer.sample_without_registers();
        assert!(fifo.entries.is_empty());
        assert_eq!(
            writer.counters(),
            Counters {
                received: 2,
                invalid: 2,
                ..Counters::default()
            }
        );
    }

    #[test]
    fn every_sample_with_a_depth_begins_a_trace_even_without_frames() {
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(256));
        writer.sample(&mut fifo, &user(USER_PC, TASK), 2, frames(&[1, 2, 3]));
        writer.sample(&mut fifo, &user(USER_PC, TASK), 2, frames(&[]));
        // The walker sees 32 bits of the depth, here none.
        writer.sample(&mut fifo, &user(USER_PC, TASK), 1 << 32, frames(&[1]));
        assert_eq!(
            fifo.entries,
            [
                vec![ESCAPE, 13, TASK],
                vec![USER_PC, 0],
                vec![1, 0],
                vec![2, 0],
                vec![ESCAPE, 4],
                vec![USER_PC, 0],
                vec![ESCAPE, 4],
                vec![USER_PC, 0],
            ]
        );
    }

    #[test]
    fn escape_frame_aborts_its_trace_only() {
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(256));
        writer.sample(&mut fifo, &user(USER_PC, TASK), 3, frames(&[1, ESCAPE, 3]));
        writer.sample(&mut fifo, &user(USER_PC, TASK), 3, frames(&[5]));
        writer.add_trace(&mut fifo, 7);
        assert_eq!(
            fifo.entries[1..],
            [
                vec![USER_PC, 0],
                vec![1, 0],
                vec![ESCAPE, 4],
                vec![USER_PC, 0],
                vec![5, 0]
            ]
        );
        assert_eq!(writer.counters().aborted, 1);
        assert_eq!(writer.counters().lost, 0);
    }

    #[test]
    fn frame_without_room_aborts_and_does_not_count_as_lost() {
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(0));
        fifo.free = 28 + 20 + 20;
        assert!(writer.sample(&mut fifo, &user(USER_PC, TASK), 3, frames(&[1, 2, 3])));
        assert_eq!(writer.counters().aborted, 1);
        assert_eq!(writer.counters().lost, 0);
        assert_eq!(fifo.entries.len(), 3);
    }

    #[test]
    fn data_record_splits_values_and_tells_the_room_left() {
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(256));
        let mut record = writer.reserve_data(&mut fifo, &user(USER_PC, TASK), 13, 6);
        assert_eq!(record.add64(USER_PC), 4);
        assert_eq!(record.add64(0x1122_3344_5566_7788), 2);
        assert_eq!(record.add64(0xffff_ffff_0000_0001), 0);
        assert_eq!(record.commit(), Ok(()));
        let expected = [
            ESCAPE,
            0,
            13,
            USER_PC,
            USER_PC,
            0,
            0x5566_7788,
            0x1122_3344,
            1,
            0xffff_ffff,
        ];
        assert_eq!(fifo.entries[0], [ESCAPE, 9, TASK]);
        assert_eq!(fifo.entries[1], expected);
    }

    #[test]
    fn data_record_refuses_what_does_not_fit_and_goes_on() {
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(256));
        let mut record = writer.reserve_data(&mut fifo, &kernel(ESCAPE, TASK), 14, 3);
        let adds = [
            record.add64(5),
            record.add64(6),
            record.add(7),
            record.add(8),
        ];
        assert_eq!(adds, [1, 0, 0, 0]);
        assert_eq!(record.commit(), Ok(()));
        assert_eq!(fifo.entries[1], [ESCAPE, 0, 14, ESCAPE, 5, 0, 7]);
        assert_eq!(writer.counters().invalid, 0);
    }

    #[test]
    fn data_record_without_room_is_lost_and_dead() {
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(2));
        let mut record = writer.reserve_data(&mut fifo, &user(USER_PC, TASK), 13, 6);
        assert_eq!((record.add(1), record.add64(2)), (0, 0));
        assert_eq!(record.commit(), Err(NotReserved));
        assert_eq!(writer.counters().received, 1);
        assert_eq!(writer.counters().lost, 1);
    }

    #[test]
    fn half_a_reset_repeats_only_its_half_of_the_note() {
        let (mut writer, mut fifo) = (Writer::new(), Fifo::of_entries(256));
        writer.add_pc(&mut fifo, &user(USER_PC, TASK));
        writer.forget_mode();
        writer.add_pc(&mut fifo, &user(USER_PC, TASK));
        writer.forget_task();
        writer.add_pc(&mut fifo, &user(USER_PC, TASK));
        assert_eq!(fifo.entries[2], [ESCAPE, 1]);
        assert_eq!(fifo.entries[4], [ESCAPE, 8, TASK]);
    }
}
