//! A guest and a session to test the collector with.

mod attribution;
mod copies;
mod format;
mod session_directory;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::events::ESCAPE as ESC;
use crate::guest::{CookieTarget, GuestFile, ImageKind, KernelImage, Symbol, SymbolKind};
use crate::sample_file::SampleFile;
use crate::sample_path::{ImageName, SamplePath};

const KERNEL: u64 = 0xffff_8000_0010_0000;
const MODULE: u64 = 0xffff_a000_0000_0000;
const PROGRAM: u64 = 1;
const LIBRARY: u64 = 2;
const JIT: u64 = 3;
const DELETED: u64 = 4;
const CLIMBER: u64 = 5;

/// A guest with a program, a library, a JIT region, a deleted file and a file with a hostile name.
#[derive(Debug, Default)]
struct Guest {
    modules_loaded: u32,
}

impl GuestNames for Guest {
    fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        let file = |path: &[u8]| CookieTarget::File {
            path: path.to_vec(),
            deleted: cookie == DELETED,
        };
        match cookie {
            PROGRAM => Some(file(b"/bin/work")),
            LIBRARY => Some(file(b"/lib/libshare.so")),
            JIT => Some(CookieTarget::Anonymous {
                tgid: 77,
                start: 0x7000,
                end: 0x9000,
                name: "anon".into(),
            }),
            DELETED => Some(file(b"/bin/work")),
            CLIMBER => Some(file(b"/../../{dep}/var\0/TIMER.0.0.all.all.0")),
            _ => None,
        }
    }

    fn kernel_image(&self, address: u64) -> Option<Arc<KernelImage>> {
        let (name, kind, start) = match address {
            KERNEL..0xffff_8000_0020_0000 => ("tiny-1.0", ImageKind::Kernel, KERNEL),
            MODULE..0xffff_a000_0010_0000 => ("crunch", ImageKind::Module, MODULE),
            _ => return None,
        };
        let symbol = Symbol {
            address: start + 0x40,
            size: 0x20,
            kind: SymbolKind::Function,
            name: b"tick".to_vec(),
        };
        let symbols = vec![symbol];
        Some(Arc::new(KernelImage {
            name: name.into(),
            kind,
            start,
            end: start + 0x10_0000,
            symbols,
        }))
    }

    fn module_loaded(&mut self) {
        self.modules_loaded += 1;
    }
}

impl GuestFiles for Guest {
    fn open(&self, path: &[u8]) -> Option<GuestFile<'_>> {
        (path == b"/bin/work").then_some(GuestFile {
            contents: Cow::Borrowed(b"\x7fELF work"),
            mtime: 1_234_567,
        })
    }
}

struct Session {
    dir: TempDir,
    collector: Collector,
    guest: Guest,
}

fn session(options: CollectorOptions) -> Session {
    let dir = TempDir::new().unwrap();
    let collector = Collector::create(dir.path(), options).unwrap();
    Session {
        dir,
        collector,
        guest: Guest::default(),
    }
}

impl Session {
    fn consume(&mut self, words: &[u64]) -> CollectorStats {
        self.collector.consume(words, &mut self.guest);
        assert!(self.collector.stats().adds_up());
        *self.collector.stats()
    }

    fn flush(&mut self) {
        self.collector
            .flush(&self.guest, &Account::default())
            .unwrap();
    }

    /// Every sample file by its path below the session.
    fn sample_files(&mut self) -> BTreeMap<String, SampleFile> {
        self.flush();
        let mut found = BTreeMap::new();
        walk(
            &self.dir.path().join("samples/current"),
            &mut |path, relative| {
                if relative.starts_with("{root}") || relative.starts_with("{kern}") {
                    found.insert(relative.to_owned(), SampleFile::read(path).unwrap());
                }
            },
        );
        found
    }

    /// Counts by path and key.
    fn counts(&mut self) -> BTreeMap<String, Vec<(u64, u64)>> {
        self.sample_files()
            .into_iter()
            .map(|(path, file)| (path, file.counts.into_iter().collect()))
            .collect()
    }
}

fn walk(top: &Path, each: &mut dyn FnMut(&Path, &str)) {
    let mut open = vec![top.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                open.push(path);
            } else {
                let relative = path
                    .strip_prefix(top)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                each(&path, &relative);
            }
        }
    }
}

const CPU0: [u64; 3] = [ESC, 2, 0];
const TASK: [u64; 7] = [ESC, 1, 10, PROGRAM, ESC, 7, 10];

fn user(words: &[u64]) -> Vec<u64> {
    [&CPU0[..], &[ESC, 5], &TASK, words].concat()
}
