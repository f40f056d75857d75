//! Requests on the control queue.
//!
//! A request is one descriptor chain: readable bytes hold a [`RequestHeader`], then `payload_bytes` of payload;
//! the writable part takes a [`Response`]. Lists that do not fit one chain are sent as several requests, the first
//! marked [`flag::FIRST`] and the last [`flag::LAST`].

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cursor::Cursor;

/// Longest readable part of a request. Big enough for a few thousand symbols, small enough that a device
/// can copy it whole before it looks at it.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// Longest name of a kernel release, module or symbol: Linux's `KSYM_NAME_LEN` is 512 since 6.1.
pub const MAX_NAME_BYTES: usize = 512;

/// Kinds of requests.
pub mod kind {
    /// [`super::Hello`]: must come first.
    pub const HELLO: u16 = 1;
    /// [`super::CpuState`].
    pub const CPU_STATE: u16 = 2;
    /// A list of [`super::ModuleEntry`], replacing the one before.
    pub const MODULES: u16 = 3;
    /// [`super::SymbolsHeader`] and a list of [`super::SymbolEntry`].
    pub const SYMBOLS: u16 = 4;
    /// [`super::TaskFree`] and its task pointers. Answered when the device refers to none of them any more.
    pub const TASK_FREE: u16 = 5;
    /// No payload: the driver's clocks are stopped and every buffer has been posted. Answered when the device has
    /// drained all sample queues; sent after the host cleared `enable`, and before the guest powers off.
    pub const QUIESCED: u16 = 6;
    /// [`super::HostClock`]: the NMIs of a vCPU begin or end. Wants the capability
    /// [`HOST_NMI`](crate::config::capability::HOST_NMI) in force.
    pub const HOST_CLOCK: u16 = 7;
    /// No payload: which perf map does the device want next? The answer's `detail` is the process id, 0 when it wants none, and
    /// `value` the offset in the file from which on. With [`flag::LAST`](super::flag::LAST) the driver is about to stop: the
    /// device does not wait any more before it asks for the same file again. Wants the capability
    /// [`PERF_MAPS`](crate::config::capability::PERF_MAPS) in force, as the next one does.
    pub const WANTED_MAP: u16 = 8;
    /// [`super::PerfMap`] and bytes of the perf map that [`WANTED_MAP`] told of, in order; behind the end of the file, or when it
    /// cannot be read, [`flag::LAST`](super::flag::LAST) ends it. The answer's `value` is 0 when the device takes no more of it.
    pub const PERF_MAP: u16 = 9;
}

/// Flags of a request.
pub mod flag {
    /// First part of a list: what was known before is forgotten.
    pub const FIRST: u32 = 1 << 0;
    /// Last part of a list: it takes effect.
    pub const LAST: u32 = 1 << 1;
    /// The module list is sent because a module is about to run (Linux: `MODULE_STATE_COMING`).
    pub const MODULE_COMING: u32 = 1 << 2;
    /// The perf map cannot be read: there is none, or it is not to be believed. Without payload behind
    /// [`super::PerfMap`], and together with [`LAST`].
    pub const UNREADABLE: u32 = 1 << 3;
}

/// Answers to a request.
pub mod status {
    /// Done.
    pub const OK: u32 = 0;
    /// The request's version is not the device's.
    pub const UNSUPPORTED_VERSION: u32 = 1;
    /// No request of this kind.
    pub const UNKNOWN_REQUEST: u32 = 2;
    /// Lengths or values contradict each other or leave their range; `detail` says which field, see the request.
    pub const MALFORMED: u32 = 3;
    /// A list is longer than the device keeps.
    pub const LIMIT_EXCEEDED: u32 = 4;
    /// The request must come after (or before) another one.
    pub const BAD_STATE: u32 = 5;
    /// The layout descriptor cannot be used; `detail` is the field id that is missing or out of range.
    pub const BAD_LAYOUT: u32 = 6;
    /// The kernel description does not agree with guest memory.
    pub const BAD_KERNEL: u32 = 7;
}

/// Start of every request, 16 bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RequestHeader {
    /// See [`kind`].
    pub kind: U16,
    /// [`crate::PROTOCOL_VERSION`].
    pub version: U16,
    /// See [`flag`].
    pub flags: U32,
    /// Bytes that follow this header.
    pub payload_bytes: U32,
    /// Zero.
    pub reserved: U32,
}

/// The device's answer, 16 bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct Response {
    /// See [`status`].
    pub status: U32,
    /// Depends on the status.
    pub detail: U32,
    /// Hello: the capabilities in force. [`kind::WANTED_MAP`], [`kind::PERF_MAP`]: see there. Otherwise 0.
    pub value: U64,
}

/// The driver's introduction, 80 bytes; behind it `release_bytes` of the kernel's release name, then
/// `layout_bytes` of layout descriptor ([`crate::layout`]).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Hello {
    /// Capabilities that the driver uses; a subset of what the device offers.
    pub capabilities: U64,
    /// GPA of the kernel's top-level page table; bits 11:0 are zero.
    pub page_table_root: U64,
    /// GVA at which the kernel maps RAM linearly (`gva = base + gpa`), or 0 when it does not tell. A hint: the
    /// device checks it against a page walk before it believes it.
    pub linear_map_base: U64,
    /// GVA of the first byte of the kernel image.
    pub kernel_start: U64,
    /// GVA behind the last byte of the kernel image.
    pub kernel_end: U64,
    /// GVA behind the last byte that user mode can map.
    pub user_end: U64,
    /// A task pointer (GVA) that lives as long as the kernel, for the device to check its translation with; or 0.
    pub init_task: U64,
    /// GPA of the [change words](crate::changes), a multiple of 8, when that capability is used; otherwise 0.
    pub change_words: U64,
    /// 4 or 5.
    pub page_table_levels: U16,
    /// vCPUs that the guest knows of.
    pub cpus: U16,
    /// Length of the release name.
    pub release_bytes: U16,
    /// Zero.
    pub reserved: U16,
    /// Length of the layout descriptor.
    pub layout_bytes: U32,
    /// Events of a vCPU's own between samples (Linux: cycles of its PMU), when the driver samples by these; 0: it samples by time,
    /// or by the host's clock. What the device is told it believes, and does nothing with but tell.
    pub clock_events: U32,
}

/// A vCPU comes or goes, 8 bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CpuState {
    /// vCPU index.
    pub vcpu: U32,
    /// 1: online. 0: offline, its last buffer has been posted.
    pub online: U32,
}

/// One loaded module, 24 bytes and its name.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ModuleEntry {
    /// GVA of its first byte.
    pub base: U64,
    /// Bytes.
    pub size: U64,
    /// Length of the name that follows.
    pub name_bytes: U16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Start of a symbol list, 16 bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SymbolsHeader {
    /// 0: the kernel image. Otherwise the base of a module of the current list.
    pub image_base: U64,
    /// Number of [`SymbolEntry`] records that follow.
    pub count: U32,
    /// Zero.
    pub reserved: U32,
}

/// One function, 16 bytes and its name.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SymbolEntry {
    /// GVA.
    pub address: U64,
    /// Bytes; 0 when unknown.
    pub size: U32,
    /// Zero.
    pub reserved: U16,
    /// Length of the name that follows.
    pub name_bytes: U16,
}

/// Start of a task-free request, 8 bytes; behind it `count` task pointers, each a little-endian `u64`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct TaskFree {
    /// Number of task pointers, 1 to [`MAX_TASKS_PER_REQUEST`].
    pub count: U32,
    /// Zero.
    pub reserved: U32,
}

/// NMIs of a vCPU begin or end, 16 bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct HostClock {
    /// vCPU index.
    pub vcpu: U32,
    /// Its APIC id, at most [`crate::clock::MAX_APIC_ID`].
    pub apic_id: U32,
    /// GPA of its [clock cell](crate::clock::ClockCell), zeroed but for `busy`; 0: no more NMIs.
    pub cell: U64,
}

/// A piece of a perf map, 16 bytes and as many of the file as the request has.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct PerfMap {
    /// The process, as [`kind::WANTED_MAP`] told it.
    pub tgid: U32,
    /// Zero.
    pub reserved: U32,
    /// Offset in the file of the first byte that follows.
    pub offset: U64,
}

/// Most tasks in one task-free request.
pub const MAX_TASKS_PER_REQUEST: usize = 256;

/// A name with the fixed part in front of it, as it stands in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a, T> {
    /// The fixed part.
    pub entry: &'a T,
    /// The name: any bytes, [`MAX_NAME_BYTES`] at most.
    pub name: &'a [u8],
}

/// Why a list of named entries cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListError {
    /// The bytes end inside an entry.
    Truncated,
    /// A name is longer than [`MAX_NAME_BYTES`].
    NameTooLong,
}

/// An entry that is followed by a name.
pub trait HasName: FromBytes + KnownLayout + Immutable + Unaligned {
    /// Length of the name in bytes.
    fn name_bytes(&self) -> usize;
}

impl HasName for ModuleEntry {
    fn name_bytes(&self) -> usize {
        usize::from(self.name_bytes.get())
    }
}

impl HasName for SymbolEntry {
    fn name_bytes(&self) -> usize {
        usize::from(self.name_bytes.get())
    }
}

/// Takes the next named entry of a list.
///
/// # Errors
/// When the bytes end inside the entry or its name is too long; the cursor is then of no further use.
pub fn take_named<'a, T: HasName>(cursor: &mut Cursor<'a>) -> Result<Named<'a, T>, ListError> {
    let entry = cursor.take::<T>().ok_or(ListError::Truncated)?;
    if entry.name_bytes() > MAX_NAME_BYTES {
        return Err(ListError::NameTooLong);
    }
    let name = cursor
        .take_bytes(entry.name_bytes())
        .ok_or(ListError::Truncated)?;
    Ok(Named { entry, name })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn layouts_are_what_a_c_header_would_state() {
        assert_eq!(size_of::<RequestHeader>(), 16);
        assert_eq!(size_of::<Response>(), 16);
        assert_eq!(size_of::<Hello>(), 80);
        assert_eq!(size_of::<CpuState>(), 8);
        assert_eq!(size_of::<ModuleEntry>(), 24);
        assert_eq!(size_of::<SymbolsHeader>(), 16);
        assert_eq!(size_of::<SymbolEntry>(), 16);
        assert_eq!(size_of::<TaskFree>(), 8);
        assert_eq!(size_of::<HostClock>(), 16);
        assert_eq!(size_of::<PerfMap>(), 16);
    }

    proptest! {
        #[test]
        fn named_entries_round_trip(
            list in prop::collection::vec((any::<u64>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..MAX_NAME_BYTES)), 0..20)
        ) {
            let mut bytes = Vec::new();
            for (address, size, name) in &list {
                let entry = SymbolEntry {
                    address: (*address).into(),
                    size: (*size).into(),
                    reserved: 0.into(),
                    name_bytes: u16::try_from(name.len()).unwrap().into(),
                };
                bytes.extend_from_slice(entry.as_bytes());
                bytes.extend_from_slice(name);
            }
            let mut cursor = Cursor::new(&bytes);
            for (address, size, name) in &list {
                let named = take_named::<SymbolEntry>(&mut cursor).unwrap();
                prop_assert_eq!(named.entry.address.get(), *address);
                prop_assert_eq!(named.entry.size.get(), *size);
                prop_assert_eq!(named.name, &name[..]);
            }
            prop_assert!(cursor.rest().is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut cursor = Cursor::new(&bytes);
            while let Ok(named) = take_named::<ModuleEntry>(&mut cursor) {
                prop_assert!(named.name.len() <= MAX_NAME_BYTES);
            }
        }
    }

    #[test]
    fn over_long_name_is_refused() {
        let entry = SymbolEntry {
            address: 0.into(),
            size: 0.into(),
            reserved: 0.into(),
            name_bytes: 513.into(),
        };
        let mut bytes = Vec::from(entry.as_bytes());
        bytes.resize(bytes.len() + 513, b'x');
        let error = take_named::<SymbolEntry>(&mut Cursor::new(&bytes)).unwrap_err();
        assert_eq!(error, ListError::NameTooLong);
    }
}
