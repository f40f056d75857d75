//! Control requests, read from bytes. Nothing is executed here; the engine does.

pub(crate) mod lists;

use oprofile_wire::control::{
    CpuState, HasName, Hello, HostClock, MAX_NAME_BYTES, MAX_TASKS_PER_REQUEST, ModuleEntry, Named,
    PerfMap, RequestHeader, SymbolEntry, SymbolsHeader, TaskFree, flag, kind, status, take_named,
};
use oprofile_wire::{Cursor, PROTOCOL_VERSION};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A request that is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// See [`status`].
    pub status: u32,
    /// For `MALFORMED` the offset in the request at which it went wrong; for others see the status.
    pub detail: u32,
}

impl Refusal {
    pub const fn new(status: u32, detail: u32) -> Self {
        Self { status, detail }
    }
}

/// A request whose lengths have been checked; its values have not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request<'a> {
    Hello {
        hello: &'a Hello,
        release: &'a [u8],
        layout: &'a [u8],
    },
    CpuState(&'a CpuState),
    Modules {
        flags: u32,
        entries: Records<'a>,
    },
    Symbols {
        flags: u32,
        image_base: u64,
        count: u32,
        entries: Records<'a>,
    },
    /// Which tasks does not matter: the device keeps no pointer that it does not get anew with each buffer.
    TaskFree,
    Quiesced,
    HostClock(&'a HostClock),
    WantedMap {
        flags: u32,
    },
    PerfMap {
        flags: u32,
        map: &'a PerfMap,
        text: &'a [u8],
    },
}

/// Bytes of a request that know their position, for answers that say where it went wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records<'a> {
    cursor: Cursor<'a>,
    total: usize,
}

impl<'a> Records<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self {
            cursor: Cursor::new(bytes),
            total: bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.cursor.rest().is_empty()
    }

    /// A refusal that points here.
    pub fn malformed(&self) -> Refusal {
        let at = self.total - self.cursor.rest().len();
        Refusal::new(status::MALFORMED, u32::try_from(at).unwrap_or(u32::MAX))
    }

    fn take<T>(&mut self) -> Result<&'a T, Refusal>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let refusal = self.malformed();
        self.cursor.take().ok_or(refusal)
    }

    fn take_bytes(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let refusal = self.malformed();
        self.cursor.take_bytes(count).ok_or(refusal)
    }

    fn take_named<T: HasName>(&mut self) -> Result<Named<'a, T>, Refusal> {
        let refusal = self.malformed();
        take_named(&mut self.cursor).map_err(|_| refusal)
    }

    pub fn take_module(&mut self) -> Result<Named<'a, ModuleEntry>, Refusal> {
        self.take_named()
    }

    pub fn take_symbol(&mut self) -> Result<Named<'a, SymbolEntry>, Refusal> {
        self.take_named()
    }

    fn finish(&self) -> Result<(), Refusal> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(self.malformed()),
        }
    }
}

impl<'a> Request<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// The answer, when it is of another version, of no known kind, or its lengths contradict each other.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let mut records = Records::new(bytes);
        let header: &RequestHeader = records.take()?;
        if header.version.get() != PROTOCOL_VERSION {
            let ours = u32::from(PROTOCOL_VERSION);
            return Err(Refusal::new(status::UNSUPPORTED_VERSION, ours));
        }
        if header.payload_bytes.get() as usize != records.cursor.rest().len() {
            return Err(records.malformed());
        }
        let flags = header.flags.get();
        match header.kind.get() {
            kind::HELLO => Self::hello(records),
            kind::CPU_STATE => {
                let state = records.take()?;
                records.finish()?;
                Ok(Self::CpuState(state))
            }
            kind::MODULES => Ok(Self::Modules {
                flags,
                entries: records,
            }),
            kind::SYMBOLS => {
                let header: &SymbolsHeader = records.take()?;
                Ok(Self::Symbols {
                    flags,
                    image_base: header.image_base.get(),
                    count: header.count.get(),
                    entries: records,
                })
            }
            kind::TASK_FREE => {
                let refusal = records.malformed();
                let header: &TaskFree = records.take()?;
                let count = header.count.get() as usize;
                if !(1..=MAX_TASKS_PER_REQUEST).contains(&count) {
                    return Err(refusal);
                }
                records.take_bytes(count * size_of::<u64>())?;
                records.finish()?;
                Ok(Self::TaskFree)
            }
            kind::QUIESCED => {
                records.finish()?;
                Ok(Self::Quiesced)
            }
            kind::HOST_CLOCK => {
                let clock = records.take()?;
                records.finish()?;
                Ok(Self::HostClock(clock))
            }
            kind::WANTED_MAP => {
                records.finish()?;
                Ok(Self::WantedMap { flags })
            }
            kind::PERF_MAP => {
                let map = records.take()?;
                let text = records.cursor.rest();
                // What cannot be read has no bytes, and nothing follows.
                if flags & flag::UNREADABLE != 0 && (flags & flag::LAST == 0 || !text.is_empty()) {
                    return Err(records.malformed());
                }
                Ok(Self::PerfMap { flags, map, text })
            }
            unknown => Err(Refusal::new(status::UNKNOWN_REQUEST, u32::from(unknown))),
        }
    }

    fn hello(mut records: Records<'a>) -> Result<Self, Refusal> {
        let hello: &Hello = records.take()?;
        let release_bytes = usize::from(hello.release_bytes.get());
        if release_bytes > MAX_NAME_BYTES {
            return Err(records.malformed());
        }
        let release = records.take_bytes(release_bytes)?;
        let layout = records.take_bytes(hello.layout_bytes.get() as usize)?;
        records.finish()?;
        Ok(Self::Hello {
            hello,
            release,
            layout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    fn request(kind: u16, payload: &[u8]) -> Vec<u8> {
        let header = RequestHeader {
            kind: kind.into(),
            version: PROTOCOL_VERSION.into(),
            flags: 0.into(),
            payload_bytes: u32::try_from(payload.len()).unwrap().into(),
            reserved: 0.into(),
        };
        [header.as_bytes(), payload].concat()
    }

    fn refusal(bytes: &[u8]) -> Refusal {
        Request::parse(bytes).unwrap_err()
    }

    #[test]
    fn a_request_cut_in_its_header_is_malformed() {
        assert_eq!(refusal(&[0; 15]), Refusal::new(status::MALFORMED, 0));
    }

    #[test]
    fn another_version_is_told_ours() {
        let mut bytes = request(kind::QUIESCED, &[]);
        bytes[2] = 9;
        assert_eq!(
            refusal(&bytes),
            Refusal::new(status::UNSUPPORTED_VERSION, 1)
        );
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let bytes = request(77, &[]);
        assert_eq!(refusal(&bytes), Refusal::new(status::UNKNOWN_REQUEST, 77));
    }

    #[test]
    fn a_payload_of_another_length_than_told_is_malformed() {
        let mut bytes = request(kind::QUIESCED, &[]);
        bytes.push(0);
        assert_eq!(refusal(&bytes), Refusal::new(status::MALFORMED, 16));
        let bytes = request(kind::QUIESCED, &[0]);
        assert_eq!(refusal(&bytes), Refusal::new(status::MALFORMED, 16));
    }

    #[test]
    fn task_free_takes_one_to_its_limit() {
        let of = |count: u32, words: usize| {
            let payload = [&count.to_le_bytes()[..], &[0; 4], &vec![0; words * 8]].concat();
            request(kind::TASK_FREE, &payload)
        };
        assert!(Request::parse(&of(1, 1)).is_ok());
        assert!(Request::parse(&of(256, 256)).is_ok());
        for (count, words) in [(0, 0), (257, 257), (2, 1), (1, 2), (u32::MAX, 1)] {
            assert_eq!(refusal(&of(count, words)).status, status::MALFORMED);
        }
    }

    #[test]
    fn a_perf_map_that_cannot_be_read_has_no_bytes_and_ends() {
        let of = |flags: u32, text: &[u8]| {
            let mut bytes = request(kind::PERF_MAP, &[&[0; 16], text].concat());
            bytes[4..8].copy_from_slice(&flags.to_le_bytes());
            Request::parse(&bytes).is_ok()
        };
        assert!(of(0, b"text") && of(flag::LAST, b"") && of(flag::LAST | flag::UNREADABLE, b""));
        assert!(!of(flag::UNREADABLE, b"") && !of(flag::LAST | flag::UNREADABLE, b"text"));
    }

    #[test]
    fn a_hello_with_lengths_beyond_its_payload_is_malformed() {
        let mut hello = Hello::new_zeroed();
        hello.layout_bytes = 1.into();
        let bytes = request(kind::HELLO, hello.as_bytes());
        assert_eq!(refusal(&bytes), Refusal::new(status::MALFORMED, 96));
        hello.layout_bytes = u32::MAX.into();
        let bytes = request(kind::HELLO, hello.as_bytes());
        assert_eq!(refusal(&bytes).status, status::MALFORMED);
    }

    proptest! {
        #[test]
        fn any_payload_is_read_or_refused(kind in 0u16..11, payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&request(kind, &payload));
        }
    }
}
