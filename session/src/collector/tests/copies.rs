//! Copies of guest files: found by path, proven by build-id. Functions of regions without a file.

use super::*;
use crate::build_id::{Build, BuildId};
use crate::file_list::{self, FileIdentity};
use std::ops::Range;

/// A file of the guest as the host knows it.
#[derive(Clone, Default)]
struct Known {
    identity: FileIdentity,
    path: &'static [u8],
}

/// A guest of files: cookies from 1 on.
#[derive(Default)]
struct Files {
    known: Vec<Known>,
    /// What is at a path, the likeliest first.
    at: Vec<(&'static [u8], Vec<u8>)>,
    is_partial: bool,
}

impl GuestNames for Files {
    fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        let known = self
            .known
            .get(usize::try_from(cookie).ok()?.checked_sub(1)?)?;
        Some(CookieTarget::File {
            path: known.path.to_vec(),
            deleted: false,
        })
    }

    fn kernel_image(&self, _: u64) -> Option<Arc<KernelImage>> {
        None
    }
}

impl GuestFiles for Files {
    fn open(&self, _: &[u8]) -> Option<GuestFile<'_>> {
        None
    }

    fn identity(&self, cookie: u64) -> FileIdentity {
        let index = usize::try_from(cookie).unwrap() - 1;
        self.known[index].identity.clone()
    }

    fn offer(&self, path: &[u8], _: &FileIdentity, take: &mut dyn FnMut(GuestFile<'_>) -> bool) {
        for (at, contents) in &self.at {
            let file = GuestFile {
                contents: Cow::Borrowed(contents),
                mtime: 5,
            };
            if *at == path && take(file) {
                return;
            }
        }
    }

    fn is_partial(&self) -> bool {
        self.is_partial
    }
}

/// An ELF file with a build-id of 20 such bytes.
fn elf(byte: u8) -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[6] = 1;
    file[32] = 64; // e_phoff
    file[52] = 64; // e_ehsize
    file[54] = 56; // e_phentsize
    file[56] = 1; // e_phnum
    file[64] = 4; // p_type: notes
    file[72] = 120; // p_offset
    file[96] = 36; // p_filesz
    file[112] = 4; // p_align
    for word in [4u32, 20, 3] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(b"GNU\0");
    file.extend_from_slice(&[byte; 20]);
    file
}

fn id(byte: u8) -> Build {
    Build::Id(BuildId::new(&[byte; 20]).unwrap())
}

fn known(build: Build) -> Known {
    Known {
        identity: FileIdentity {
            device: 254 << 20,
            inode: 12,
            build,
        },
        path: b"/bin/work",
    }
}

struct Run {
    dir: TempDir,
    collector: Collector,
    files: Files,
}

impl Run {
    /// One sample in each of `known`.
    fn new(known: Vec<Known>, at: Vec<(&'static [u8], Vec<u8>)>) -> Self {
        let dir = TempDir::new().unwrap();
        let mut collector = Collector::create(dir.path(), CollectorOptions::default()).unwrap();
        let mut files = Files {
            known,
            at,
            is_partial: false,
        };
        let mut words = vec![ESC, 2, 0, ESC, 5];
        for cookie in 1..=files.known.len() as u64 {
            words.extend([ESC, 3, cookie, 0x10, 0]);
        }
        collector.consume(&words, &mut files);
        Self {
            dir,
            collector,
            files,
        }
    }

    fn flush(&mut self) -> Archive {
        self.collector
            .flush(&self.files, &Account::default())
            .unwrap();
        self.collector.archive()
    }

    /// What is copied.
    fn copy(&self) -> Option<Vec<u8>> {
        fs::read(self.dir.path().join("root/bin/work")).ok()
    }
}

fn missing(why: Missing) -> Archive {
    Archive {
        not_copied: 1,
        missing: vec![(b"/bin/work".to_vec(), why)],
        ..Archive::default()
    }
}

fn copied(proven: u64, unproven: u64) -> Archive {
    Archive {
        proven,
        unproven,
        ..Archive::default()
    }
}

#[test]
fn the_file_with_the_build_id_of_guest_memory_is_copied_whatever_is_offered_first() {
    let at = vec![
        (&b"/bin/work"[..], elf(1)),
        (b"/bin/work", b"no ELF file".to_vec()),
        (b"/bin/work", elf(2)),
    ];
    let mut run = Run::new(vec![known(id(2))], at);
    assert_eq!(run.flush(), copied(1, 0));
    assert_eq!(run.copy(), Some(elf(2)));
}

#[test]
fn a_file_of_another_build_is_not_copied() {
    for (build, content) in [(id(2), elf(1)), (Build::WithoutId, elf(1))] {
        let mut run = Run::new(vec![known(build)], vec![(b"/bin/work", content)]);
        assert_eq!(run.flush(), missing(Missing::OtherBuild));
        assert_eq!(run.copy(), None);
    }
}

#[test]
fn without_a_build_id_the_path_decides_and_that_is_told() {
    for build in [Build::WithoutId, Build::Unknown] {
        let at = vec![(&b"/bin/work"[..], b"no ELF file".to_vec())];
        let mut run = Run::new(vec![known(build)], at);
        assert_eq!(run.flush(), copied(0, 1));
    }
}

#[test]
fn a_copy_that_turns_out_to_be_another_build_is_taken_away() {
    let mut run = Run::new(vec![known(Build::Unknown)], vec![(b"/bin/work", elf(1))]);
    assert_eq!(run.flush(), copied(0, 1));
    run.files.known[0] = known(id(2));
    assert_eq!(run.flush(), missing(Missing::OtherBuild));
    assert_eq!(run.copy(), None);
    run.files.known[0] = known(id(1));
    assert_eq!(run.flush(), copied(1, 0));
    assert_eq!(run.copy(), Some(elf(1)));
}

#[test]
fn files_that_come_into_reach_at_the_end_are_copied_then() {
    let mut run = Run::new(vec![known(id(2))], Vec::new());
    run.files.is_partial = true;
    assert_eq!(run.flush(), missing(Missing::NotFound));
    run.files.at = vec![(b"/bin/work", elf(2))];
    // Nothing says that there is more to be found.
    assert_eq!(run.flush(), missing(Missing::NotFound));
    run.files.is_partial = false;
    assert_eq!(run.flush(), copied(1, 0));
    // Sample files have been written without its time.
    let sample = "samples/current/{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all.0";
    let sample = SampleFile::read(&run.dir.path().join(sample)).unwrap();
    assert_eq!(sample.header.mtime, 0);
}

#[test]
fn several_builds_under_one_name_have_no_copy_and_both_are_listed() {
    let mut other = known(id(3));
    other.identity.inode = 13;
    let mut run = Run::new(vec![known(id(2)), other], vec![(b"/bin/work", elf(2))]);
    assert_eq!(run.flush(), missing(Missing::SeveralBuilds));
    let list = file_list::read(&run.dir.path().join("samples/current")).unwrap();
    let listed: Vec<_> = list
        .iter()
        .map(|record| (record.identity.inode, record.identity.build.clone()))
        .collect();
    assert_eq!(listed, [(12, id(2)), (13, id(3))]);
}

#[test]
fn a_copy_goes_when_another_build_of_its_name_becomes_known() {
    let builds = vec![known(id(2)), known(Build::Unknown)];
    let mut run = Run::new(builds, vec![(b"/bin/work", elf(2))]);
    assert_eq!(run.flush(), copied(1, 0));
    run.files.known[1] = known(id(3));
    assert_eq!(run.flush(), missing(Missing::SeveralBuilds));
    assert_eq!(run.copy(), None);
}

#[test]
fn the_list_of_files_follows_what_becomes_known_and_is_kept_with_the_session() {
    let mut run = Run::new(vec![known(Build::Unknown)], Vec::new());
    run.flush();
    let read = |run: &Run, session: &str| {
        let samples = run.dir.path().join("samples").join(session);
        file_list::read(&samples).unwrap()
    };
    assert_eq!(read(&run, "current")[0].identity.build, Build::Unknown);
    run.files.known[0] = known(id(2));
    run.flush();
    let list = read(&run, "current");
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].name, b"/bin/work");
    assert_eq!(list[0].identity, known(id(2)).identity);
    run.collector
        .save("kept", &run.files, &Account::default())
        .unwrap();
    assert_eq!(read(&run, "kept"), list);
    // The next session has a list of its own.
    run.flush();
    assert_eq!(read(&run, "current"), list);
    let report = crate::validate::validate(run.dir.path());
    assert!(report.is_valid(), "{report:?}");
}

/// A process with two regions at which a vDSO was, one after the other.
struct Regions;

impl GuestNames for Regions {
    fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        Some(match cookie {
            1 => CookieTarget::File {
                path: b"/bin/work".to_vec(),
                deleted: false,
            },
            region => CookieTarget::Anonymous {
                tgid: 77,
                start: region << 16,
                end: (region << 16) + 0x2000,
                name: crate::vdso::NAME.into(),
            },
        })
    }

    fn kernel_image(&self, _: u64) -> Option<Arc<KernelImage>> {
        None
    }
}

impl GuestFiles for Regions {
    fn open(&self, _: &[u8]) -> Option<GuestFile<'_>> {
        None
    }

    fn region_version(&self, _: u64) -> u64 {
        1
    }

    fn region_symbols(&self, cookie: u64, _: Range<u64>) -> Vec<Symbol> {
        vec![Symbol {
            address: (cookie << 16) + 0x100,
            size: 0x40,
            kind: SymbolKind::Function,
            name: format!("function of {cookie}").into_bytes(),
        }]
    }
}

#[test]
fn functions_of_regions_lie_where_report_tools_look_for_compiled_code() {
    use object::{Object as _, ObjectSymbol as _};
    let dir = TempDir::new().unwrap();
    let mut collector = Collector::create(dir.path(), CollectorOptions::default()).unwrap();
    let place = "samples/current/{root}/bin/work/{dep}/{anon:[vdso]}/77.jo";
    for (region, known) in [(2u64, 1), (3, 2)] {
        let words = [
            ESC,
            2,
            0,
            ESC,
            1,
            77,
            1,
            ESC,
            7,
            77,
            ESC,
            5,
            ESC,
            3,
            region,
            (region << 16) + 0x110,
            0,
        ];
        collector.consume(&words, &mut Regions);
        collector.flush(&Regions, &Account::default()).unwrap();
        assert_eq!(
            collector.stats().anonymous,
            known,
            "{:?}",
            collector.stats()
        );
        let elf = fs::read(dir.path().join(place)).unwrap();
        let elf = object::File::parse(&elf[..]).unwrap();
        let named = elf.symbols().filter(|symbol| {
            symbol
                .name()
                .is_ok_and(|name| name.starts_with("function of"))
        });
        let addresses: Vec<u64> = named.map(|symbol| symbol.address()).collect();
        let expected: Vec<u64> = (2..=region).map(|region| (region << 16) + 0x100).collect();
        assert_eq!(addresses, expected);
    }
    let report = crate::validate::validate(dir.path());
    assert!(report.is_valid(), "{report:?}");
}

/// A process with code of its own making: of its second region nothing is known, of its first more and more.
struct Compiled(Vec<Symbol>);

impl GuestFiles for Compiled {
    fn open(&self, _: &[u8]) -> Option<GuestFile<'_>> {
        None
    }

    fn region_version(&self, cookie: u64) -> u64 {
        match cookie {
            2 => self.0.len() as u64,
            _ => 0,
        }
    }

    fn region_symbols(&self, cookie: u64, range: Range<u64>) -> Vec<Symbol> {
        assert!(range.start < range.end);
        match cookie {
            2 => self.0.clone(),
            _ => Vec::new(),
        }
    }
}

#[test]
fn functions_that_become_known_are_written_and_no_code_goes_to_a_function_of_another_region() {
    use object::{Object as _, ObjectSymbol as _};
    let dir = TempDir::new().unwrap();
    let mut collector = Collector::create(dir.path(), CollectorOptions::default()).unwrap();
    let place = dir
        .path()
        .join("samples/current/{root}/bin/work/{dep}/{anon:[vdso]}/77.jo");
    let mut words = vec![ESC, 2, 0, ESC, 1, 77, 1, ESC, 7, 77, ESC, 5];
    for region in [2u64, 3] {
        words.extend([ESC, 3, region, (region << 16) + 0x110, 0]);
    }
    collector.consume(&words, &mut Regions);
    let mut compiled = Compiled(Vec::new());
    let mut names = |compiled: &Compiled| {
        collector.flush(compiled, &Account::default()).unwrap();
        let elf = fs::read(&place).ok()?;
        let elf = object::File::parse(&elf[..]).unwrap();
        let name = |symbol: object::Symbol<'_, '_>| symbol.name().unwrap().to_owned();
        Some(elf.symbols().map(name).collect::<Vec<_>>())
    };
    assert_eq!(names(&compiled), None);
    let function = |address, name: &str| Symbol {
        address,
        size: 0x40,
        kind: SymbolKind::Function,
        name: name.into(),
    };
    let (second, third) = (
        "[vdso] (tgid:77 range:0x20000-0x21fff)",
        "[vdso] (tgid:77 range:0x30000-0x31fff)",
    );
    compiled.0.push(function(0x2_0100, "first"));
    let expected = [second, "first", second, third, "_etext"].map(str::to_owned);
    assert_eq!(names(&compiled), Some(expected.to_vec()));
    compiled.0.push(function(0x2_0140, "next"));
    let expected = [second, "first", "next", second, third, "_etext"].map(str::to_owned);
    assert_eq!(names(&compiled), Some(expected.to_vec()));
    // What the host has forgotten stays written.
    let forgotten = Compiled(Vec::new());
    assert_eq!(names(&forgotten), Some(expected.to_vec()));
    let report = crate::validate::validate(dir.path());
    assert!(report.is_valid(), "{report:?}");
}
