//! One sample file, from its header to its last bucket.

use std::collections::HashSet;
use std::path::Path;

use super::{Report, Rule};

/// Offset of the descriptor: the length of a version 0x13 header.
const DESCRIPTOR: usize = 72;
/// Offset of the first node.
const NODES: usize = DESCRIPTOR + 32;
/// Bytes of a node: key, value, next.
const NODE: usize = 16;
/// Bytes of a node and its bucket.
const NODE_AND_BUCKET: usize = 20;
/// Nodes of a new table.
const INITIAL_NODES: u32 = 128;
/// Most nodes of a table: the collector keeps 2^22 keys in all, and a table of so many has twice the nodes.
const MAX_NODES: u32 = 1 << 23;
/// Longest file in bytes.
pub(super) const MAX_LENGTH: u64 = (NODES + NODE_AND_BUCKET * MAX_NODES as usize) as u64;
/// Processors in OProfile 1.5's list.
const CPU_TYPES: u32 = 88;
/// The timer's number in the list.
const CPU_TYPE_TIMER: u32 = 4;

/// The fields of a header that other checks need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) ctr_um: u32,
    pub(super) ctr_count: u32,
    pub(super) is_kernel: u32,
    pub(super) mtime: u64,
    pub(super) cg_to_is_kernel: u32,
    pub(super) anon_start: u64,
    pub(super) cg_to_anon_start: u64,
}

/// A file that could be read to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content {
    pub(super) header: Header,
    /// Largest key, `None` without any.
    pub(super) largest_key: Option<u64>,
    /// Sum of the counts.
    pub(super) total: u64,
}

/// Numbers by offset; all offsets used lie within what was checked to be there.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0
            .get(offset..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or([0; N])
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.at(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.at(offset))
    }

    fn is_zero(&self, from: usize, to: usize) -> bool {
        self.0
            .get(from..to)
            .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
    }
}

/// Checks the file; `None` when there is nothing more to be learnt from it.
pub(super) fn check(path: &Path, bytes: &[u8], report: &mut Report) -> Option<Content> {
    if bytes.len() < NODES {
        report.find(path, Rule::TooShort);
        return None;
    }
    let file = Bytes(bytes);
    let header = check_header(path, &file, report)?;
    let (size, used) = check_descriptor(path, &file, report)?;
    let (largest_key, total) = check_nodes(path, &file, size, used, report);
    Some(Content {
        header,
        largest_key,
        total,
    })
}

fn check_header(path: &Path, file: &Bytes<'_>, report: &mut Report) -> Option<Header> {
    if file.at(0) != *b"DAE\n" {
        report.find(path, Rule::Magic);
        return None;
    }
    let version = file.u32(4);
    if version != 0x13 {
        report.find(path, Rule::Version(version));
        return None;
    }
    let cpu_type = file.u32(8);
    if cpu_type >= CPU_TYPES {
        report.find(path, Rule::CpuType(cpu_type));
    }
    if cpu_type == CPU_TYPE_TIMER && file.u32(12) != 0 {
        report.find(path, Rule::TimerEvent);
    }
    if !file.is_zero(28, 32) || !file.is_zero(52, 56) {
        report.find(path, Rule::Padding("header"));
    }
    let speed = f64::from_ne_bytes(file.at(32));
    if !speed.is_finite() || speed < 0.0 {
        report.find(path, Rule::Speed);
    }
    let header = Header {
        ctr_um: file.u32(16),
        ctr_count: file.u32(20),
        is_kernel: file.u32(24),
        mtime: file.u64(40),
        cg_to_is_kernel: file.u32(48),
        anon_start: file.u64(56),
        cg_to_anon_start: file.u64(64),
    };
    if header.is_kernel > 1 || header.cg_to_is_kernel > 1 {
        report.find(path, Rule::Flag);
    }
    Some(header)
}

/// Number of nodes, and of those in use with node 0.
fn check_descriptor(path: &Path, file: &Bytes<'_>, report: &mut Report) -> Option<(usize, usize)> {
    let size = file.u32(DESCRIPTOR);
    let current_size = file.u32(DESCRIPTOR + 4);
    if size > MAX_NODES {
        report.find(path, Rule::TooLarge(size));
        return None;
    }
    if !size.is_power_of_two() || size < INITIAL_NODES {
        report.find(path, Rule::Size(size));
        return None;
    }
    if !file.is_zero(DESCRIPTOR + 8, NODES) {
        report.find(path, Rule::Padding("descriptor"));
    }
    // At most MAX_NODES, which was compared just now.
    let nodes = usize::try_from(size).ok()?;
    if file.0.len() != NODES + NODE_AND_BUCKET * nodes {
        report.find(path, Rule::Length);
        return None;
    }
    // A table whose next free node would lie behind its end has been doubled.
    if current_size == 0 || current_size >= size {
        report.find(path, Rule::CurrentSize(current_size));
        return None;
    }
    Some((nodes, usize::try_from(current_size).ok()?))
}

/// The largest key and the sum of all counts.
fn check_nodes(
    path: &Path,
    file: &Bytes<'_>,
    size: usize,
    used: usize,
    report: &mut Report,
) -> (Option<u64>, u64) {
    let node = |index: usize| NODES + NODE * index;
    let buckets = node(size);
    if !file.is_zero(node(0), node(1)) || !file.is_zero(node(used), buckets) {
        report.find(path, Rule::Padding("nodes"));
    }
    let mut keys = HashSet::with_capacity(used);
    let mut largest = None;
    let mut total = 0u64;
    for index in 1..used {
        let key = file.u64(node(index));
        let value = file.u32(node(index) + 8);
        if !keys.insert(key) {
            report.find(path, Rule::DuplicateKey(key));
        }
        if value == 0 {
            report.find(path, Rule::ZeroCount(key));
        }
        largest = largest.max(Some(key));
        total = total.saturating_add(u64::from(value));
    }
    let mut in_chain = vec![false; used];
    for bucket in 0..size {
        let mut next = file.u32(buckets + 4 * bucket);
        while next != 0 {
            let index = usize::try_from(next).unwrap_or(usize::MAX);
            let Some(seen) = in_chain.get_mut(index) else {
                report.find(path, Rule::ChainTarget(next));
                break;
            };
            // A node that was met before ends the walk, or it would run in circles.
            if std::mem::replace(seen, true) || bucket_of(file.u64(node(index)), size) != bucket {
                report.find(path, Rule::Chain(next));
                break;
            }
            next = file.u32(node(index) + 12);
        }
    }
    for (index, _) in in_chain
        .iter()
        .enumerate()
        .skip(1)
        .filter(|(_, seen)| !**seen)
    {
        report.find(path, Rule::Chain(u32::try_from(index).unwrap_or(u32::MAX)));
    }
    (largest, total)
}

/// The bucket that the format assigns to `key` in a table of `size`, a power of two.
fn bucket_of(key: u64, size: usize) -> usize {
    let low = (key >> 32 ^ key) & 0xffff_ffff;
    let hash = low ^ (low >> 8);
    // The mask leaves less than `size`.
    usize::try_from(hash & (size as u64 - 1)).unwrap_or(0)
}
