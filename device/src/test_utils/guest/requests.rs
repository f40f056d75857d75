//! What the driver says of the guest.

use oprofile_wire::PROTOCOL_VERSION;
use oprofile_wire::config::capability;
use oprofile_wire::control::{Hello, RequestHeader, kind};
use oprofile_wire::layout::{Descriptor, LayoutEntry, VmaStore};
use zerocopy::IntoBytes;

use super::{KERNEL_END, KERNEL_START, LINEAR_BASE, SyntheticGuest, USER_END};
use crate::guest::paging::Levels;

impl SyntheticGuest {
    /// The driver's introduction: what is true of this guest.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            capabilities: self.capabilities().into(),
            page_table_root: self.root.into(),
            linear_map_base: LINEAR_BASE.into(),
            kernel_start: KERNEL_START.into(),
            kernel_end: KERNEL_END.into(),
            user_end: USER_END.into(),
            init_task: self.init_task.into(),
            change_words: self.change_words.unwrap_or(0).into(),
            page_table_levels: match self.shape.levels {
                Levels::Four => 4.into(),
                Levels::Five => 5.into(),
            },
            cpus: 1.into(),
            release_bytes: 4.into(),
            reserved: 0.into(),
            layout_bytes: u32::try_from(self.layout_bytes(self.shape.store).len())
                .unwrap()
                .into(),
            clock_events: 0.into(),
        }
    }

    /// All of them, save for change words where there are none.
    const fn capabilities(&self) -> u64 {
        match self.change_words {
            Some(_) => capability::ALL & !capability::HOST_NMI,
            None => capability::ALL & !capability::HOST_NMI & !capability::CHANGE_WORDS,
        }
    }

    /// The layout descriptor.
    #[must_use]
    pub fn layout_bytes(&self, store: VmaStore) -> Vec<u8> {
        Self::descriptor(store, &self.shape.layout)
    }

    /// A layout descriptor of any entries.
    #[must_use]
    pub fn descriptor(store: VmaStore, entries: &[LayoutEntry]) -> Vec<u8> {
        let header = Descriptor::header(store, u16::try_from(entries.len()).unwrap());
        [header.as_bytes(), entries.as_bytes()].concat()
    }

    /// A hello request of these parts; the release is "test".
    #[must_use]
    pub fn hello_request(hello: &Hello, layout: &[u8]) -> Vec<u8> {
        let payload = [hello.as_bytes(), b"test", layout].concat();
        Self::request(kind::HELLO, 0, &payload)
    }

    /// A request.
    #[must_use]
    pub fn request(kind: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
        let header = RequestHeader {
            kind: kind.into(),
            version: PROTOCOL_VERSION.into(),
            flags: flags.into(),
            payload_bytes: u32::try_from(payload.len()).unwrap().into(),
            reserved: 0.into(),
        };
        [header.as_bytes(), payload].concat()
    }
}
