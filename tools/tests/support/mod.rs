//! A guest to profile: sessions are made by the collector, binaries with `object`, nothing is installed or built.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use object::elf;
use object::write::elf::{FileHeader, SectionHeader, Sym, Writer};
use oprofile_session::{
    Account, Collector, CollectorOptions, CookieTarget, GuestFile, GuestFiles, GuestNames,
    ImageKind, KernelImage, Symbol, SymbolKind,
};
use tempfile::TempDir;

/// First word of a record of the event buffer.
pub const ESC: u64 = u64::MAX;
/// Start of the guest kernel's code.
pub const KERNEL: u64 = 0xffff_8000_0010_0000;
/// File offset of the code in the ELF files made here.
pub const TEXT: u64 = 0x1000;
/// Time of the guest's files.
pub const MTIME: u64 = 1_600_000_000;

/// Files by cookie (from 1) and their bytes, if the host has them.
#[derive(Debug, Default)]
pub struct Guest {
    files: Vec<Vec<u8>>,
    contents: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Guest {
    /// Adds a file and returns its cookie.
    pub fn file(&mut self, path: &[u8], contents: Option<Vec<u8>>) -> u64 {
        self.files.push(path.to_vec());
        if let Some(contents) = contents {
            self.contents.insert(path.to_vec(), contents);
        }
        self.files.len() as u64
    }
}

impl GuestNames for Guest {
    fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        let path = self
            .files
            .get(usize::try_from(cookie).ok()?.checked_sub(1)?)?
            .clone();
        Some(CookieTarget::File {
            path,
            deleted: false,
        })
    }

    fn kernel_image(&self, address: u64) -> Option<Arc<KernelImage>> {
        let symbol = |offset, name: &str| Symbol {
            address: KERNEL + offset,
            size: 0,
            kind: SymbolKind::Function,
            name: name.into(),
        };
        let image = KernelImage {
            name: b"tiny-1.0".to_vec(),
            kind: ImageKind::Kernel,
            start: KERNEL,
            end: KERNEL + 0x1000,
            symbols: vec![symbol(0, "entry"), symbol(0x100, "_RNvC4tiny8schedule")],
        };
        (KERNEL..image.end)
            .contains(&address)
            .then(|| Arc::new(image))
    }
}

impl GuestFiles for Guest {
    fn open(&self, path: &[u8]) -> Option<GuestFile<'_>> {
        self.contents.get(path).map(|contents| GuestFile {
            contents: Cow::Borrowed(contents),
            mtime: MTIME,
        })
    }
}

/// The event buffer of one vCPU: samples of task 1, whose program is the file of cookie 1.
pub fn vcpu(cpu: u64, samples: &[(u64, u64, usize)]) -> Vec<u64> {
    let mut words = vec![ESC, 2, cpu, ESC, 5, ESC, 1, 10, 1, ESC, 7, 10];
    for (cookie, offset, count) in samples {
        match cookie {
            0 => words.extend([ESC, 4]),
            _ => words.extend([ESC, 5, ESC, 3, *cookie]),
        }
        for _ in 0..*count {
            words.extend([*offset, 0]);
        }
    }
    words
}

/// An ELF program with these functions, by offset in `.text`.
pub fn program(functions: &[(u64, &[u8])]) -> Vec<u8> {
    const CODE: [u8; 0x400] = [0x90; 0x400];
    let mut bytes = Vec::new();
    let mut writer = Writer::new(object::Endianness::Little, true, &mut bytes);
    writer.reserve_file_header();
    writer.reserve_until(TEXT);
    writer.reserve(CODE.len() as u64, 1);
    writer.reserve_null_section_index();
    let text_name = writer.add_section_name(b".text");
    let text = writer.reserve_section_index();
    writer.reserve_symtab_section_index();
    writer.reserve_strtab_section_index();
    writer.reserve_shstrtab_section_index();
    writer.reserve_null_symbol_index();
    let names: Vec<_> = functions
        .iter()
        .map(|(_, name)| {
            writer.reserve_symbol_index(Some(text));
            writer.add_string(name)
        })
        .collect();
    writer.reserve_symtab();
    writer.reserve_strtab().unwrap();
    writer.reserve_shstrtab().unwrap();
    writer.reserve_section_headers();
    writer
        .write_file_header(&FileHeader {
            os_abi: elf::ELFOSABI_SYSV,
            abi_version: 0,
            e_type: elf::ET_EXEC,
            e_machine: elf::EM_X86_64,
            e_entry: 0,
            e_flags: elf::FileFlags(0),
        })
        .unwrap();
    writer.pad_until(TEXT);
    writer.write(&CODE);
    writer.write_null_symbol();
    for ((offset, _), name) in functions.iter().zip(names) {
        let st_name = writer.string_offset(Some(name));
        writer.write_symbol(&Sym {
            section: Some(text.0),
            st_name,
            st_info: elf::SymbolInfo::new(elf::STB_GLOBAL, elf::STT_FUNC),
            st_other: elf::SymbolOther(0),
            st_shndx: elf::SymbolSection(0),
            st_value: 0x40_0000 + offset,
            st_size: 1,
        });
    }
    writer.write_strtab();
    writer.write_shstrtab();
    writer.write_null_section_header();
    let sh_name = writer.section_name_offset(Some(text_name));
    writer.write_section_header(&SectionHeader {
        sh_name,
        sh_type: elf::SHT_PROGBITS,
        sh_flags: elf::SHF_ALLOC | elf::SHF_EXECINSTR,
        sh_addr: 0x40_0000,
        sh_offset: TEXT,
        sh_size: CODE.len() as u64,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: 16,
        sh_entsize: 0,
    });
    writer.write_symtab_section_header(1);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
    bytes
}

/// A session directory.
pub struct Session {
    dir: TempDir,
}

impl Session {
    /// Profiles `guest`: one read of the event buffer for each element of `reads`.
    pub fn record(mut guest: Guest, reads: &[Vec<u64>], account: &Account) -> Self {
        let dir = TempDir::new().unwrap();
        let mut collector = Collector::create(dir.path(), CollectorOptions::default()).unwrap();
        for words in reads {
            collector.consume(words, &mut guest);
        }
        collector.finish(&guest, account).unwrap();
        Self { dir }
    }

    /// The session directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file below the current session's samples.
    pub fn sample_file(&self, name: &str) -> PathBuf {
        self.path().join("samples/current").join(name)
    }

    /// Runs `opreport` on the session; it must succeed. Returns standard output, without trailing blanks, and error.
    pub fn report(&self, arguments: &[&str]) -> (String, String) {
        let output = self.try_report(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        (trimmed(&String::from_utf8(output.stdout).unwrap()), stderr)
    }

    /// Runs `opreport` on the session.
    pub fn try_report(&self, arguments: &[&str]) -> Output {
        let directory = format!("--session-dir={}", self.path().display());
        opreport([&directory[..]].iter().chain(arguments).map(OsStr::new))
    }
}

/// Runs `opreport` in an empty directory.
pub fn opreport<'a>(arguments: impl IntoIterator<Item = &'a OsStr>) -> Output {
    let empty = TempDir::new().unwrap();
    Command::new(env!("CARGO_BIN_EXE_opreport"))
        .args(arguments)
        .current_dir(empty.path())
        .output()
        .unwrap()
}

/// Lines without trailing blanks.
pub fn trimmed(text: &str) -> String {
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}
