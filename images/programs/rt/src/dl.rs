//! Maps a shared object at an address of the caller's choice and finds functions in it.

use crate::elf::{Error, Object};
use crate::sys::{self, PAGE, PROT_EXEC, PROT_READ, PROT_WRITE};

/// What the functions of our libraries look like: iterations in, some result out.
pub type Work = extern "C" fn(u64) -> u64;

/// A mapped object with `N` functions looked up.
#[derive(Clone, Copy, Debug)]
pub struct Library<const N: usize> {
    /// The functions, in the order asked for.
    pub functions: [Work; N],
    base: u64,
    /// Bytes from the base to the end of the last segment, in whole pages.
    span: u64,
}

impl<const N: usize> Library<N> {
    /// Maps the segments of the file at `path` from `base` (a page address) on and looks up `names`.
    ///
    /// # Errors
    /// When the file cannot be read, is no object that [`Object`] takes, lacks a function, or the range is taken.
    ///
    /// # Safety
    /// `names` are functions of type [`Work`]; nothing calls them after [`unload`](Self::unload).
    pub unsafe fn load(path: &str, base: u64, names: [&'static str; N]) -> Result<Self, Error> {
        let fd = sys::open(path).map_err(Error::Call)?;
        let bytes = sys::file_size(fd).map_err(Error::Call)?;
        let view = sys::mmap(0, bytes, PROT_READ, Some((fd, 0))).map_err(Error::Call)?;
        let length = usize::try_from(bytes).map_err(|_| Error::Truncated)?;
        // SAFETY: the kernel has just mapped these bytes, readable and for us alone.
        let file = unsafe { core::slice::from_raw_parts(view as *const u8, length) };
        let loaded = Object::parse(file)
            // SAFETY: by the caller.
            .and_then(|object| unsafe { Self::map(&object, fd, base, names) });
        // SAFETY: `file` and what was parsed from it are not used any more.
        unsafe { sys::munmap(view, bytes) }.map_err(Error::Call)?;
        loaded
    }

    /// # Safety
    /// As [`load`](Self::load).
    unsafe fn map(
        object: &Object<'_>,
        fd: u64,
        base: u64,
        names: [&'static str; N],
    ) -> Result<Self, Error> {
        let mut span = 0;
        for segment in object.segments() {
            let in_page = segment.address % PAGE;
            let wanted = base + segment.address - in_page;
            let mut protection = PROT_READ;
            if segment.execute {
                protection |= PROT_EXEC;
            }
            if segment.write {
                protection |= PROT_WRITE;
            }
            let length = segment.bytes + in_page;
            let file = Some((fd, segment.offset / PAGE));
            if sys::mmap(wanted, length, protection, file).map_err(Error::Call)? != wanted {
                return Err(Error::Elsewhere);
            }
            span = span.max((segment.address + segment.bytes).next_multiple_of(PAGE));
        }
        let mut functions: [Work; N] = [absent; N];
        for (slot, name) in functions.iter_mut().zip(names) {
            let address = base + object.function(name)?;
            // SAFETY: a function symbol inside an executable segment that is mapped now; the caller vouches for
            // its type.
            *slot = unsafe { core::mem::transmute::<*const (), Work>(address as *const ()) };
        }
        Ok(Self {
            functions,
            base,
            span,
        })
    }

    /// Unmaps it.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn unload(self) -> Result<(), Error> {
        // SAFETY: the range holds this object alone, whose functions nobody calls again, as promised to `load`.
        unsafe { sys::munmap(self.base, self.span) }.map_err(Error::Call)
    }
}

extern "C" fn absent(_: u64) -> u64 {
    0
}
