//! Writes a newc cpio archive as the kernel unpacks it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cpio::newc::{self, ModeFileType};

/// An archive being written. Directories that lead to a file are written before it, once.
pub struct Archive<W> {
    to: W,
    directories: BTreeSet<PathBuf>,
    next_inode: u32,
    modified: u32,
}

impl<W: Write> Archive<W> {
    /// An empty one. All in it will have been modified at `modified`, in seconds of Unix time.
    pub fn new(to: W, modified: u32) -> Self {
        Self {
            to,
            directories: BTreeSet::new(),
            next_inode: 1,
            modified,
        }
    }

    /// Adds a directory and those above it.
    pub fn directory(&mut self, path: &Path) -> io::Result<()> {
        let mut above: Vec<&Path> = path
            .ancestors()
            .filter(|directory| !directory.as_os_str().is_empty())
            .collect();
        above.reverse();
        for directory in above {
            if self.directories.insert(directory.to_owned()) {
                self.add(directory, ModeFileType::Directory, 0o755, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file.
    pub fn file(&mut self, path: &Path, permissions: u32, data: &[u8]) -> io::Result<()> {
        self.directory(path.parent().unwrap_or(Path::new("")))?;
        self.add(path, ModeFileType::Regular, permissions, data)
    }

    /// Adds what is at `from`, links as links; what `leave_out` says is not added.
    pub fn tree(&mut self, from: &Path, leave_out: &dyn Fn(&Path) -> bool) -> io::Result<()> {
        let mut open = vec![from.to_owned()];
        while let Some(directory) = open.pop() {
            let mut entries: Vec<_> = fs::read_dir(&directory)?.collect::<io::Result<_>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let path = entry.path();
                let name = path.strip_prefix(from).map_err(io::Error::other)?;
                if leave_out(name) {
                    continue;
                }
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    self.directory(name)?;
                    open.push(path);
                } else if kind.is_symlink() {
                    self.directory(name.parent().unwrap_or(Path::new("")))?;
                    let target = fs::read_link(&path)?;
                    self.add(
                        name,
                        ModeFileType::Symlink,
                        0o777,
                        target.as_os_str().as_bytes(),
                    )?;
                } else if kind.is_file() {
                    let permissions = entry.metadata()?.permissions().mode() & 0o777;
                    self.file(name, permissions, &fs::read(&path)?)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(self) -> io::Result<()> {
        newc::trailer(self.to)?.flush()
    }

    fn add(
        &mut self,
        path: &Path,
        kind: ModeFileType,
        permissions: u32,
        data: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(data.len()).map_err(io::Error::other)?;
        let name = path
            .to_str()
            .ok_or_else(|| io::Error::other("a file name is not UTF-8"))?;
        let mut writer = newc::Builder::new(name)
            .ino(self.next_inode)
            .mtime(self.modified)
            .mode(permissions)
            .set_mode_file_type(kind)
            .nlink(1)
            .write(&mut self.to, size);
        writer.write_all(data)?;
        writer.finish()?;
        self.next_inode += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them_and_once() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes, 1);
        archive.file(Path::new("a/b/c"), 0o644, b"x").unwrap();
        archive.file(Path::new("a/d"), 0o755, b"y").unwrap();
        archive.finish().unwrap();
        let mut rest = bytes.as_slice();
        let mut names = Vec::new();
        loop {
            let reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_owned());
            rest = reader.finish().unwrap();
        }
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/d"]);
    }
}
