//! The state machine.

use std::hint::select_unpredictable;

use oprofile_wire::sample::{ENTRY_WORDS, ESCAPE, Entry, note};

use super::{Account, LANES, Lookup, Mortuary, Statistics, World};
use crate::event_buffer::EventBuffer;
use crate::event_buffer::record::{
    COOKIE_SWITCH, CPU_SWITCH, CTX_SWITCH, CTX_TGID, INVALID_COOKIE, KERNEL_ENTER, KERNEL_EXIT,
    NO_COOKIE, TRACE_BEGIN,
};

/// What lasts from sync to sync: counters, and the tasks that wait to be freed.
///
/// `T` is what [`Mortuary`] frees. One sync at a time: the caller's lock around the pipeline is OProfile's buffer mutex.
#[derive(Clone, Debug)]
pub struct Pipeline<T> {
    statistics: Statistics,
    account: Account,
    mortuary: Mortuary<T>,
}

impl<T> Default for Pipeline<T> {
    fn default() -> Self {
        Self {
            statistics: Statistics::default(),
            account: Account::default(),
            mortuary: Mortuary::default(),
        }
    }
}

impl<T> Pipeline<T> {
    /// Begins the sync of `vcpu`, whose words go to `events`.
    pub fn begin<'a, Mm>(
        &'a mut self,
        vcpu: u16,
        events: &'a mut EventBuffer,
    ) -> CpuSync<'a, Mm, T> {
        events.add_all([ESCAPE, CPU_SWITCH, u64::from(vcpu)]);
        CpuSync {
            pipeline: self,
            events,
            vcpu,
            last_cookie: INVALID_COOKIE,
            state: State::Start,
            chain: Chain::None,
            is_kernel: true,
            mm: None,
            exe_cookie: NO_COOKIE,
            announced: 0,
        }
    }

    /// The tasks that wait to be freed.
    #[must_use]
    pub const fn mortuary(&self) -> &Mortuary<T> {
        &self.mortuary
    }

    /// The tasks that wait to be freed, to bury one or to change the online set.
    pub const fn mortuary_mut(&mut self) -> &mut Mortuary<T> {
        &mut self.mortuary
    }

    /// OProfile's counters.
    #[must_use]
    pub const fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Counts OProfile's counters from zero again; where entries ended stays.
    pub fn reset_statistics(&mut self) {
        self.statistics = Statistics::default();
    }

    /// Where each entry ended.
    #[must_use]
    pub const fn account(&self) -> Account {
        self.account
    }
}

/// What is done with samples and frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Ignored: the mode is not known yet.
    Start,
    /// Taken; the first that cannot be resolved cuts the chain.
    Trace,
    /// Taken, each by itself.
    Plain,
    /// Ignored until the next chain begins.
    Ignore,
}

/// Whether a plain entry is a sample or a frame. Only the account needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    /// A sample, and so is the next.
    None,
    /// A sample, frames follow until the next note.
    Head,
    /// A frame.
    Frames,
}

/// Where a sample or frame ends: in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kernel,
    File,
    Anonymous,
    NoMm,
    NoMapping,
    Raced,
    Throttled,
    Ignored,
    LostOverflow,
}

impl End {
    /// Whether the address could not be resolved, which cuts a call chain.
    const fn is_unresolved(self) -> bool {
        matches!(
            self,
            Self::NoMm | Self::NoMapping | Self::Raced | Self::Throttled
        )
    }
}

/// The sync of one vCPU. Give it the entries in their order, then [`end`](Self::end) it.
#[derive(Debug)]
#[must_use = "a sync that is not ended marks no vCPU"]
pub struct CpuSync<'a, Mm, T> {
    pipeline: &'a mut Pipeline<T>,
    events: &'a mut EventBuffer,
    vcpu: u16,
    /// Cookie of the last cookie switch; lasts over tasks, modes and buffers.
    last_cookie: u64,
    state: State,
    chain: Chain,
    is_kernel: bool,
    mm: Option<Mm>,
    /// Cookie of the main program of `mm`.
    exe_cookie: u64,
    /// Samples in a row that the world was told of and that have not come yet.
    announced: u32,
}

impl<Mm: Copy + PartialEq, T> CpuSync<'_, Mm, T> {
    /// A new sample buffer begins: nothing is known of mode and task until its notes tell.
    pub fn boundary(&mut self) {
        self.state = State::Start;
        self.chain = Chain::None;
        self.is_kernel = true;
        self.mm = None;
        self.exe_cookie = NO_COOKIE;
        self.announced = 0;
    }

    /// Takes the next entry.
    #[inline]
    pub fn entry<W: World<Mm = Mm>>(&mut self, world: &mut W, entry: Entry<'_>) {
        self.entry_before(world, entry, &[]);
    }

    /// Takes the next entry; `words` are those behind it, as far as they are known.
    #[inline]
    pub fn entry_before<W: World<Mm = Mm>>(
        &mut self,
        world: &mut W,
        entry: Entry<'_>,
        words: &[u64],
    ) {
        if entry.eip == ESCAPE {
            self.announced = 0;
            self.note(world, entry.event, entry.data);
        } else {
            self.sample(world, [entry.eip, entry.event], words);
        }
    }

    /// Where each entry ended so far.
    #[must_use]
    pub const fn account(&self) -> &Account {
        &self.pipeline.account
    }

    /// Ends the sync: marks the vCPU, and returns what is free now that it has been synced.
    #[must_use = "what is returned is free"]
    pub fn end(self) -> Vec<T> {
        self.pipeline.mortuary.mark(self.vcpu)
    }

    fn note<W: World<Mm = Mm>>(&mut self, world: &mut W, flags: u64, data: &[u64]) {
        self.chain = Chain::None;
        if flags & note::TRACE_BEGIN != 0 {
            self.state = State::Trace;
            self.chain = Chain::Head;
            self.events.add_all([ESCAPE, TRACE_BEGIN]);
        }
        if flags & note::KERNEL_CTX_SWITCH != 0 {
            self.is_kernel = flags & note::IS_KERNEL != 0;
            if self.state == State::Start {
                self.state = State::Plain;
            }
            let code = if self.is_kernel {
                KERNEL_ENTER
            } else {
                KERNEL_EXIT
            };
            self.events.add_all([ESCAPE, code]);
        }
        let record = match data {
            [task, record @ ..] if flags & note::USER_CTX_SWITCH != 0 => {
                self.switch_task(world, *task);
                record
            }
            record => record,
        };
        if !record.is_empty() {
            self.data_record(world, record);
        }
    }

    fn switch_task<W: World<Mm = Mm>>(&mut self, world: &mut W, pointer: u64) {
        let (pid, tgid, mm) = match world.task(pointer) {
            Some(task) => (task.pid, task.tgid, task.mm),
            None => {
                self.pipeline.account.bad_task += 1;
                (0, 0, None)
            }
        };
        if mm != self.mm {
            self.mm = mm;
            self.exe_cookie = mm.map_or(NO_COOKIE, |mm| world.exe_cookie(mm));
        }
        self.events
            .add_all([ESCAPE, CTX_SWITCH, u64::from(pid), self.exe_cookie]);
        self.events.add_all([ESCAPE, CTX_TGID, u64::from(tgid)]);
    }

    #[inline]
    fn sample<W: World<Mm = Mm>>(
        &mut self,
        world: &mut W,
        [address, event]: [u64; 2],
        words: &[u64],
    ) {
        let end = match self.state {
            State::Start | State::Ignore => End::Ignored,
            State::Trace | State::Plain if self.is_kernel => {
                self.emit(End::Kernel, [address, event])
            }
            State::Trace | State::Plain => self.user_sample(world, [address, event], words),
        };
        if end.is_unresolved() && self.state == State::Trace {
            self.state = State::Ignore;
            self.pipeline.statistics.bt_lost_no_mapping += 1;
        }
        if self.chain == Chain::Frames {
            self.count_frame(end);
        } else {
            if self.chain == Chain::Head {
                self.chain = Chain::Frames;
            }
            self.count_sample(end);
        }
    }

    /// Tells the world of the samples that follow one at `address` up to the next note.
    #[inline]
    fn look_ahead<W: World<Mm = Mm>>(
        &mut self,
        world: &mut W,
        mm: Mm,
        address: u64,
        words: &[u64],
    ) {
        let mut addresses = [address; LANES];
        let mut is_run = true;
        self.announced = 1;
        let next = words.chunks_exact(ENTRY_WORDS);
        for (place, entry) in addresses[1..].iter_mut().zip(next) {
            let eip = entry[0];
            // No branches: where a run ends cannot be foretold.
            is_run &= eip != ESCAPE;
            *place = select_unpredictable(is_run, eip, address);
            self.announced += u32::from(is_run);
        }
        world.look_ahead(mm, addresses);
    }

    #[inline]
    fn user_sample<W: World<Mm = Mm>>(
        &mut self,
        world: &mut W,
        [address, event]: [u64; 2],
        words: &[u64],
    ) -> End {
        let Some(mm) = self.mm else {
            self.pipeline.statistics.sample_lost_no_mm += 1;
            return End::NoMm;
        };
        if self.announced == 0 {
            self.look_ahead(world, mm, address, words);
        }
        self.announced -= 1;
        let found = world.lookup(mm, address);
        match found {
            // One arm, and no branch: which of the two comes next cannot be foretold.
            Lookup::File { cookie, offset } | Lookup::Anonymous { cookie, offset } => {
                let end = match found {
                    Lookup::Anonymous { .. } => End::Anonymous,
                    _ => End::File,
                };
                if cookie == self.last_cookie {
                    return self.emit(end, [offset, event]);
                }
                self.last_cookie = cookie;
                self.emit(end, [ESCAPE, COOKIE_SWITCH, cookie, offset, event])
            }
            Lookup::Unmapped => {
                self.pipeline.statistics.sample_lost_no_mapping += 1;
                End::NoMapping
            }
            Lookup::Raced => End::Raced,
            Lookup::Throttled => End::Throttled,
        }
    }

    /// A sample's words, in one go with a cookie switch if it needs one. `end` is where it ends when they fit.
    #[inline]
    fn emit<const N: usize>(&mut self, end: End, words: [u64; N]) -> End {
        if self.events.add_all(words) {
            end
        } else {
            End::LostOverflow
        }
    }

    #[inline]
    fn switch_cookie(&mut self, cookie: u64) {
        if cookie != self.last_cookie {
            self.events.add_all([ESCAPE, COOKIE_SWITCH, cookie]);
            self.last_cookie = cookie;
        }
    }

    /// A record of words from the processor's own sampling. The mode plays no part in its look-up, and one that cannot
    /// be resolved is emitted all the same, with its address as it is.
    fn data_record<W: World<Mm = Mm>>(&mut self, world: &mut W, record: &[u64]) {
        let [code, address, first, rest @ ..] = record else {
            self.pipeline.account.data_short += 1;
            return;
        };
        let mut word = *address;
        if let Some(mm) = self.mm {
            let cookie = match world.lookup(mm, *address) {
                Lookup::File { cookie, offset } | Lookup::Anonymous { cookie, offset } => {
                    word = offset;
                    cookie
                }
                Lookup::Unmapped => {
                    self.pipeline.statistics.sample_lost_no_mapping += 1;
                    INVALID_COOKIE
                }
                Lookup::Raced => {
                    self.pipeline.account.data_raced += 1;
                    INVALID_COOKIE
                }
                Lookup::Throttled => {
                    self.pipeline.account.data_throttled += 1;
                    INVALID_COOKIE
                }
            };
            self.switch_cookie(cookie);
        }
        let mut fitted = self.events.add_all([ESCAPE, *code, word, *first]);
        for &value in rest {
            fitted = self.events.add(value);
        }
        if fitted {
            self.pipeline.account.data_records += 1;
        } else {
            self.pipeline.account.data_overflow += 1;
        }
    }

    #[inline]
    fn count_sample(&mut self, end: End) {
        let account = &mut self.pipeline.account;
        *match end {
            End::Kernel => &mut account.kernel,
            End::File => &mut account.file,
            End::Anonymous => &mut account.anonymous,
            End::NoMm => &mut account.no_mm,
            End::NoMapping => &mut account.no_mapping,
            End::Raced => &mut account.raced,
            End::Throttled => &mut account.throttled,
            End::Ignored => &mut account.ignored,
            End::LostOverflow => &mut account.lost_overflow,
        } += 1;
    }

    #[inline]
    fn count_frame(&mut self, end: End) {
        let account = &mut self.pipeline.account;
        *match end {
            End::Kernel | End::File | End::Anonymous => &mut account.frames,
            End::NoMm
            | End::NoMapping
            | End::Raced
            | End::Throttled
            | End::Ignored
            | End::LostOverflow => &mut account.frames_lost,
        } += 1;
    }
}
