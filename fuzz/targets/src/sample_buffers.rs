//! Sample buffers: entries, headers, chains, and the words that they become.
//!
//! The guest is right; what its vCPUs post is not. The words in the event buffer must be as many as the account says.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_device::event_buffer::record;
use oprofile_device::test_utils::{BufferBuilder, KERNEL_START};
use oprofile_device::{CookieTarget, Settings};
use oprofile_session::events::{Record, records};
use oprofile_wire::sample::{BufferHeader, ENTRY_WORDS, ESCAPE, Entries, note, note_word};
use zerocopy::{FromBytes, IntoBytes};

use crate::layouts;
use crate::machine::{Machine, VCPUS};
use crate::scene::{Scene, ScenePlan, TEXT};

#[derive(Arbitrary, Debug)]
struct Input {
    is_watched: bool,
    scene: ScenePlan,
    small_event_buffer: bool,
    says_hello: bool,
    buffers: Vec<Buffer>,
}

/// A buffer to be posted.
#[derive(Arbitrary, Debug)]
pub struct Buffer {
    /// Of vCPU 1, not 0.
    pub second_vcpu: bool,
    /// How the vCPU is synced: not yet, by tick, doorbell or kick.
    sync: u8,
    header: Header,
    entries: Vec<Word>,
    /// Where its bytes are cut into descriptors.
    pub cuts: Vec<u16>,
    /// Bytes behind it that make its length odd.
    odd: u8,
}

#[derive(Arbitrary, Debug)]
enum Header {
    /// As it should be.
    Right,
    /// With these counters.
    Counters(u32, [u16; 3], u64),
    /// A byte of it is another one.
    Byte(u8, u8),
    Raw([u8; size_of::<BufferHeader>()]),
}

#[derive(Arbitrary, Debug)]
enum Word {
    /// A sample in or near a mapping.
    Near(u16),
    /// The last address of a mapping, with this event.
    Last(bool, u8, u8),
    Kernel(u16),
    Sample(u64, u64),
    /// A note that a process runs now, in this mode.
    Task(bool, bool, bool),
    Note(u8, u8),
    /// A note that a process changes its address space or gives it up.
    Space(bool, bool, bool),
    /// A data record, as long as its kind is or not.
    Record(bool, bool, u64),
    Data(Vec<u64>),
    Raw(u64),
}

impl Word {
    fn push(&self, machine: &Machine, words: &mut Vec<u64>, samples: &mut u32) {
        match self {
            Self::Near(quarters) => {
                words.extend([TEXT - 0x1000 + u64::from(*quarters) * 0x400, 0]);
                *samples += 1;
            }
            Self::Last(second, index, event) => {
                let mappings = &machine.scene.processes[usize::from(*second)].mappings;
                if let Some(last) = mappings.get(usize::from(*index)) {
                    words.extend([last.end - 1, (*event).into()]);
                    *samples += 1;
                }
            }
            Self::Kernel(offset) => {
                words.extend([KERNEL_START + u64::from(*offset), 0]);
                *samples += 1;
            }
            Self::Sample(address, event) => {
                words.extend([*address, *event]);
                *samples += u32::from(*address != ESCAPE);
            }
            Self::Task(second, is_kernel, trace) => {
                let mut flags = note::USER_CTX_SWITCH | note::KERNEL_CTX_SWITCH;
                if *is_kernel {
                    flags |= note::IS_KERNEL;
                }
                if *trace {
                    flags |= note::TRACE_BEGIN;
                }
                let task = machine.scene.processes[usize::from(*second)].task;
                words.extend([ESCAPE, note_word(flags, 1), task]);
            }
            Self::Space(second, changes, released) => {
                let mut flags = 0;
                if *changes {
                    flags |= note::SPACE_CHANGES;
                }
                if *released {
                    flags |= note::SPACE_RELEASED;
                }
                let mm = machine.scene.processes[usize::from(*second)].mm;
                words.extend([ESCAPE, note_word(flags, 1), mm]);
            }
            Self::Note(flags, data) => {
                words.extend([ESCAPE, note_word(u64::from(*flags), usize::from(*data))]);
            }
            Self::Record(fetch, good, address) => {
                let (code, values) = match fetch {
                    true => (record::IBS_FETCH, record::IBS_FETCH_VALUES),
                    false => (record::IBS_OP, record::IBS_OP_VALUES),
                };
                let values = values + usize::from(!good);
                words.extend([ESCAPE, note_word(0, 2 + values), code, *address]);
                words.extend(std::iter::repeat_n(ESCAPE, values));
            }
            Self::Data(data) => {
                words.extend([ESCAPE, note_word(0, data.len())]);
                words.extend(data);
            }
            Self::Raw(word) => words.push(*word),
        }
    }
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) {
        post(&input);
    }
}

fn post(input: &Input) {
    let (buffer_size, buffer_watershed) = match input.small_event_buffer {
        true => (64, 16),
        false => (16_384, 4_096),
    };
    let settings = Settings {
        vcpus: VCPUS,
        buffer_size,
        buffer_watershed,
        ..Settings::default()
    };
    let mut machine = Machine::new(
        Scene::new(&input.scene, layouts::LIST),
        settings,
        input.is_watched,
    );
    assert!(machine.activate(machine.device.features()));
    if input.says_hello {
        assert!(machine.hello(), "the guest is as it says");
    }
    let mut sequences = [0; VCPUS as usize];
    for buffer in input.buffers.iter().take(64) {
        let vcpu = u16::from(buffer.second_vcpu);
        let sequence = &mut sequences[usize::from(vcpu)];
        let (bytes, words) = buffer.bytes(&machine, vcpu, *sequence);
        *sequence += 1;
        check_entries(&words);
        machine.post(vcpu, &bytes, &buffer.cuts);
        match buffer.sync % 4 {
            0 => {}
            1 => machine.step(|machine| machine.device.tick()),
            2 => machine.ring(vcpu.into()),
            _ => machine.step(|machine| machine.device.notify(vcpu + 1)),
        }
        machine.read();
    }
    machine.step(|machine| machine.device.dump());
    machine.read();
    let account = machine.device.account();
    let posted = input.buffers.len().min(64) as u64;
    assert_eq!(account.buffers, posted);
    if !input.says_hello {
        assert_eq!((account.received, account.buffers_unread), (0, posted));
        assert!(machine.words.is_empty());
    }
    // Words that did not fit are missing.
    if account.lost_words == 0 {
        check_words(&machine);
    }
}

impl Buffer {
    /// The buffer, and its words as far as it is one.
    #[must_use]
    pub fn bytes(&self, machine: &Machine, vcpu: u16, sequence: u64) -> (Vec<u8>, Vec<u64>) {
        let (mut words, mut samples) = (Vec::new(), 0);
        for word in self.entries.iter().take(512) {
            word.push(machine, &mut words, &mut samples);
        }
        let mut builder = BufferBuilder::new(vcpu.into(), sequence).words(&words);
        builder.header.samples = samples.into();
        match self.header {
            Header::Right => {}
            Header::Counters(samples, [lost, invalid, aborted], received) => {
                builder.header.samples = samples.into();
                builder.header.lost = u64::from(lost).into();
                builder.header.invalid = u64::from(invalid).into();
                builder.header.aborted = u64::from(aborted).into();
                builder.header.received = received.into();
            }
            Header::Byte(at, byte) => {
                let bytes = builder.header.as_mut_bytes();
                bytes[usize::from(at) % size_of::<BufferHeader>()] = byte;
            }
            Header::Raw(bytes) => {
                builder.header = BufferHeader::read_from_bytes(&bytes).expect("as long as it is");
            }
        }
        let mut bytes = builder.build();
        bytes.resize(bytes.len() + usize::from(self.odd % 8), 0);
        (bytes, words)
    }
}

/// Reads entries by themselves.
fn check_entries(words: &[u64]) {
    let mut taken = 0;
    let mut failed = false;
    for entry in Entries::new(words) {
        assert!(!failed, "nothing comes behind an error");
        match entry {
            Ok(entry) => {
                assert_eq!(words[taken] == ESCAPE, entry.eip == ESCAPE);
                taken += ENTRY_WORDS + entry.data.len();
            }
            Err(_) => failed = true,
        }
    }
    assert!(taken <= words.len() && (failed || taken == words.len()));
}

/// What the reader gets is what was counted.
fn check_words(machine: &Machine) {
    let account = machine.device.account();
    let (mut samples, mut data_records, mut tasks, mut chains) = (0, 0, 0, 0);
    for record in records(&machine.words) {
        match record {
            Record::Sample { .. } => samples += 1,
            Record::CtxSwitch { app_cookie, .. } => {
                tasks += 1;
                check_cookie(machine, app_cookie);
            }
            // Told for a data record only.
            Record::CookieSwitch {
                cookie: record::INVALID_COOKIE,
            } => {}
            Record::CookieSwitch { cookie } => check_cookie(machine, cookie),
            Record::CpuSwitch { cpu } => assert!(cpu < u64::from(VCPUS)),
            Record::TraceBegin => chains += 1,
            Record::ExtData { .. } => data_records += 1,
            Record::KernelEnter | Record::UserEnter => {}
            Record::ModuleLoaded | Record::Unknown { .. } | Record::Truncated => {
                panic!("{record:?} was not written")
            }
        }
    }
    let sync = account.sync;
    assert_eq!(
        samples,
        sync.kernel + sync.file + sync.anonymous + sync.frames
    );
    assert_eq!(data_records, sync.data_records);
    assert!(sync.bad_task <= tasks && account.statistics.bt_lost_no_mapping <= chains);
}

fn check_cookie(machine: &Machine, cookie: u64) {
    if cookie != record::NO_COOKIE {
        match machine.device.cookie(cookie) {
            Some(CookieTarget::File { .. } | CookieTarget::Anonymous { .. }) => {}
            None => panic!("cookie {cookie:#x} was never given out"),
        }
    }
}
