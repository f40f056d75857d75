//! Reading a cpio archive in the newc format, as Linux's initramfs is.

const HEADER_BYTES: usize = 110;
const MAGIC: &[u8] = b"070701";
const TRAILER: &[u8] = b"TRAILER!!!";
const TYPE_MASK: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// One entry of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path without a leading `/` or `./`; empty for the root directory.
    pub path: &'a [u8],
    /// Inode number.
    pub inode: u32,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Contents.
    pub data: &'a [u8],
}

impl Entry<'_> {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.mode & TYPE_MASK == DIRECTORY
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.mode & TYPE_MASK == REGULAR
    }
}

/// Iterates over the entries of an archive; ends at the trailer, or where the bytes are no archive any more.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Archive<'a> {
    /// Reads `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let header = self.bytes.get(self.position..)?.get(..HEADER_BYTES)?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        // Thirteen fields of eight hexadecimal digits behind the magic number.
        let field = |index: usize| {
            let digits = &header[MAGIC.len() + 8 * index..][..8];
            u32::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (inode, mode) = (field(0)?, field(1)?);
        let (file_bytes, name_bytes) = (field(6)? as usize, field(11)? as usize);
        let name_start = self.position + HEADER_BYTES;
        let name = self.bytes.get(name_start..)?.get(..name_bytes)?;
        let path = name.strip_suffix(b"\0").unwrap_or(name);
        let data_start = (name_start + name_bytes).next_multiple_of(4);
        let data = self.bytes.get(data_start..)?.get(..file_bytes)?;
        self.position = (data_start + file_bytes).next_multiple_of(4);
        let path = path.strip_prefix(b"./").unwrap_or(path);
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let path = if path == b"." { &[] } else { path };
        (path != TRAILER).then_some(Entry {
            path,
            inode,
            mode,
            data,
        })
    }
}

impl<'a> Iterator for Archive<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let entry = self.entry();
        if entry.is_none() {
            self.position = self.bytes.len();
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(archive: &mut Vec<u8>, path: &str, mode: u32, data: &[u8]) {
        let fields = [
            7,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(data.len()).unwrap(),
            0,
            0,
            0,
            0,
            u32::try_from(path.len()).unwrap() + 1,
            0,
        ];
        archive.extend_from_slice(MAGIC);
        for field in fields {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        archive.extend_from_slice(path.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }

    fn example() -> Vec<u8> {
        let mut archive = Vec::new();
        push(&mut archive, ".", 0o040_755, b"");
        push(&mut archive, "./bin", 0o040_755, b"");
        push(&mut archive, "bin/init", 0o100_755, b"hello");
        push(&mut archive, "TRAILER!!!", 0, b"");
        push(&mut archive, "behind", 0o100_644, b"");
        archive
    }

    #[test]
    fn entries_end_at_the_trailer() {
        let archive = example();
        let entries: Vec<_> = Archive::new(&archive).collect();
        let paths: Vec<_> = entries.iter().map(|entry| entry.path).collect();
        assert_eq!(paths, [&b""[..], b"bin", b"bin/init"]);
        assert!(entries[1].is_directory() && !entries[1].is_regular());
        assert!(entries[2].is_regular());
        assert_eq!((entries[2].inode, entries[2].data), (7, &b"hello"[..]));
    }

    #[test]
    fn a_cut_archive_yields_the_whole_entries_before_the_cut() {
        let archive = example();
        for cut in 0..archive.len() {
            for entry in Archive::new(&archive[..cut]) {
                assert!(entry.path != b"bin/init" || entry.data == b"hello");
            }
        }
    }

    #[test]
    fn digits_that_are_none_end_the_archive() {
        let mut archive = example();
        archive[8] = b'?';
        assert_eq!(Archive::new(&archive).count(), 0);
    }
}
