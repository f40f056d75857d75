//! What the collector asks about the guest, and the answers.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::file_list::FileIdentity;

/// What a cookie of the event buffer stands for. One cookie means one thing for the whole session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CookieTarget {
    /// A mapped file; the offsets that follow the cookie are file offsets.
    File {
        /// Absolute path in the guest, as the guest spells it. Any bytes.
        path: Vec<u8>,
        /// The file has no name any more; it must not be mixed up with a newer file of this name.
        deleted: bool,
    },
    /// A region without a file; the words that follow the cookie are addresses.
    Anonymous {
        /// Thread group that owns the region.
        tgid: u32,
        /// First address.
        start: u64,
        /// First address behind the region.
        end: u64,
        /// `anon`, `[heap]`, `[stack]`, `[vdso]`, …
        name: String,
    },
}

/// Kernel or module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageKind {
    /// The kernel proper.
    Kernel,
    /// A loadable module.
    Module,
}

/// What a symbol names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SymbolKind {
    /// Code.
    Function,
    /// Data.
    Object,
}

/// A symbol of a kernel image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Absolute guest-virtual address.
    pub address: u64,
    /// Size in bytes, 0 when unknown.
    pub size: u64,
    /// What it names.
    pub kind: SymbolKind,
    /// The name. Any bytes.
    pub name: Vec<u8>,
}

/// The kernel or a module, with the symbols the guest sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelImage {
    /// Module name, or for the kernel the name its image gets below `/boot`. Any bytes.
    pub name: Vec<u8>,
    /// Kernel or module.
    pub kind: ImageKind,
    /// First address of its code.
    pub start: u64,
    /// First address behind its code.
    pub end: u64,
    /// Its symbols, in any order.
    pub symbols: Vec<Symbol>,
}

/// The names behind addresses and cookies.
pub trait GuestNames {
    /// What `cookie` stands for, `None` when it is not known.
    fn cookie(&self, cookie: u64) -> Option<CookieTarget>;
    /// The kernel image that holds the code at `address`.
    fn kernel_image(&self, address: u64) -> Option<Arc<KernelImage>>;
    /// A module has been loaded: look up module addresses afresh.
    fn module_loaded(&mut self) {}
}

/// A guest file that the host has a copy of.
#[derive(Debug, Clone)]
pub struct GuestFile<'a> {
    /// Its bytes.
    pub contents: Cow<'a, [u8]>,
    /// Modification time in seconds since 1970, 0 when unknown.
    pub mtime: u64,
}

/// The guest files that the host has a copy of, for instance those of the initrd.
pub trait GuestFiles {
    /// The file at this absolute guest path, `None` when the host does not have it.
    fn open(&self, path: &[u8]) -> Option<GuestFile<'_>>;

    /// What is known by now of the file that `cookie` stands for.
    fn identity(&self, _cookie: u64) -> FileIdentity {
        FileIdentity::default()
    }

    /// Offers each file that may be the one at this absolute guest path, the likeliest first, until one is taken. `identity` is what
    /// is known of it: where its build-id is not, only those that its device and path allow are offered.
    fn offer(
        &self,
        path: &[u8],
        _identity: &FileIdentity,
        take: &mut dyn FnMut(GuestFile<'_>) -> bool,
    ) {
        if let Some(file) = self.open(path) {
            take(file);
        }
    }

    /// Another number whenever more is known of the functions in the anonymous region that `cookie` stands for; 0 when nothing is.
    fn region_version(&self, _cookie: u64) -> u64 {
        0
    }

    /// The functions in that region, by their addresses. Those without an address in `range` need not be among them.
    fn region_symbols(&self, _cookie: u64, _range: Range<u64>) -> Vec<Symbol> {
        Vec::new()
    }

    /// Whether files may be at hand later that are not now.
    fn is_partial(&self) -> bool {
        false
    }
}

/// For a guest whose files are all out of reach.
impl GuestFiles for () {
    fn open(&self, _path: &[u8]) -> Option<GuestFile<'_>> {
        None
    }
}
