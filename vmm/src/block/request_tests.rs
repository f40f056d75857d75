use proptest::prelude::*;
use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};

use super::*;

const MEMORY: usize = 1 << 20;
const HEADER_AT: u64 = 0x8_0000;
const DATA_AT: u64 = 0x9_0000;
const STATUS_AT: u64 = 0xa_0000;
const SECTORS: usize = 16;

fn image(read_only: bool) -> (tempfile::NamedTempFile, Image) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..SECTORS * 512)
        .map(|at| u8::try_from(at / 512).unwrap())
        .collect();
    std::fs::write(file.path(), content).unwrap();
    let image = Image::open(file.path(), read_only).unwrap();
    (file, image)
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
}

/// Puts a request of pieces (address, length, writable) into a queue and takes it out again.
fn parse(
    memory: &GuestMemoryMmap,
    kind: u32,
    sector: u64,
    pieces: &[(u64, u32, bool)],
) -> Result<Request, BadRequest> {
    memory
        .write_obj(u64::from(kind), GuestAddress(HEADER_AT))
        .unwrap();
    memory
        .write_obj(sector, GuestAddress(HEADER_AT + 8))
        .unwrap();
    let descriptors: Vec<_> = pieces
        .iter()
        .map(|(address, length, writable)| {
            let flags = if *writable {
                u16::try_from(VRING_DESC_F_WRITE).unwrap()
            } else {
                0
            };
            RawDescriptor::from(Descriptor::new(*address, *length, flags, 0))
        })
        .collect();
    let mock = MockSplitQueue::new(memory, 256);
    mock.build_desc_chain(&descriptors).unwrap();
    let mut queue: Queue = mock.create_queue().unwrap();
    let chain = queue.pop_descriptor_chain(memory).unwrap();
    Request::parse(chain, memory)
}

/// Executes it; status and number of bytes written.
fn execute(
    memory: &GuestMemoryMmap,
    image: &Image,
    kind: u32,
    sector: u64,
    data: &[(u64, u32, bool)],
) -> (u8, u32) {
    let header = (HEADER_AT, 16, false);
    let status = (STATUS_AT, 1, true);
    let pieces: Vec<_> = [&[header], data, &[status]].concat();
    memory.write_obj(0xff_u8, GuestAddress(STATUS_AT)).unwrap();
    let written = parse(memory, kind, sector, &pieces)
        .unwrap()
        .execute(memory, image);
    (memory.read_obj(GuestAddress(STATUS_AT)).unwrap(), written)
}

const OK: u8 = 0;
const IOERR: u8 = 1;
const _: () = assert!(VIRTIO_BLK_S_OK == OK as u32 && VIRTIO_BLK_S_IOERR == IOERR as u32);

#[test]
fn sectors_are_read_into_all_pieces() {
    let (memory, (_file, image)) = (memory(), image(true));
    let data = [(DATA_AT, 700, true), (DATA_AT + 0x1000, 324, true)];
    let (status, written) = execute(&memory, &image, VIRTIO_BLK_T_IN, 3, &data);
    assert_eq!((status, written), (OK, 1025));
    let byte = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
    assert_eq!((byte(DATA_AT), byte(DATA_AT + 699)), (3, 4));
    assert_eq!(byte(DATA_AT + 0x1000 + 323), 4);
}

#[test]
fn what_is_written_is_in_the_image() {
    let (memory, (file, image)) = (memory(), image(false));
    memory
        .write_slice(&[0xab; 512], GuestAddress(DATA_AT))
        .unwrap();
    let (status, written) = execute(
        &memory,
        &image,
        VIRTIO_BLK_T_OUT,
        5,
        &[(DATA_AT, 512, false)],
    );
    assert_eq!((status, written), (OK, 1));
    assert_eq!(execute(&memory, &image, VIRTIO_BLK_T_FLUSH, 0, &[]).0, OK);
    let content = std::fs::read(file.path()).unwrap();
    assert!(content[5 * 512..6 * 512].iter().all(|byte| *byte == 0xab));
    assert_eq!((content[5 * 512 - 1], content[6 * 512]), (4, 6));
}

#[test]
fn disk_that_is_read_only_stays_as_it_is() {
    let (memory, (file, image)) = (memory(), image(true));
    let before = std::fs::read(file.path()).unwrap();
    let (status, _) = execute(
        &memory,
        &image,
        VIRTIO_BLK_T_OUT,
        0,
        &[(DATA_AT, 512, false)],
    );
    assert_eq!(status, IOERR);
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}

#[test]
fn nothing_beyond_the_disk_or_its_sectors_is_reached() {
    let (memory, (_file, image)) = (memory(), image(false));
    for (sector, length) in [
        (SECTORS as u64, 512),
        (SECTORS as u64 - 1, 1024),
        (u64::MAX, 512),
        (1 << 55, 512),
        (0, 511),
    ] {
        let (status, written) = execute(
            &memory,
            &image,
            VIRTIO_BLK_T_IN,
            sector,
            &[(DATA_AT, length, true)],
        );
        assert_eq!((status, written), (IOERR, 1), "{sector} {length}");
    }
}

#[test]
fn memory_of_the_wrong_kind_or_outside_ram_is_an_error() {
    let (memory, (_file, image)) = (memory(), image(false));
    for data in [
        (DATA_AT, 512, false),
        (MEMORY as u64 - 100, 512, true),
        (u64::MAX - 10, 512, true),
    ] {
        assert_eq!(
            execute(&memory, &image, VIRTIO_BLK_T_IN, 0, &[data]).0,
            IOERR
        );
    }
}

#[test]
fn request_that_nobody_knows_is_answered() {
    let (memory, (_file, image)) = (memory(), image(false));
    let (status, _) = execute(&memory, &image, 77, 0, &[]);
    assert_eq!(u32::from(status), VIRTIO_BLK_S_UNSUPP);
    let (status, written) = execute(
        &memory,
        &image,
        VIRTIO_BLK_T_GET_ID,
        0,
        &[(DATA_AT, 20, true)],
    );
    assert_eq!((status, written), (OK, 21));
}

#[test]
fn chain_without_header_or_status_is_refused() {
    let memory = memory();
    let header = (HEADER_AT, 16, false);
    for (pieces, error) in [
        (&[header][..], BadRequest::Status),
        (&[(STATUS_AT, 1, true)], BadRequest::Header),
        (
            &[(HEADER_AT, 15, false), (STATUS_AT, 1, true)],
            BadRequest::Header,
        ),
        (&[header, (STATUS_AT, 0, true)], BadRequest::Status),
        (
            &[(MEMORY as u64, 16, false), (STATUS_AT, 1, true)],
            BadRequest::Header,
        ),
    ] {
        assert_eq!(parse(&memory, 0, 0, pieces), Err(error), "{pieces:?}");
    }
}

proptest! {
    #[test]
    fn any_request_is_served_or_refused(
        kind in 0_u32..12,
        sector in prop_oneof![0_u64..20, any::<u64>()],
        data in prop::collection::vec((prop_oneof![0_u64..2 << 20, any::<u64>()], prop_oneof![0_u32..2048, any::<u32>()], any::<bool>()), 0..6),
    ) {
        let (memory, (_file, image)) = (memory(), image(false));
        let pieces: Vec<_> = [&[(HEADER_AT, 16, false)], &data[..], &[(STATUS_AT, 1, true)]].concat();
        // The data may lie over the status.
        if let Ok(request) = parse(&memory, kind, sector, &pieces) {
            prop_assert!(u64::from(request.execute(&memory, &image)) <= MAX_BYTES + 1);
        }
    }
}
