//! The device: registers, a configuration, and rings that it writes as it likes.

use std::collections::VecDeque;

use arbitrary::Arbitrary;
use oprofile_guest_agent::mmio::register;
use oprofile_guest_agent::transport::feature;
use oprofile_wire::config::{ConfigSpace, FLUSH_DOORBELL_OFFSET, MAGIC, capability};
use oprofile_wire::control::{RequestHeader, Response, kind};
use oprofile_wire::sample::{self, BufferHeader, Entries};
use oprofile_wire::{CONTROL_QUEUE, DEFAULT_DEVICE_ID, PROTOCOL_VERSION, sample_queue};
use zerocopy::{FromBytes, IntoBytes};

use super::memory::Arena;

/// Queues that the device knows of; a driver that enables more gets none.
const QUEUES: usize = 6;

/// Registers that may answer something else once.
const ODD_REGISTERS: [usize; 9] = [
    register::MAGIC_VALUE,
    register::VERSION,
    register::DEVICE_ID,
    register::DEVICE_FEATURES,
    register::QUEUE_NUM_MAX,
    register::QUEUE_READY,
    register::INTERRUPT_STATUS,
    register::STATUS,
    register::CONFIG_GENERATION,
];

const DESCRIPTOR_BYTES: u64 = 16;
const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;

/// A device to be met.
#[derive(Arbitrary, Debug)]
pub struct DevicePlan {
    event_idx: bool,
    queue_size: QueueSize,
    config: ConfigPlan,
    /// Reads of registers that answer something else: which register, which read of it, what.
    odd_reads: Vec<(u8, u8, u32)>,
    /// What it does when it gets to do something, one after the other.
    acts: Vec<Act>,
    /// Whether it works as it should when these are used up; else it does nothing.
    then_serves: bool,
}

#[derive(Arbitrary, Debug)]
enum QueueSize {
    Usual,
    PowerOfTwo(u8),
    Raw(u16),
}

#[derive(Arbitrary, Debug)]
struct ConfigPlan {
    vcpus: u8,
    cpu_buffer_entries: u8,
    sample_buffer_words: u8,
    backtrace_depth: u8,
    disabled: bool,
    capabilities: u8,
    edits: Vec<(u8, u32)>,
}

#[derive(Arbitrary, Clone, Debug)]
enum Act {
    Nothing,
    /// Takes and completes everything.
    Serve,
    /// Answers a request with this status and value, and says that it wrote so many bytes.
    Answer(u32, u64, u32),
    /// Adds an element to a used ring.
    Use(u8, u32, u32),
    /// Completes a chain that it has, not the oldest.
    UseLate(u8, u8),
    UsedIndex(u8, u16),
    /// The word of a used ring that tells when to notify, or its flags.
    AvailEvent(u8, u16),
    UsedFlags(u8, u16),
    /// A word of a queue's memory.
    Scribble(u8, u16, u64),
    /// A word of the configuration changes, with its generation or without.
    Config(u8, u32, bool),
    Interrupt(u32),
}

/// A chain that the device has.
#[derive(Debug)]
struct Chain {
    head: u16,
    /// Where an answer goes.
    writable: Option<(u64, u32)>,
}

#[derive(Debug, Default)]
struct Queue {
    ready: bool,
    size: u16,
    descriptors: u64,
    driver: u64,
    device: u64,
    next_avail: u16,
    next_used: u16,
    pending: VecDeque<Chain>,
    /// The device wrote where it must not, so what the driver does there proves nothing.
    is_spoiled: bool,
    buffers: u64,
    samples: u64,
}

/// The device.
#[derive(Debug)]
pub struct HostileDevice {
    pub memory: Arena,
    features: u64,
    queue_size: u32,
    odd_reads: Vec<(usize, u8, u32)>,
    acts: VecDeque<Act>,
    then_serves: bool,
    queues: [Queue; QUEUES],
    selected: usize,
    feature_select: u32,
    status: u32,
    config: ConfigSpace,
    generation: u32,
    interrupt: u32,
}

impl HostileDevice {
    pub fn new(plan: DevicePlan) -> Self {
        let config = &plan.config;
        let mut space = ConfigSpace {
            magic: MAGIC.into(),
            version: u32::from(PROTOCOL_VERSION).into(),
            capabilities: match config.capabilities {
                0 => capability::ALL,
                some => u64::from(some),
            }
            .into(),
            vcpus: u32::from(config.vcpus % 5 + 1).into(),
            enable: u32::from(!config.disabled).into(),
            period_ns: 1_000_000.into(),
            event: 0.into(),
            backtrace_depth: u32::from(config.backtrace_depth).into(),
            cpu_buffer_entries: u32::from(config.cpu_buffer_entries).into(),
            sample_buffer_bytes: (256 + 8 * u32::from(config.sample_buffer_words)).into(),
            flush_doorbell: 0.into(),
            wanted_maps: 0.into(),
        };
        for &(word, value) in config.edits.iter().take(2) {
            edit(&mut space, word, value);
        }
        let event_idx = if plan.event_idx {
            feature::EVENT_IDX
        } else {
            0
        };
        Self {
            memory: Arena::default(),
            features: feature::VERSION_1 | event_idx,
            queue_size: match plan.queue_size {
                QueueSize::Usual => 128,
                QueueSize::PowerOfTwo(bits) => 1 << (bits % 16),
                QueueSize::Raw(size) => size.into(),
            },
            odd_reads: plan
                .odd_reads
                .iter()
                .map(|&(register, skip, value)| {
                    let register = usize::from(register) % ODD_REGISTERS.len();
                    (ODD_REGISTERS[register], skip % 8, value)
                })
                .collect(),
            acts: plan.acts.into(),
            then_serves: plan.then_serves,
            queues: Default::default(),
            selected: 0,
            feature_select: 0,
            status: 0,
            config: space,
            generation: 0,
            interrupt: 0,
        }
    }

    pub fn read(&mut self, offset: usize) -> u32 {
        for (register, skip, value) in &mut self.odd_reads {
            if *register == offset {
                if *skip == 0 {
                    // Never again.
                    *register = usize::MAX;
                    return *value;
                }
                *skip -= 1;
            }
        }
        let queue = self.queues.get(self.selected);
        match offset {
            register::MAGIC_VALUE => u32::from_le_bytes(*b"virt"),
            register::VERSION => 2,
            register::DEVICE_ID => DEFAULT_DEVICE_ID,
            register::DEVICE_FEATURES => (self.features >> (32 * (self.feature_select & 1))) as u32,
            register::QUEUE_NUM_MAX => queue.map_or(0, |_| self.queue_size),
            register::QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready)),
            register::INTERRUPT_STATUS => self.interrupt,
            register::STATUS => self.status,
            register::CONFIG_GENERATION => self.generation,
            _ => {
                let at = offset - register::CONFIG;
                let word = self.config.as_bytes()[at..].first_chunk();
                u32::from_le_bytes(*word.expect("the driver reads the configuration only"))
            }
        }
    }

    pub fn write(&mut self, offset: usize, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SEL => self.feature_select = value,
            register::DRIVER_FEATURES_SEL => assert!(value < 2),
            register::DRIVER_FEATURES => {}
            register::QUEUE_SEL => self.selected = value as usize,
            register::STATUS => {
                if value == 0 {
                    self.queues = Default::default();
                }
                self.status = value;
            }
            register::INTERRUPT_ACK => self.interrupt &= !value,
            register::QUEUE_NOTIFY => {
                let queue = self.queues.get(value as usize);
                assert!(queue.is_some_and(|queue| queue.ready), "no queue {value}");
                self.act();
            }
            _ if offset >= register::CONFIG => {
                assert_eq!((offset - register::CONFIG) as u64, FLUSH_DOORBELL_OFFSET);
                assert!(self.queues[value as usize + 1].ready, "no vCPU {value}");
                self.act();
            }
            _ => self.write_queue(offset, value),
        }
    }

    fn write_queue(&mut self, offset: usize, value: u32) {
        let queue = &mut self.queues[self.selected];
        match offset {
            register::QUEUE_NUM => {
                queue.size = u16::try_from(value).expect("a queue's size has 16 bits");
                return;
            }
            register::QUEUE_READY => {
                assert!(queue.size.is_power_of_two());
                queue.ready = value == 1;
                return;
            }
            _ => {}
        }
        let part = match offset & !4 {
            register::QUEUE_DESC_LOW => &mut queue.descriptors,
            register::QUEUE_DRIVER_LOW => &mut queue.driver,
            register::QUEUE_DEVICE_LOW => &mut queue.device,
            _ => panic!("no register at {offset:#x}"),
        };
        *part |= u64::from(value) << (8 * (offset & 4));
    }

    /// Buffers and samples that came from a vCPU, if what came can be told.
    pub fn taken(&self, vcpu: u16) -> Option<(u64, u64)> {
        let queue = &self.queues[usize::from(sample_queue(vcpu))];
        (queue.ready && !queue.is_spoiled).then_some((queue.buffers, queue.samples))
    }

    /// Takes what the driver has made available, and checks it.
    pub fn look(&mut self) {
        for index in 0..QUEUES {
            while let Some(chain) = self.take(index) {
                self.queues[index].pending.push_back(chain);
            }
        }
    }

    /// Takes the next chain of a queue.
    fn take(&mut self, index: usize) -> Option<Chain> {
        let queue = &self.queues[index];
        if !queue.ready || queue.is_spoiled {
            return None;
        }
        let memory = &self.memory;
        let available = memory
            .read_u16(queue.driver + 2)
            .expect("the ring is there");
        let waiting = available.wrapping_sub(queue.next_avail);
        if waiting == 0 {
            return None;
        }
        assert!(waiting <= queue.size, "{waiting} chains at once");
        let slot = u64::from(queue.next_avail % queue.size);
        let head = memory
            .read_u16(queue.driver + 4 + 2 * slot)
            .expect("the ring is there");
        let known = queue.pending.iter().any(|chain| chain.head == head);
        assert!(!known, "queue {index}: {head} is the device's already");
        let (readable, writable) = self.chain(queue, head);
        let queue = &mut self.queues[index];
        queue.next_avail = queue.next_avail.wrapping_add(1);
        if index == usize::from(CONTROL_QUEUE) {
            check_request(&readable);
            let (_, bytes) = writable.expect("a request has room for its answer");
            assert_eq!(bytes as usize, size_of::<Response>());
        } else {
            assert!(writable.is_none());
            queue.buffers += 1;
            queue.samples += check_buffer(&readable, index as u32 - 1);
        }
        Some(Chain { head, writable })
    }

    /// The readable bytes of a chain, and its one writable descriptor.
    fn chain(&self, queue: &Queue, head: u16) -> (Vec<u8>, Option<(u64, u32)>) {
        let (mut readable, mut writable) = (Vec::new(), None);
        let mut id = head;
        for _ in 0..2 {
            assert!(id < queue.size);
            let at = queue.descriptors + u64::from(id) * DESCRIPTOR_BYTES;
            let bytes = self.memory.read(at, 16).expect("the table is there");
            let (gpa, rest) = u64::read_from_prefix(&bytes).expect("16 bytes");
            let (length, rest) = u32::read_from_prefix(rest).expect("8 bytes");
            let (flags, rest) = u16::read_from_prefix(rest).expect("4 bytes");
            let content = self
                .memory
                .read(gpa, length)
                .expect("it is the agent's memory");
            if flags & DESC_F_WRITE != 0 {
                assert!(writable.is_none());
                writable = Some((gpa, length));
            } else {
                assert!(writable.is_none(), "readable behind writable");
                readable.extend(content);
            }
            if flags & DESC_F_NEXT == 0 {
                return (readable, writable);
            }
            id = u16::read_from_bytes(rest).expect("2 bytes");
        }
        panic!("a chain of more than two descriptors");
    }

    /// Gets to do something.
    pub fn act(&mut self) {
        self.look();
        let act = self.acts.pop_front();
        let usual = match self.then_serves {
            true => Act::Serve,
            false => Act::Nothing,
        };
        match act.unwrap_or(usual) {
            Act::Nothing => {}
            Act::Serve => {
                for index in 0..QUEUES {
                    while let Some(chain) = self.queues[index].pending.pop_front() {
                        self.complete(index, &chain, 0, self.config.capabilities.get());
                    }
                }
            }
            Act::Answer(status, value, written) => {
                let control = usize::from(CONTROL_QUEUE);
                if let Some(chain) = self.queues[control].pending.pop_front() {
                    self.answer(&chain, status, value);
                    self.use_element(control, chain.head.into(), written);
                }
            }
            Act::Use(index, id, written) => {
                let index = usize::from(index) % QUEUES;
                // Mostly one that there is.
                let id = if id.is_multiple_of(4) { id } else { id % 140 };
                let pending = &mut self.queues[index].pending;
                pending.retain(|chain| u32::from(chain.head) != id);
                self.use_element(index, id, written);
            }
            Act::UseLate(index, skip) => {
                let index = usize::from(index) % QUEUES;
                let pending = &mut self.queues[index].pending;
                if !pending.is_empty() {
                    let chain = pending.remove(usize::from(skip) % pending.len());
                    let chain = chain.expect("there are as many");
                    self.complete(index, &chain, 0, self.config.capabilities.get());
                }
            }
            Act::UsedIndex(index, next) => {
                let queue = &mut self.queues[usize::from(index) % QUEUES];
                queue.next_used = next;
                queue.is_spoiled = true;
                let at = queue.device + 2;
                self.memory.write(at, &next.to_le_bytes());
            }
            Act::AvailEvent(index, event) => {
                let queue = &self.queues[usize::from(index) % QUEUES];
                let at = queue.device + 4 + 8 * u64::from(queue.size);
                self.memory.write(at, &event.to_le_bytes());
            }
            Act::UsedFlags(index, flags) => {
                let queue = &self.queues[usize::from(index) % QUEUES];
                self.memory.write(queue.device, &flags.to_le_bytes());
            }
            Act::Scribble(index, offset, word) => {
                let queue = &mut self.queues[usize::from(index) % QUEUES];
                queue.is_spoiled = true;
                let at = queue.descriptors + u64::from(offset) % 0x1000;
                self.memory.write(at, &word.to_le_bytes());
            }
            Act::Config(word, value, told) => {
                edit(&mut self.config, word, value);
                if told {
                    self.generation = self.generation.wrapping_add(1);
                    self.interrupt |= 2;
                }
            }
            Act::Interrupt(cause) => self.interrupt = cause,
        }
    }

    /// Gives a chain back as it should be.
    fn complete(&mut self, index: usize, chain: &Chain, status: u32, value: u64) {
        self.answer(chain, status, value);
        let written = chain.writable.map_or(0, |(_, bytes)| bytes);
        self.use_element(index, chain.head.into(), written);
    }

    fn answer(&self, chain: &Chain, status: u32, value: u64) {
        let response = Response {
            status: status.into(),
            detail: 7.into(),
            value: value.into(),
        };
        if let Some((gpa, _)) = chain.writable {
            assert!(self.memory.write(gpa, response.as_bytes()));
        }
    }

    fn use_element(&mut self, index: usize, id: u32, written: u32) {
        let queue = &mut self.queues[index];
        if !queue.ready {
            return;
        }
        let slot = u64::from(queue.next_used % queue.size);
        queue.next_used = queue.next_used.wrapping_add(1);
        let element = [id.to_le_bytes(), written.to_le_bytes()].concat();
        let (ring, next) = (queue.device, queue.next_used);
        self.memory.write(ring + 4 + 8 * slot, &element);
        self.memory.write(ring + 2, &next.to_le_bytes());
        self.interrupt |= 1;
    }
}

/// Changes a word of the configuration, mostly to something small.
fn edit(space: &mut ConfigSpace, word: u8, value: u32) {
    let bytes = space.as_mut_bytes();
    let at = usize::from(word) * 4 % bytes.len();
    let value = if value.is_multiple_of(4) {
        value
    } else {
        value % 512
    };
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// A request says what it is and how long.
fn check_request(bytes: &[u8]) {
    let (header, payload) = RequestHeader::read_from_prefix(bytes).expect("a request has a header");
    assert_eq!(header.payload_bytes.get() as usize, payload.len());
    assert_eq!(header.version.get(), PROTOCOL_VERSION);
    assert!((kind::HELLO..=kind::HOST_CLOCK).contains(&header.kind.get()));
}

/// A buffer makes sense by itself; returns its samples.
fn check_buffer(bytes: &[u8], vcpu: u32) -> u64 {
    let (header, entries) = BufferHeader::read_from_prefix(bytes).expect("a buffer has a header");
    assert_eq!(header.magic.get(), sample::MAGIC);
    assert_eq!(header.vcpu.get(), vcpu);
    assert_eq!(header.entry_bytes.get() as usize, entries.len());
    let words: Vec<u64> = entries
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(*word.first_chunk().expect("8 bytes")))
        .collect();
    for entry in Entries::new(&words) {
        entry.expect("entries are whole");
    }
    header.samples.get().into()
}
