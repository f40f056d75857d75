//! One OProfile sample file: header, then a small hash table from key to count.
//!
//! ```text
//! header (72 bytes) | descriptor (32) | size × node (16) | size × bucket (u32)
//! ```
//! Everything is in the byte order of the machine that wrote the file. Header version 0x13 only: the 1.x tools
//! refuse every other one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// First four bytes of every sample file.
pub const MAGIC: [u8; 4] = *b"DAE\n";
/// The header version this module reads and writes.
pub const VERSION: u32 = 0x13;
/// `cpu_type` of a profile taken by timer interrupt; no event table is consulted for it.
pub const CPU_TYPE_TIMER: u32 = 4;
/// Nodes in a new table.
pub const INITIAL_NODES: u32 = 128;
/// Bytes of one node and its bucket.
const NODE_AND_BUCKET: u64 = 20;
/// Largest number of distinct keys taken from one file, so that a planted file cannot fill the memory: 16 Mi keys
/// are 64 MiB of code at one key per four bytes, more than any image holds.
pub const MAX_DISTINCT_KEYS: usize = 1 << 24;
/// Largest number of nodes the writer makes. Tables are powers of two and sizes are u32.
const MAX_NODES: u32 = 1 << 31;
/// Most counts that memory is reserved for before they are read.
const MOST_RESERVED: usize = 1 << 16;
/// Nodes read at a time.
const NODES_PER_READ: usize = 4096;

/// The file header, 72 bytes.
#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`VERSION`].
    pub version: u32,
    /// Index in OProfile's list of processors; [`CPU_TYPE_TIMER`] for a timer.
    pub cpu_type: u32,
    /// Number of the hardware event.
    pub ctr_event: u32,
    /// Unit mask of the event.
    pub ctr_um: u32,
    /// Sampling period.
    pub ctr_count: u32,
    /// 1: keys are relative to the start of a kernel image's text. 0: keys are file offsets.
    pub is_kernel: u32,
    /// Zero.
    pub padding: u32,
    /// MHz, 0 when unknown.
    pub cpu_speed: f64,
    /// Modification time of the image in seconds, 0 when unknown.
    pub mtime: u64,
    /// `is_kernel` of the callee in a call-graph file, else 0.
    pub cg_to_is_kernel: u32,
    /// Zero.
    pub padding2: u32,
    /// Start of the anonymous region, 0 for a file.
    pub anon_start: u64,
    /// `anon_start` of the callee in a call-graph file, else 0.
    pub cg_to_anon_start: u64,
}

impl Header {
    /// A header of a timer profile; everything that is not given is 0.
    pub fn timer(count: u32, unit_mask: u32, mtime: u64) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            cpu_type: CPU_TYPE_TIMER,
            ctr_um: unit_mask,
            ctr_count: count,
            mtime,
            ..Self::new_zeroed()
        }
    }
}

/// Follows the header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Descriptor {
    /// Number of nodes, and of buckets.
    size: u32,
    /// Index of the next free node; node 0 is never used.
    current_size: u32,
    reserved: [u8; 24],
}

/// One key and its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Node {
    key: u64,
    value: u32,
    /// Index of the next node of the chain, 0 at its end.
    next: u32,
}

const HEADER_SIZE: usize = size_of::<Header>();
const DESCRIPTOR_SIZE: usize = size_of::<Descriptor>();

const _: () = assert!(HEADER_SIZE == 72 && DESCRIPTOR_SIZE == 32 && size_of::<Node>() == 16);

/// Why a file is not a sample file that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SampleFileError {
    /// The file cannot be read.
    #[error("Cannot read the sample file")]
    Io(#[from] io::Error),
    /// The file ends before its header or descriptor does.
    #[error("Can't read sample file header: {length} bytes are too short")]
    TooShort {
        /// Length of the file in bytes.
        length: u64,
    },
    /// The file does not begin with [`MAGIC`].
    #[error("Invalid sample file, bad magic number")]
    BadMagic,
    /// The header has another version than [`VERSION`].
    #[error(
        "Samples files version mismatch, are you running a daemon and tools with version mismatch? File version {found:#x}, expected 0x13"
    )]
    VersionMismatch {
        /// Version in the file.
        found: u32,
    },
    /// The length of the file does not fit the number of nodes it claims.
    #[error("Invalid argument: {length} bytes do not hold the {size} nodes claimed")]
    SizeMismatch {
        /// Length of the file in bytes.
        length: u64,
        /// Number of nodes claimed.
        size: u32,
    },
    /// More nodes are claimed to be used than there are.
    #[error("Damaged sample file: {current_size} nodes used of {size}")]
    CurrentSizeBeyondFile {
        /// Index of the next free node as claimed.
        current_size: u32,
        /// Number of nodes.
        size: u32,
    },
    /// More than [`MAX_DISTINCT_KEYS`] keys.
    #[error("Sample file holds more than {MAX_DISTINCT_KEYS} addresses")]
    TooManyKeys,
}

/// The content of one sample file.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleFile {
    /// The header as found.
    pub header: Header,
    /// Count by key; entries with the same key are summed.
    pub counts: BTreeMap<u64, u64>,
}

impl SampleFile {
    /// Reads the file at `path`. The file is not trusted: no size in it is believed before it is checked.
    pub fn read(path: &Path) -> Result<Self, SampleFileError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Self::parse(BufReader::new(file), length)
    }

    /// Reads a sample file of `length` bytes from `reader`.
    pub fn parse(reader: impl Read, length: u64) -> Result<Self, SampleFileError> {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let header = scan(reader, length, |nodes| {
            for node in nodes {
                let count = counts.entry(node.key).or_default();
                *count = count.saturating_add(u64::from(node.value));
            }
            check_keys(counts.len())
        })?;
        Ok(Self { header, counts })
    }

    /// Sum of all counts.
    pub fn total(&self) -> u64 {
        self.counts
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// The header of the file at `path`; nothing behind it is looked at.
pub fn read_header_of(path: &Path) -> Result<Header, SampleFileError> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    read_header(&mut file, length)
}

/// Header and sum of all counts of the file at `path`, in constant memory.
pub fn read_total(path: &Path) -> Result<(Header, u64), SampleFileError> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut total = 0u64;
    let header = scan(file, length, |nodes| {
        // At most 2^31 values of 32 bits: the sum of one file cannot overflow.
        total += nodes.iter().map(|node| u64::from(node.value)).sum::<u64>();
        Ok(())
    })?;
    Ok((header, total))
}

/// Header and counts of the file at `path`, sorted by key, each key once. Takes half the time of [`SampleFile::read`].
pub fn read_sorted(path: &Path) -> Result<(Header, Vec<(u64, u64)>), SampleFileError> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    // As many as there can be, unless the file claims to be very long.
    let nodes = usize::try_from(length / NODE_AND_BUCKET).unwrap_or(usize::MAX);
    let mut counts: Vec<(u64, u64)> = Vec::with_capacity(nodes.min(MOST_RESERVED));
    let header = scan(file, length, |nodes| {
        counts.extend(nodes.iter().map(|node| (node.key, u64::from(node.value))));
        // Repeated keys are summed before they could fill the memory.
        if counts.len() > 2 * MAX_DISTINCT_KEYS {
            sum_sorted(&mut counts);
        }
        check_keys(counts.len() / 2)
    })?;
    sum_sorted(&mut counts);
    check_keys(counts.len())?;
    Ok((header, counts))
}

/// Sorts by key and adds up what belongs to the same one.
fn sum_sorted(counts: &mut Vec<(u64, u64)>) {
    counts.sort_unstable_by_key(|(key, _)| *key);
    counts.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            kept.1 = kept.1.saturating_add(later.1);
        }
        same
    });
}

fn check_keys(distinct: usize) -> Result<(), SampleFileError> {
    if distinct > MAX_DISTINCT_KEYS {
        return Err(SampleFileError::TooManyKeys);
    }
    Ok(())
}

/// Checks header and descriptor, then hands over all used nodes, a batch at a time.
fn scan(
    mut reader: impl Read,
    length: u64,
    mut each: impl FnMut(&[Node]) -> Result<(), SampleFileError>,
) -> Result<Header, SampleFileError> {
    let mut start = [0; HEADER_SIZE + DESCRIPTOR_SIZE];
    // A file may end behind its header; what the header says is the better message then.
    let mut have = 0;
    while have < start.len() {
        match reader.read(&mut start[have..]) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut start = &start[..have];
    let header = read_header(&mut start, length)?;
    let mut descriptor = Descriptor::new_zeroed();
    read_exact(&mut start, descriptor.as_mut_bytes(), length)?;
    let Descriptor {
        size, current_size, ..
    } = descriptor;
    let nodes_bytes = length
        .checked_sub((HEADER_SIZE + DESCRIPTOR_SIZE) as u64)
        .ok_or(SampleFileError::TooShort { length })?;
    if nodes_bytes / NODE_AND_BUCKET != u64::from(size) {
        return Err(SampleFileError::SizeMismatch { length, size });
    }
    if current_size > size {
        return Err(SampleFileError::CurrentSizeBeyondFile { current_size, size });
    }
    let mut left = current_size as usize;
    let mut first = true;
    let mut nodes = vec![Node::new_zeroed(); NODES_PER_READ.min(left)];
    while left > 0 {
        let batch = &mut nodes[..NODES_PER_READ.min(left)];
        read_exact(&mut reader, batch.as_mut_bytes(), length)?;
        left -= batch.len();
        // Node 0 is never used.
        each(&batch[usize::from(first)..])?;
        first = false;
    }
    Ok(header)
}

fn read_header(reader: &mut impl Read, length: u64) -> Result<Header, SampleFileError> {
    let mut header = Header::new_zeroed();
    read_exact(reader, header.as_mut_bytes(), length)?;
    if header.magic != MAGIC {
        return Err(SampleFileError::BadMagic);
    }
    if header.version != VERSION {
        return Err(SampleFileError::VersionMismatch {
            found: header.version,
        });
    }
    Ok(header)
}

fn read_exact(
    reader: &mut impl Read,
    buffer: &mut [u8],
    length: u64,
) -> Result<(), SampleFileError> {
    reader
        .read_exact(buffer)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SampleFileError::TooShort { length },
            _ => SampleFileError::Io(error),
        })
}

/// The bytes of a sample file with this header and these counts.
///
/// The table grows by doubling from [`INITIAL_NODES`] and every chain is complete, so that a writer which appends
/// can go on with it. A count beyond 32 bits is cut to the largest value.
pub fn encode(header: &Header, counts: impl ExactSizeIterator<Item = (u64, u64)>) -> Vec<u8> {
    let wanted = u32::try_from(counts.len())
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    // Like OProfile: doubled as soon as the next free node would be the first behind the table.
    let mut size = INITIAL_NODES;
    while size <= wanted && size < MAX_NODES {
        size *= 2;
    }
    let mut nodes = vec![Node::new_zeroed(); size as usize];
    let mut buckets = vec![0u32; size as usize];
    let mut current_size = 1;
    for (key, value) in counts.take(size as usize - 1) {
        let bucket = &mut buckets[bucket_of(key, size)];
        nodes[current_size as usize] = Node {
            key,
            value: u32::try_from(value).unwrap_or(u32::MAX),
            next: *bucket,
        };
        *bucket = current_size;
        current_size += 1;
    }
    let descriptor = Descriptor {
        size,
        current_size,
        reserved: [0; 24],
    };
    let mut bytes = Vec::with_capacity(HEADER_SIZE + DESCRIPTOR_SIZE + nodes.len() * 20);
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(descriptor.as_bytes());
    bytes.extend_from_slice(nodes.as_bytes());
    bytes.extend_from_slice(buckets.as_bytes());
    bytes
}

/// The bucket of `key` in a table of `size` buckets (a power of two).
fn bucket_of(key: u64, size: u32) -> usize {
    let folded = (key >> 32) ^ key;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the hash is defined on the low 32 bits"
    )]
    let t = folded as u32;
    ((t ^ (t >> 8)) & (size - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode_map(header: &Header, counts: &BTreeMap<u64, u64>) -> Vec<u8> {
        encode(header, counts.iter().map(|(key, value)| (*key, *value)))
    }

    fn parse(bytes: &[u8]) -> Result<SampleFile, SampleFileError> {
        SampleFile::parse(bytes, bytes.len() as u64)
    }

    fn word(bytes: &[u8], offset: usize) -> u32 {
        u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    #[test]
    fn new_table_has_the_length_oprofile_gives_it() {
        let bytes = encode_map(&Header::timer(0, 0, 0), &BTreeMap::new());
        assert_eq!(bytes.len(), 2664);
        assert_eq!((word(&bytes, 72), word(&bytes, 76)), (128, 1));
    }

    #[test]
    fn table_doubles_when_the_next_free_node_reaches_its_size() {
        let header = Header::timer(0, 0, 0);
        let of = |n: u64| encode_map(&header, &(0..n).map(|key| (key, 1)).collect()).len();
        assert_eq!(of(126), 2664);
        assert_eq!(of(127), 5224);
        assert_eq!(of(254), 5224);
        assert_eq!(of(255), 10344);
    }

    #[test]
    fn header_fields_lie_at_their_offsets() {
        let mut header = Header::timer(7, 8, 0x1122_3344_5566);
        header.is_kernel = 1;
        header.anon_start = 0xaaaa;
        header.cg_to_anon_start = 0xbbbb;
        let bytes = encode_map(&header, &BTreeMap::new());
        assert_eq!(&bytes[..4], b"DAE\n");
        assert_eq!(
            (
                word(&bytes, 4),
                word(&bytes, 8),
                word(&bytes, 16),
                word(&bytes, 20)
            ),
            (0x13, 4, 8, 7)
        );
        assert_eq!(word(&bytes, 24), 1);
        assert_eq!(
            u64::from_ne_bytes(bytes[40..48].try_into().unwrap()),
            0x1122_3344_5566
        );
        assert_eq!((word(&bytes, 56), word(&bytes, 64)), (0xaaaa, 0xbbbb));
    }

    #[test]
    fn value_beyond_32_bits_saturates() {
        let counts = BTreeMap::from([(5, u64::from(u32::MAX) + 5)]);
        let file = parse(&encode_map(&Header::timer(0, 0, 0), &counts)).unwrap();
        assert_eq!(file.counts[&5], u64::from(u32::MAX));
    }

    #[test]
    fn duplicate_keys_are_summed_beyond_32_bits() {
        let mut bytes = encode(
            &Header::timer(0, 0, 0),
            [(9, 0xffff_ffff), (9, 0xffff_ffff)].into_iter(),
        );
        bytes.extend_from_slice(&[7; 19]);
        assert_eq!(
            parse(&bytes).unwrap().counts,
            BTreeMap::from([(9, 0x1_ffff_fffe)])
        );
    }

    #[test]
    fn damaged_files_are_refused_with_their_reason() {
        let good = encode_map(&Header::timer(0, 0, 0), &BTreeMap::from([(1, 1)]));
        assert!(matches!(
            parse(&[]),
            Err(SampleFileError::TooShort { length: 0 })
        ));
        assert!(matches!(
            parse(&good[..71]),
            Err(SampleFileError::TooShort { .. })
        ));
        assert!(matches!(
            parse(&good[..103]),
            Err(SampleFileError::TooShort { .. })
        ));
        let change = |offset: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
            parse(&bytes)
        };
        assert!(matches!(change(0, 0), Err(SampleFileError::BadMagic)));
        assert!(matches!(
            change(4, 0x12),
            Err(SampleFileError::VersionMismatch { found: 0x12 })
        ));
        assert!(matches!(
            change(72, 64),
            Err(SampleFileError::SizeMismatch { size: 64, .. })
        ));
        assert!(matches!(
            change(72, u32::MAX),
            Err(SampleFileError::SizeMismatch { .. })
        ));
        assert!(matches!(
            change(76, 129),
            Err(SampleFileError::CurrentSizeBeyondFile {
                current_size: 129,
                ..
            })
        ));
        assert!(matches!(
            parse(&good[..good.len() - 20]),
            Err(SampleFileError::SizeMismatch { .. })
        ));
    }

    #[test]
    fn length_that_lies_is_found_at_the_end_of_the_file() {
        let mut bytes = encode_map(&Header::timer(0, 0, 0), &BTreeMap::new());
        bytes[72..76].copy_from_slice(&0x1000_0000u32.to_ne_bytes());
        bytes[76..80].copy_from_slice(&0x0fff_ffffu32.to_ne_bytes());
        let length = 104 + 20 * 0x1000_0000u64;
        assert!(matches!(
            SampleFile::parse(&bytes[..], length),
            Err(SampleFileError::TooShort { .. })
        ));
    }

    proptest! {
        #[test]
        fn counts_survive_a_round_trip(counts in prop::collection::btree_map(any::<u64>(), any::<u32>().prop_map(u64::from), 0..600),
                                       mtime in any::<u64>()) {
            let header = Header::timer(3, 0, mtime);
            let file = parse(&encode_map(&header, &counts)).unwrap();
            prop_assert_eq!(file.header, header);
            prop_assert_eq!(file.counts, counts);
        }

        #[test]
        fn every_key_is_found_through_its_chain(counts in prop::collection::btree_map(any::<u64>(), 1u64..9, 0..400)) {
            let bytes = encode_map(&Header::timer(0, 0, 0), &counts);
            let size = word(&bytes, 72);
            prop_assert!(size.is_power_of_two());
            prop_assert_eq!(bytes.len() as u64, 104 + 20 * u64::from(size));
            for (key, value) in &counts {
                let bucket = 104 + 16 * size as usize + 4 * bucket_of(*key, size);
                let mut index = word(&bytes, bucket) as usize;
                let mut steps = 0;
                while index != 0 && bytes[104 + 16 * index..][..8] != key.to_ne_bytes() {
                    index = word(&bytes, 104 + 16 * index + 12) as usize;
                    steps += 1;
                    prop_assert!(steps <= counts.len());
                }
                prop_assert_ne!(index, 0);
                prop_assert_eq!(u64::from(word(&bytes, 104 + 16 * index + 8)), *value);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..3000), with_header in any::<bool>()) {
            if with_header && bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4..8].copy_from_slice(&VERSION.to_ne_bytes());
            }
            let _ = parse(&bytes);
        }
    }
}
