//! Requests to a disk: right ones, compared with a plain model of a disk; then any descriptors, rings and memory.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use oprofile_vmm::block::{BlockDevice, Image};
use oprofile_vmm::virtio::{Interrupt, VirtioDevice};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_USED_F_NO_NOTIFY,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const SECTOR: usize = 512;
/// Guest RAM and what lies where in it.
const RAM: usize = 0x2_0000;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x3000;
const USED: u64 = 0x4000;
const HEADERS: u64 = 0x6000;
const STATUSES: u64 = 0x7000;
const DATA: u64 = 0x8000;
const DATA_BYTES: usize = RAM - DATA as usize;
/// Entries of a good queue.
const QUEUE: u16 = 256;
/// Times that a queue may ask to be served again: a driver that stands still has at most all indices out.
const MOST_ROUNDS: u32 = 65_536 / 256 + 1;

#[derive(Arbitrary, Debug)]
struct Input {
    sectors: u8,
    is_read_only: bool,
    has_event_index: bool,
    requests: Vec<Request>,
    steps: Vec<Step>,
}

/// A request as a driver makes one.
#[derive(Arbitrary, Debug)]
struct Request {
    kind: Kind,
    sector: Sector,
    pieces: Vec<Piece>,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    In,
    Out,
    Flush,
    Id,
    Other(u32),
}

impl Kind {
    const fn number(&self) -> u32 {
        match *self {
            Self::In => VIRTIO_BLK_T_IN,
            Self::Out => VIRTIO_BLK_T_OUT,
            Self::Flush => VIRTIO_BLK_T_FLUSH,
            Self::Id => VIRTIO_BLK_T_GET_ID,
            Self::Other(number) => number,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Sector {
    Near(u8),
    Raw(u64),
}

/// Memory for data. Whole requests of a disk are rare among arbitrary lengths, so sectors come by count, too.
#[derive(Arbitrary, Debug)]
struct Piece {
    at: u16,
    length: Length,
    /// Not as the kind of request wants it.
    is_turned: bool,
}

#[derive(Arbitrary, Debug)]
enum Length {
    Sectors(u8),
    Bytes(u16),
}

/// What a hostile guest, or its host, does.
#[derive(Arbitrary, Debug)]
enum Step {
    Serve,
    Notify,
    Word(u16, u64),
    Descriptor(u8, Descriptor),
    /// Offers so many heads from a number on.
    Offer(u16, u8),
    Reset,
    Activate(Geometry),
    /// The host's file becomes shorter.
    Shrink(u8),
    ReadConfig(u64, u8),
}

#[derive(Arbitrary, Clone, Debug)]
struct Descriptor {
    address: u64,
    is_low: bool,
    length: u32,
    is_short: bool,
    flags: u16,
    next: u16,
}

#[derive(Arbitrary, Debug)]
enum Geometry {
    Good,
    Raw {
        size: u16,
        descriptors: u64,
        available: u64,
        used: u64,
    },
}

/// An interrupt line that nobody looks at.
struct Line;

impl Interrupt for Line {
    fn signal_queue(&self, queue: u16) {
        assert_eq!(queue, 0);
    }

    fn signal_config(&self) {
        panic!("its configuration does not change");
    }
}

/// The file behind the disk: one in memory, for all inputs of a thread.
struct Backing(File);

thread_local! {
    static BACKING: RefCell<Backing> = RefCell::new(Backing(
        tempfile::tempfile_in("/dev/shm").expect("a file in memory"),
    ));
}

impl Backing {
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    fn fill(&mut self, content: &[u8]) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(content)
    }

    fn content(&mut self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.0.seek(SeekFrom::Start(0))?;
        self.0.read_to_end(&mut content)?;
        Ok(content)
    }
}

/// What a disk is: bytes, and what a request does to them and to memory.
struct Model {
    disk: Vec<u8>,
    data: Vec<u8>,
    is_read_only: bool,
}

/// Status and written bytes, the status among them.
type Answer = (u32, u32);

impl Model {
    /// `pieces`: place in the data, length, whether the device may write.
    fn request(&mut self, kind: u32, sector: u64, pieces: &[(usize, usize, bool)]) -> Answer {
        let bytes: usize = pieces.iter().map(|(_, length, _)| length).sum();
        let start = u128::from(sector) * SECTOR as u128;
        let fits = bytes.is_multiple_of(SECTOR)
            && bytes <= 4 << 20
            && start + bytes as u128 <= self.disk.len() as u128;
        match kind {
            VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT => {
                let is_in = kind == VIRTIO_BLK_T_IN;
                if !fits || pieces.iter().any(|piece| piece.2 != is_in) {
                    return (VIRTIO_BLK_S_IOERR, 1);
                }
                if !is_in && self.is_read_only {
                    return (VIRTIO_BLK_S_IOERR, 1);
                }
                let mut at = start as usize;
                for &(place, length, _) in pieces {
                    let (disk, data) = (at..at + length, place..place + length);
                    match is_in {
                        true => self.data[data].copy_from_slice(&self.disk[disk]),
                        false => self.disk[disk].copy_from_slice(&self.data[data]),
                    }
                    at += length;
                }
                (VIRTIO_BLK_S_OK, if is_in { bytes as u32 + 1 } else { 1 })
            }
            VIRTIO_BLK_T_FLUSH => (VIRTIO_BLK_S_OK, 1),
            VIRTIO_BLK_T_GET_ID => match pieces.first() {
                Some(&(place, length, true)) if length >= 20 => {
                    self.data[place..place + 20].fill(0);
                    (VIRTIO_BLK_S_OK, 21)
                }
                _ => (VIRTIO_BLK_S_IOERR, 1),
            },
            _ => (VIRTIO_BLK_S_UNSUPP, 1),
        }
    }
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) {
        BACKING.with_borrow_mut(|backing| serve(&input, backing));
    }
}

fn memory() -> Arc<GuestMemoryMmap> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("memory");
    Arc::new(memory)
}

fn put<T: vm_memory::ByteValued>(memory: &GuestMemoryMmap, at: u64, value: T) {
    memory.write_obj(value, GuestAddress(at)).expect("in RAM");
}

fn descriptor(memory: &GuestMemoryMmap, index: u16, parts: (u64, u32, u16, u16)) {
    let at = DESCRIPTORS + u64::from(index) * 16;
    let (address, length, flags, next) = parts;
    put(memory, at, address);
    put(memory, at + 8, length);
    put(memory, at + 12, flags);
    put(memory, at + 14, next);
}

fn good_queue() -> Queue {
    let mut queue = Queue::new(QUEUE).expect("a power of two");
    queue.set_size(QUEUE);
    let low = |address: u64| Some(address as u32);
    queue.set_desc_table_address(low(DESCRIPTORS), Some(0));
    queue.set_avail_ring_address(low(AVAILABLE), Some(0));
    queue.set_used_ring_address(low(USED), Some(0));
    queue.set_ready(true);
    queue
}

fn serve(input: &Input, backing: &mut Backing) {
    let sectors = usize::from(input.sectors % 64) + 1;
    let content: Vec<u8> = (0..sectors * SECTOR).map(|at| (at / 7) as u8).collect();
    backing.fill(&content).expect("a file in memory");
    let image = Image::open(&backing.path(), input.is_read_only).expect("it is an image");
    let disk = BlockDevice::new(image);
    let memory = memory();
    let features = disk.features();
    let features = match input.has_event_index {
        true => features,
        false => features & !(1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX),
    };
    let activate =
        |queue| disk.activate(Arc::clone(&memory), vec![queue], features, Arc::new(Line));
    activate(good_queue()).expect("the queue is right");

    let data: Vec<u8> = (0..DATA_BYTES).map(|at| (at / 3) as u8).collect();
    memory
        .write_slice(&data, GuestAddress(DATA))
        .expect("in RAM");
    let mut model = Model {
        disk: content,
        data,
        is_read_only: input.is_read_only,
    };
    for (request, offered) in input.requests.iter().take(32).zip(0..) {
        check(request, &disk, &memory, &mut model, offered);
    }
    assert_eq!(backing.content().expect("a file in memory"), model.disk);

    let mut bytes = model.disk.len();
    for step in input.steps.iter().take(256) {
        match step {
            Step::Shrink(sectors) => {
                bytes = bytes.min(usize::from(*sectors) * SECTOR);
                backing.0.set_len(bytes as u64).expect("a file in memory");
                model.disk.truncate(bytes);
            }
            Step::Activate(geometry) => {
                disk.reset();
                // Refused or not.
                let _ = activate(geometry.queue());
            }
            step => hostile(step, &disk, &memory),
        }
    }
    let content = backing.content().expect("a file in memory");
    // Once it was cut, writes to where it had been make it as long as it was.
    assert!(content.len() <= sectors * SECTOR, "the disk grew");
    if input.is_read_only {
        assert_eq!(content, model.disk);
    }
}

/// Has one request served, and compares what came of it.
fn check(
    request: &Request,
    disk: &BlockDevice,
    memory: &GuestMemoryMmap,
    model: &mut Model,
    offered: u16,
) {
    let kind = request.kind.number();
    let sector = match request.sector {
        Sector::Near(sector) => sector.into(),
        Sector::Raw(sector) => sector,
    };
    let pieces: Vec<(usize, usize, bool)> = request
        .pieces
        .iter()
        .take(20)
        .map(|piece| {
            let place = usize::from(piece.at) % DATA_BYTES;
            let length = match piece.length {
                Length::Sectors(sectors) => usize::from(sectors) * SECTOR,
                Length::Bytes(bytes) => bytes.into(),
            };
            let is_writable = (kind != VIRTIO_BLK_T_OUT) != piece.is_turned;
            (place, length.min(DATA_BYTES - place), is_writable)
        })
        .collect();
    put(memory, HEADERS, u64::from(kind));
    put(memory, HEADERS + 8, sector);
    put(memory, STATUSES, 0xff_u8);
    let (next, write) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_WRITE as u16);
    descriptor(memory, 0, (HEADERS, 16, next, 1));
    let mut index = 1;
    for &(place, length, is_writable) in &pieces {
        let flags = if is_writable { next | write } else { next };
        let address = DATA + place as u64;
        descriptor(memory, index, (address, length as u32, flags, index + 1));
        index += 1;
    }
    descriptor(memory, index, (STATUSES, 1, write, 0));
    put(
        memory,
        AVAILABLE + 4 + u64::from(offered % QUEUE) * 2,
        0_u16,
    );
    put(memory, AVAILABLE + 2, offered + 1);
    assert!(!disk.serve());

    let (status, written) = model.request(kind, sector, &pieces);
    let used: u16 = memory.read_obj(GuestAddress(USED + 2)).expect("in RAM");
    assert_eq!(used, offered + 1, "it is answered");
    let at = USED + 4 + u64::from(offered % QUEUE) * 8;
    let (head, length): (u32, u32) = (
        memory.read_obj(GuestAddress(at)).expect("in RAM"),
        memory.read_obj(GuestAddress(at + 4)).expect("in RAM"),
    );
    let told: u8 = memory.read_obj(GuestAddress(STATUSES)).expect("in RAM");
    assert_eq!(
        (head, u32::from(told), length),
        (0, status, written),
        "{request:?}"
    );
    let mut data = vec![0; DATA_BYTES];
    memory
        .read_slice(&mut data, GuestAddress(DATA))
        .expect("in RAM");
    assert!(data == model.data, "{request:?}");
}

fn hostile(step: &Step, disk: &BlockDevice, memory: &GuestMemoryMmap) {
    match step {
        Step::Serve => {
            let mut rounds = 0;
            while disk.serve() {
                rounds += 1;
                assert!(rounds < MOST_ROUNDS, "it does not come to an end");
            }
        }
        Step::Notify => disk.notify(0),
        Step::Word(at, word) => put(memory, u64::from(*at) & !7, *word),
        Step::Descriptor(index, parts) => {
            let known = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT;
            let address = match parts.is_low {
                true => parts.address % RAM as u64,
                false => parts.address,
            };
            let length = match parts.is_short {
                true => parts.length % 2048,
                false => parts.length,
            };
            let parts = (
                address,
                length,
                parts.flags & known as u16,
                parts.next % QUEUE,
            );
            descriptor(memory, u16::from(*index), parts);
        }
        Step::Offer(head, count) => {
            let index: u16 = memory
                .read_obj(GuestAddress(AVAILABLE + 2))
                .expect("in RAM");
            for more in 0..u16::from(*count) {
                let at = AVAILABLE + 4 + u64::from(index.wrapping_add(more) % QUEUE) * 2;
                put(memory, at, head.wrapping_add(more) % QUEUE);
            }
            put(memory, AVAILABLE, VRING_USED_F_NO_NOTIFY as u16 & *head);
            put(memory, AVAILABLE + 2, index.wrapping_add(u16::from(*count)));
        }
        Step::Reset => disk.reset(),
        Step::ReadConfig(offset, length) => {
            let mut bytes = vec![0xff; usize::from(*length)];
            disk.read_config(*offset, &mut bytes);
            disk.write_config(*offset, &bytes);
        }
        // Not of one disk alone.
        Step::Activate(_) | Step::Shrink(_) => {}
    }
}

impl Geometry {
    fn queue(&self) -> Queue {
        match *self {
            Self::Good => good_queue(),
            Self::Raw {
                size,
                descriptors,
                available,
                used,
            } => {
                let mut queue = Queue::new(QUEUE).expect("a power of two");
                let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
                queue.set_size(size);
                let (low, high) = halves(descriptors);
                queue.set_desc_table_address(low, high);
                let (low, high) = halves(available);
                queue.set_avail_ring_address(low, high);
                let (low, high) = halves(used);
                queue.set_used_ring_address(low, high);
                queue.set_ready(true);
                queue
            }
        }
    }
}
