//! The entries of a descriptor by field, each checked by itself.

use oprofile_wire::layout::{Field, LayoutEntry, MAX_OFFSET};

use super::{LayoutError, WINDOW_BYTES};

/// The part of a structure that is copied at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Offset of its first byte.
    pub(in crate::guest) start: u32,
    /// At most [`WINDOW_BYTES`].
    pub(in crate::guest) bytes: usize,
}

impl Window {
    /// A window without bytes, to be grown.
    pub(super) const EMPTY: Self = Self { start: 0, bytes: 0 };

    /// Grows it to hold `bytes` at `offset`, which belong to `field`.
    pub(super) fn cover(self, field: Field, offset: u32, bytes: u32) -> Result<Self, LayoutError> {
        let too_far = LayoutError::TooFarApart(field);
        let end = offset.checked_add(bytes).ok_or(too_far)?;
        let (start, end) = match u32::try_from(self.bytes) {
            Ok(0) | Err(_) => (offset, end),
            Ok(bytes) => (self.start.min(offset), (self.start + bytes).max(end)),
        };
        let bytes = (end - start) as usize;
        if bytes > WINDOW_BYTES {
            return Err(too_far);
        }
        Ok(Self { start, bytes })
    }

    /// Where in it the byte at `offset` lies, which it covers.
    pub(super) const fn place(self, offset: u32) -> InWindow {
        offset.wrapping_sub(self.start) as usize
    }
}

/// A field within a [`Window`]: bytes from its start.
pub(in crate::guest) type InWindow = usize;

/// What a field is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 8 bytes.
    Word,
    /// 4 bytes.
    Half,
    /// 4 or 8 bytes.
    Either,
    /// Words one after the other.
    Array,
    /// Not read as such; only its offset counts.
    Embedded,
    /// No field: its value is in the descriptor.
    Constant,
}

/// The entries of a descriptor.
pub(super) struct Fields<'a> {
    entries: &'a [LayoutEntry],
}

impl<'a> Fields<'a> {
    pub(super) const fn new(entries: &'a [LayoutEntry]) -> Self {
        Self { entries }
    }

    pub(super) fn find(&self, field: Field) -> Result<Option<&LayoutEntry>, LayoutError> {
        let mut found = self
            .entries
            .iter()
            .filter(|entry| entry.field.get() == field as u16);
        let first = found.next();
        if found.next().is_some() {
            return Err(LayoutError::Duplicate(field));
        }
        Ok(first)
    }

    /// Offset (or constant) and size of `field`.
    pub(super) fn get_sized(
        &self,
        field: Field,
        kind: Kind,
    ) -> Result<Option<(u32, u16)>, LayoutError> {
        let Some(entry) = self.find(field)? else {
            return Ok(None);
        };
        let (size, offset) = (entry.size.get(), entry.offset.get());
        let fits = match kind {
            Kind::Word => size == 8,
            Kind::Half => size == 4,
            Kind::Either => size == 4 || size == 8,
            Kind::Array => size != 0 && size % 8 == 0,
            Kind::Embedded => size != 0,
            Kind::Constant => size == 0,
        };
        if !fits {
            return Err(LayoutError::Size(field, size));
        }
        if kind != Kind::Constant && offset.saturating_add(u32::from(size)) > MAX_OFFSET {
            return Err(LayoutError::Range(field, offset));
        }
        Ok(Some((offset, size)))
    }

    /// Offset or constant of `field`.
    pub(super) fn get(&self, field: Field, kind: Kind) -> Result<Option<u32>, LayoutError> {
        Ok(self.get_sized(field, kind)?.map(|(offset, _)| offset))
    }

    pub(super) fn need(&self, field: Field, kind: Kind) -> Result<u32, LayoutError> {
        self.get(field, kind)?.ok_or(LayoutError::Missing(field))
    }

    /// The window that holds those of `fields` that are there.
    pub(super) fn window(&self, fields: &[(Field, Kind)]) -> Result<Window, LayoutError> {
        let mut window = Window::EMPTY;
        for &(field, kind) in fields {
            if let Some(offset) = self.get(field, kind)? {
                window = window.cover(field, offset, if kind == Kind::Half { 4 } else { 8 })?;
            }
        }
        Ok(window)
    }
}
