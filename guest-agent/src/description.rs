//! What the kernel tells of itself, and how it is put into requests.

use core::iter::Peekable;

use oprofile_wire::control::{
    Hello, MAX_NAME_BYTES, ModuleEntry, SymbolEntry, SymbolsHeader, flag,
};
use oprofile_wire::layout::{Descriptor, LayoutEntry, MAX_ENTRIES, VmaStore};
use zerocopy::IntoBytes;

use crate::request::{Payload, RequestError};

/// The kernel's description of itself; the fields mean what those of [`Hello`] mean.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// GPA of the kernel's top-level page table.
    pub page_table_root: u64,
    /// GVA at which RAM is mapped linearly, or 0.
    pub linear_map_base: u64,
    /// GVA of the kernel image's first byte.
    pub kernel_start: u64,
    /// GVA behind its last byte.
    pub kernel_end: u64,
    /// GVA behind the last byte that user mode can map.
    pub user_end: u64,
    /// A task pointer that lives as long as the kernel, or 0.
    pub init_task: u64,
    /// 4 or 5.
    pub page_table_levels: u16,
    /// vCPUs that the kernel knows of.
    pub cpus: u16,
    /// Release name, at most [`MAX_NAME_BYTES`].
    pub release: &'a [u8],
    /// How VMAs are kept.
    pub vma_store: VmaStore,
    /// Layout descriptor, at most [`MAX_ENTRIES`].
    pub layout: &'a [LayoutEntry],
}

/// A loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// GVA of its first byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// At most [`MAX_NAME_BYTES`].
    pub name: &'a [u8],
}

/// A function of the kernel or of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// GVA.
    pub address: u64,
    /// Bytes; 0 when unknown.
    pub size: u32,
    /// At most [`MAX_NAME_BYTES`].
    pub name: &'a [u8],
}

impl Description<'_> {
    /// Writes the hello request's payload.
    pub(crate) fn write(
        &self,
        capabilities: u64,
        change_words: u64,
        payload: &mut Payload<'_>,
    ) -> Result<(), RequestError> {
        let entries = u16::try_from(self.layout.len())
            .ok()
            .filter(|&entries| usize::from(entries) <= MAX_ENTRIES)
            .ok_or(RequestError::TooLong)?;
        let layout = Descriptor::header(self.vma_store, entries);
        let layout_bytes = size_of_val(&layout) + size_of_val(self.layout);
        let hello = Hello {
            capabilities: capabilities.into(),
            page_table_root: self.page_table_root.into(),
            linear_map_base: self.linear_map_base.into(),
            kernel_start: self.kernel_start.into(),
            kernel_end: self.kernel_end.into(),
            user_end: self.user_end.into(),
            init_task: self.init_task.into(),
            change_words: change_words.into(),
            page_table_levels: self.page_table_levels.into(),
            cpus: self.cpus.into(),
            release_bytes: name_bytes(self.release)?.into(),
            reserved: 0.into(),
            layout_bytes: u32::try_from(layout_bytes)
                .map_err(|_| RequestError::TooLong)?
                .into(),
            clock_events: 0.into(),
        };
        let fits = payload.push(&[
            hello.as_bytes(),
            self.release,
            layout.as_bytes(),
            self.layout.as_bytes(),
        ]);
        if fits {
            Ok(())
        } else {
            Err(RequestError::TooLong)
        }
    }
}

/// An entry of a list that is sent in parts.
pub(crate) trait ListEntry {
    /// Appends the entry; false when this part has no room for it.
    fn write(&self, payload: &mut Payload<'_>) -> Result<bool, RequestError>;
}

impl ListEntry for Module<'_> {
    fn write(&self, payload: &mut Payload<'_>) -> Result<bool, RequestError> {
        let entry = ModuleEntry {
            base: self.base.into(),
            size: self.size.into(),
            name_bytes: name_bytes(self.name)?.into(),
            reserved: [0; 6],
        };
        Ok(payload.push(&[entry.as_bytes(), self.name]))
    }
}

impl ListEntry for Symbol<'_> {
    fn write(&self, payload: &mut Payload<'_>) -> Result<bool, RequestError> {
        let entry = SymbolEntry {
            address: self.address.into(),
            size: self.size.into(),
            reserved: 0.into(),
            name_bytes: name_bytes(self.name)?.into(),
        };
        Ok(payload.push(&[entry.as_bytes(), self.name]))
    }
}

/// A list that is sent in parts.
#[derive(Debug)]
pub(crate) struct List {
    /// Kind of request.
    pub(crate) kind: u16,
    /// Flags that every part carries.
    pub(crate) flags: u32,
    /// For symbols: the image that they belong to. Each part then begins with a [`SymbolsHeader`] of its own.
    pub(crate) image_base: Option<u64>,
}

impl List {
    /// Writes a part, `position` being [`flag::FIRST`] or 0, and takes what it holds from `items`. Returns whether it
    /// is the last.
    pub(crate) fn write_part<I: Iterator<Item: ListEntry>>(
        &self,
        mut payload: Payload<'_>,
        position: u32,
        items: &mut Peekable<I>,
    ) -> Result<bool, RequestError> {
        if let Some(head) = self.head(0) {
            payload.push(&[head.as_bytes()]);
        }
        let mut count = 0;
        let mut last = true;
        while let Some(item) = items.peek() {
            if !item.write(&mut payload)? {
                last = false;
                break;
            }
            items.next();
            count += 1;
        }
        if !last && count == 0 {
            return Err(RequestError::TooLong);
        }
        if let Some(head) = self.head(count) {
            payload.replace_head(head.as_bytes());
        }
        let end = if last { flag::LAST } else { 0 };
        payload.finish(self.kind, self.flags | position | end);
        Ok(last)
    }

    fn head(&self, count: u32) -> Option<SymbolsHeader> {
        self.image_base.map(|image_base| SymbolsHeader {
            image_base: image_base.into(),
            count: count.into(),
            reserved: 0.into(),
        })
    }
}

/// Length of a name, if it is allowed.
fn name_bytes(name: &[u8]) -> Result<u16, RequestError> {
    u16::try_from(name.len())
        .ok()
        .filter(|_| name.len() <= MAX_NAME_BYTES)
        .ok_or(RequestError::TooLong)
}
