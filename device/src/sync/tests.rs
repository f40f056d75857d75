//! The pipeline over a scripted world.

use super::*;
use crate::event_buffer::EventBuffer;
use oprofile_wire::sample::{ESCAPE, Entries, Entry, note};
use proptest::prelude::*;

const KERNEL: u64 = note::KERNEL_CTX_SWITCH | note::IS_KERNEL;
const USER: u64 = note::KERNEL_CTX_SWITCH;
const TASK: u64 = note::USER_CTX_SWITCH;
const TRACE: u64 = note::TRACE_BEGIN;

/// A task pointer is answered by its value: 0 is unreadable, odd has no address space, the others have number
/// `pointer / 2`. In each of those, addresses have a kind by their hundreds: file (cookie 10 + address space, so that two
/// never share one), file of cookie 50 in all of them, anonymous, raced, throttled, else unmapped.
struct Scripted;

impl World for Scripted {
    type Mm = u64;

    fn task(&mut self, pointer: u64) -> Option<Task<u64>> {
        (pointer != 0).then(|| Task {
            pid: u32::try_from(100 + pointer).unwrap(),
            tgid: u32::try_from(200 + pointer).unwrap(),
            mm: pointer.is_multiple_of(2).then_some(pointer / 2),
        })
    }

    fn exe_cookie(&mut self, mm: u64) -> u64 {
        10 + mm
    }

    fn lookup(&mut self, mm: u64, address: u64) -> Lookup {
        match address / 100 {
            0 => Lookup::File {
                cookie: 10 + mm,
                offset: 1000 + address,
            },
            1 => Lookup::File {
                cookie: 50,
                offset: 1000 + address,
            },
            2 => Lookup::Anonymous {
                cookie: 0,
                offset: address,
            },
            3 => Lookup::Raced,
            4 => Lookup::Throttled,
            _ => Lookup::Unmapped,
        }
    }
}

/// A note, or with any other `eip` a sample.
type Step = (u64, u64, Vec<u64>);

fn note_of(flags: u64, data: &[u64]) -> Step {
    (ESCAPE, flags, data.to_vec())
}

fn sample(address: u64) -> Step {
    (address, 0, Vec::new())
}

fn run(pipeline: &mut Pipeline<u64>, events: &mut EventBuffer, steps: &[Step]) -> Vec<u64> {
    let mut sync = pipeline.begin(0, events);
    for (eip, event, data) in steps {
        sync.entry(
            &mut Scripted,
            Entry {
                eip: *eip,
                event: *event,
                data,
            },
        );
    }
    sync.end()
}

/// The words of one sync behind its CPU switch record, and the account.
fn words_of(steps: &[Step]) -> (Vec<u64>, Account) {
    let mut events = EventBuffer::new(1000, 1).unwrap();
    let mut pipeline = Pipeline::default();
    run(&mut pipeline, &mut events, steps);
    (events.pending()[3..].to_vec(), pipeline.account())
}

/// A world that keeps what it was told and asked.
#[derive(Default)]
struct Listening {
    announced: Vec<(u64, [u64; LANES])>,
    asked: Vec<u64>,
}

impl World for Listening {
    type Mm = u64;

    fn task(&mut self, pointer: u64) -> Option<Task<u64>> {
        Scripted.task(pointer)
    }

    fn exe_cookie(&mut self, mm: u64) -> u64 {
        Scripted.exe_cookie(mm)
    }

    fn lookup(&mut self, mm: u64, address: u64) -> Lookup {
        self.asked.push(address);
        Scripted.lookup(mm, address)
    }

    fn look_ahead(&mut self, mm: u64, addresses: [u64; LANES]) {
        self.announced.push((mm, addresses));
    }
}

#[test]
fn samples_in_a_row_are_announced_up_to_the_next_note() {
    let user = [ESCAPE, oprofile_wire::sample::note_word(USER | TASK, 1), 4];
    let kernel = [ESCAPE, oprofile_wire::sample::note_word(KERNEL, 0)];
    let samples = |addresses: &[u64]| addresses.iter().flat_map(|&pc| [pc, 0]).collect::<Vec<_>>();
    let words = [
        &user[..],
        &samples(&[1, 2, 3, 4, 5, 6]),
        &kernel,
        &samples(&[7, 8]),
        &user,
        &samples(&[9]),
    ]
    .concat();
    let mut events = EventBuffer::new(1000, 1).unwrap();
    let mut pipeline = Pipeline::<u64>::default();
    let mut world = Listening::default();
    let mut sync = pipeline.begin(0, &mut events);
    let mut entries = Entries::new(&words);
    while let Some(entry) = entries.next() {
        sync.entry_before(&mut world, entry.unwrap(), entries.rest());
    }
    drop(sync.end());
    let expected = [(2, [1, 2, 3, 4]), (2, [5, 6, 5, 5]), (2, [9, 9, 9, 9])];
    assert_eq!(world.announced, expected);
    assert_eq!(world.asked, [1, 2, 3, 4, 5, 6, 9]);
}

#[test]
fn unreadable_task_is_a_task_without_names_or_memory() {
    let (words, account) = words_of(&[note_of(USER | TASK, &[0]), sample(5)]);
    assert_eq!(words, [ESCAPE, 5, ESCAPE, 1, 0, 0, ESCAPE, 7, 0]);
    assert_eq!((account.bad_task, account.no_mm), (1, 1));
}

#[test]
fn raced_sample_has_its_own_end_and_cuts_its_chain() {
    let steps = [
        note_of(USER | TASK | TRACE, &[2]),
        sample(300),
        sample(1),
        sample(2),
    ];
    let mut events = EventBuffer::new(1000, 1).unwrap();
    let mut pipeline = Pipeline::default();
    run(&mut pipeline, &mut events, &steps);
    assert_eq!(pipeline.account().raced, 1);
    assert_eq!(pipeline.account().frames_lost, 2);
    let statistics = Statistics {
        bt_lost_no_mapping: 1,
        ..Statistics::default()
    };
    assert_eq!(pipeline.statistics(), statistics);
}

#[test]
fn throttled_sample_and_data_record_have_their_own_counters() {
    let (words, account) = words_of(&[
        note_of(USER | TASK, &[2]),
        sample(400),
        note_of(0, &[13, 400, 7]),
    ]);
    assert_eq!(words[9..], [ESCAPE, 13, 400, 7]);
    assert_eq!((account.throttled, account.samples()), (1, 1));
    assert_eq!((account.data_records, account.data_throttled), (1, 1));
}

#[test]
fn raced_data_record_is_emitted_with_its_address() {
    let (words, account) = words_of(&[note_of(TASK, &[2]), note_of(0, &[13, 300, 7])]);
    assert_eq!(words[7..], [ESCAPE, 13, 300, 7]);
    assert_eq!((account.data_records, account.data_raced), (1, 1));
}

#[test]
fn a_new_buffer_starts_without_mode_and_task_but_keeps_the_cookie() {
    let mut events = EventBuffer::new(1000, 1).unwrap();
    let mut pipeline = Pipeline::<u64>::default();
    let mut sync = pipeline.begin(0, &mut events);
    let first = [USER | TASK, 0, USER | TASK];
    for (round, flags) in first.into_iter().enumerate() {
        sync.boundary();
        if flags != 0 {
            sync.entry(
                &mut Scripted,
                Entry {
                    eip: ESCAPE,
                    event: flags,
                    data: &[2],
                },
            );
        }
        sync.entry(
            &mut Scripted,
            Entry {
                eip: round as u64,
                event: 0,
                data: &[],
            },
        );
    }
    let _ = sync.end();
    assert_eq!(
        (pipeline.account().file, pipeline.account().ignored),
        (2, 1)
    );
    let cookie_switches = events
        .pending()
        .windows(3)
        .filter(|words| words == &[ESCAPE, 3, 11]);
    assert_eq!(cookie_switches.count(), 1);
}

#[test]
fn frames_are_not_counted_as_samples() {
    let steps = [
        note_of(USER | TASK | TRACE, &[2]),
        sample(1),
        sample(2),
        sample(500),
        sample(3),
        note_of(KERNEL | TRACE, &[]),
        sample(4),
        sample(5),
    ];
    let (_, account) = words_of(&steps);
    let expected = Account {
        file: 1,
        kernel: 1,
        frames: 2,
        frames_lost: 2,
        ..Account::default()
    };
    assert_eq!(account, expected);
}

#[test]
fn sample_behind_a_cut_chain_is_counted_as_ignored() {
    let steps = [
        note_of(USER | TASK | TRACE, &[2]),
        sample(500),
        note_of(KERNEL, &[]),
        sample(1),
        note_of(KERNEL | TRACE, &[]),
        sample(1),
    ];
    let (_, account) = words_of(&steps);
    let expected = Account {
        no_mapping: 1,
        ignored: 1,
        kernel: 1,
        ..Account::default()
    };
    assert_eq!(account, expected);
}

#[test]
fn sample_cut_between_its_words_is_lost_by_overflow() {
    let mut events = EventBuffer::new(6, 1).unwrap();
    let mut pipeline = Pipeline::default();
    run(
        &mut pipeline,
        &mut events,
        &[note_of(KERNEL, &[]), sample(9), sample(9)],
    );
    assert_eq!(events.pending(), [ESCAPE, 2, 0, ESCAPE, 4, 9]);
    assert_eq!(events.lost_words(), 3);
    let expected = Account {
        lost_overflow: 2,
        ..Account::default()
    };
    assert_eq!(pipeline.account(), expected);
}

#[test]
fn ending_a_sync_frees_what_the_second_pass_finds() {
    let mut events = EventBuffer::new(100, 1).unwrap();
    let mut pipeline = Pipeline::default();
    pipeline.mortuary_mut().register();
    pipeline
        .mortuary_mut()
        .set_online([0].into_iter().collect());
    assert_eq!(pipeline.mortuary_mut().bury(77), None);
    assert!(run(&mut pipeline, &mut events, &[]).is_empty());
    assert_eq!(run(&mut pipeline, &mut events, &[]), [77]);
}

/// Whole records of one sync: how often each word pair stands for a sample or frame.
fn count_pairs(words: &[u64]) -> u64 {
    let mut pairs = 0;
    let mut rest = words;
    while let [first, second, tail @ ..] = rest {
        let skip = match (*first, *second) {
            (ESCAPE, 1) => 2,
            (ESCAPE, 2 | 3 | 7) => 1,
            (ESCAPE, _) => 0,
            _ => {
                pairs += 1;
                0
            }
        };
        rest = tail.get(skip..).unwrap_or_default();
    }
    pairs
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..500).prop_map(sample),
        // Flags beyond the known ones are inert.
        3 => (0u64..32, 0u64..8).prop_map(|(flags, task)| note_of(flags, &[task])),
        1 => (0u64..16, 0u64..8, 0u64..500).prop_map(|(flags, task, address)| {
            note_of(flags, &[task, 13, address, 1])
        }),
        1 => (0u64..500).prop_map(|address| note_of(0, &[13, address, 1])),
        1 => prop::collection::vec(0u64..500, 0..3).prop_map(|data| note_of(0, &data)),
    ]
}

proptest! {
    /// Each decoded sample, frame and data record comes to one end, and those that are counted as emitted are there.
    #[test]
    fn no_entry_vanishes(
        syncs in prop::collection::vec(prop::collection::vec(any_step(), 0..60), 1..5), size in 1usize..300)
    {
        let mut events = EventBuffer::new(size, 0).unwrap();
        let mut pipeline = Pipeline::default();
        let (mut plain, mut frames, mut records) = (0u64, 0u64, 0u64);
        let mut words = Vec::new();
        for steps in &syncs {
            let mut in_chain = 0u32;
            for (eip, flags, data) in steps {
                if *eip == ESCAPE {
                    in_chain = u32::from(flags & TRACE != 0);
                    let rest = data.len() - usize::from(flags & TASK != 0 && !data.is_empty());
                    records += u64::from(rest != 0);
                } else {
                    frames += u64::from(in_chain > 1);
                    plain += 1;
                    in_chain = (in_chain * 2).min(2);
                }
            }
            run(&mut pipeline, &mut events, steps);
            events.take(&mut words);
        }
        let account = pipeline.account();
        prop_assert_eq!(account.samples(), plain - frames);
        prop_assert_eq!(account.frames + account.frames_lost, frames);
        prop_assert_eq!(account.data_records + account.data_short + account.data_overflow, records);
        prop_assert!(account.lost_overflow == 0 || events.lost_words() > 0);
    }

    /// The account's emitted samples and frames are the pairs of the event buffer.
    #[test]
    fn emitted_samples_are_in_the_event_buffer(steps in prop::collection::vec(any_step(), 0..100)) {
        let steps: Vec<_> = steps
            .into_iter()
            .filter(|(eip, _, data)| *eip != ESCAPE || data.len() < 2)
            .collect();
        let (words, account) = words_of(&steps);
        let emitted = account.kernel + account.file + account.anonymous + account.frames;
        prop_assert_eq!(count_pairs(&words), emitted);
    }
}
