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

#[test]
fn samples_are_filed_by_program_image_and_vcpu() {
    let mut s = session(CollectorOptions::default());
    let words = user(&[
        ESC,
        3,
        PROGRAM,
        0x1000,
        0,
        0x1000,
        0,
        ESC,
        3,
        LIBRARY,
        0x2000,
        0,
        ESC,
        4,
        KERNEL + 0x40,
        0,
        MODULE,
        0,
        ESC,
        2,
        3,
        0x55 + KERNEL,
        0,
    ]);
    let stats = s.consume(&words);
    assert_eq!((stats.samples, stats.file, stats.kernel), (6, 3, 3));
    assert_eq!(
        s.counts(),
        BTreeMap::from([
            ("{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all.0".into(), vec![(0x1000, 2)]),
            ("{root}/bin/work/{dep}/{root}/lib/libshare.so/TIMER.0.0.all.all.0".into(), vec![(0x2000, 1)]),
            ("{root}/boot/tiny-1.0/{dep}/{root}/boot/tiny-1.0/TIMER.0.0.all.all.0".into(), vec![(0x1040, 1)]),
            ("{root}/boot/tiny-1.0/{dep}/{root}/boot/tiny-1.0/TIMER.0.0.all.all.3".into(), vec![(0x1055, 1)]),
            ("{root}/lib/modules/crunch.ko/{dep}/{root}/lib/modules/crunch.ko/TIMER.0.0.all.all.0".into(), vec![(0x1000, 1)]),
        ])
    );
}

#[test]
fn separation_decides_the_program() {
    let words = user(&[ESC, 3, LIBRARY, 0x2000, 0, ESC, 4, KERNEL, 0]);
    let paths = |separation| {
        let mut s = session(CollectorOptions {
            separation,
            per_cpu: false,
            ..Default::default()
        });
        s.consume(&words);
        s.counts().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(
        paths(Separation::None),
        [
            "{root}/boot/tiny-1.0/{dep}/{root}/boot/tiny-1.0/TIMER.0.0.all.all.all",
            "{root}/lib/libshare.so/{dep}/{root}/lib/libshare.so/TIMER.0.0.all.all.all",
        ]
    );
    assert_eq!(
        paths(Separation::Kernel),
        [
            "{root}/bin/work/{dep}/{root}/boot/tiny-1.0/TIMER.0.0.all.all.all",
            "{root}/bin/work/{dep}/{root}/lib/libshare.so/TIMER.0.0.all.all.all",
        ]
    );
}

#[test]
fn anonymous_region_counts_from_its_start() {
    let mut s = session(CollectorOptions::default());
    let stats = s.consume(&user(&[ESC, 3, JIT, 0x7010, 0, 0x6fff, 0]));
    assert_eq!((stats.anonymous, stats.no_region), (1, 1));
    let files = s.sample_files();
    let (path, file) = files.first_key_value().unwrap();
    assert_eq!(
        path,
        "{root}/bin/work/{dep}/{anon:anon}/77.0x7000.0x8fff/TIMER.0.0.all.all.0"
    );
    assert_eq!((file.header.anon_start, file.header.mtime), (0x7000, 0));
    assert_eq!(file.counts, BTreeMap::from([(0x10, 1)]));
}

#[test]
fn deleted_file_is_kept_apart_from_the_new_one_of_its_name() {
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[ESC, 3, PROGRAM, 1, 0, ESC, 3, DELETED, 2, 0]));
    let files = s.sample_files();
    let deleted = &files["{root}/bin/work/{dep}/{root}/bin/work (deleted)/TIMER.0.0.all.all.0"];
    assert_eq!((deleted.header.mtime, deleted.total()), (0, 1));
    assert_eq!(
        files["{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all.0"].total(),
        1
    );
}

#[test]
fn each_lost_sample_ends_in_its_own_counter() {
    let mut s = session(CollectorOptions::default());
    s.consume(&[0x1000, 0]);
    s.consume(&[ESC, 4, KERNEL, 0]);
    s.consume(&[&CPU0[..], &[KERNEL, 0]].concat());
    assert_eq!(
        s.consume(&[&CPU0[..], &[ESC, 4, 0x1000, 0]].concat())
            .no_kernel_image,
        1
    );
    assert_eq!(
        s.consume(&[&CPU0[..], &[ESC, 4, KERNEL, 1]].concat())
            .unknown_event,
        1
    );
    assert_eq!(s.consume(&user(&[0x1000, 0])).no_cookie, 1);
    assert_eq!(s.consume(&user(&[ESC, 3, ESC, 0x1000, 0])).no_cookie, 2);
    assert_eq!(s.consume(&user(&[ESC, 3, 99, 0x1000, 0])).unknown_cookie, 1);
    assert_eq!(s.consume(&user(&[ESC, 3, 0, 0x1000, 0])).no_region, 1);
    let no_program = s.consume(&[&CPU0[..], &[ESC, 5, ESC, 3, JIT, 0x7000, 0]].concat());
    assert_eq!((no_program.no_program, no_program.no_context), (1, 3));
    assert_eq!((no_program.samples, no_program.accepted()), (10, 0));
    assert!(s.counts().is_empty());
}

#[test]
fn unknown_program_leaves_the_sample_under_its_image() {
    let mut s = session(CollectorOptions::default());
    s.consume(
        &[
            &CPU0[..],
            &[ESC, 5, ESC, 1, 10, 99, ESC, 7, 10, ESC, 3, LIBRARY, 1, 0],
        ]
        .concat(),
    );
    assert_eq!(
        s.counts().into_keys().collect::<Vec<_>>(),
        ["{root}/lib/libshare.so/{dep}/{root}/lib/libshare.so/TIMER.0.0.all.all.0"]
    );
}

#[test]
fn state_does_not_outlive_its_read() {
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[ESC, 3, PROGRAM]));
    assert_eq!(s.consume(&[0x1000, 0]).no_context, 1);
}

#[test]
fn buffer_cut_by_overflow_loses_its_last_record_only() {
    let mut s = session(CollectorOptions::default());
    let stats = s.consume(&user(&[ESC, 3, PROGRAM, 0x1000, 0, 0x1004]));
    assert_eq!(
        (stats.file, stats.samples, stats.truncated_records),
        (1, 1, 1)
    );
}

#[test]
fn frames_become_arcs_and_never_samples() {
    let mut s = session(CollectorOptions::default());
    let stats = s.consume(
        &[
            &CPU0[..],
            &[ESC, 8, ESC, 5],
            &TASK,
            &[ESC, 3, LIBRARY, 0x20, 0, 0x40, 0, ESC, 3, PROGRAM, 0x80, 0],
            &[ESC, 3, 99, 0x100, 0, ESC, 3, PROGRAM, 0x200, 0, 0x300, 0],
        ]
        .concat(),
    );
    assert_eq!(
        (
            stats.samples,
            stats.file,
            stats.frames,
            stats.arcs,
            stats.frames_cut
        ),
        (1, 1, 5, 3, 1)
    );
    let work = "{root}/bin/work/{dep}/{root}/bin/work/{cg}/{root}";
    assert_eq!(
        s.counts(),
        BTreeMap::from([
            ("{root}/bin/work/{dep}/{root}/lib/libshare.so/TIMER.0.0.all.all.0".into(), vec![(0x20, 1)]),
            ("{root}/bin/work/{dep}/{root}/lib/libshare.so/{cg}/{root}/lib/libshare.so/TIMER.0.0.all.all.0".into(), vec![(0x40 << 32 | 0x20, 1)]),
            (format!("{work}/lib/libshare.so/TIMER.0.0.all.all.0"), vec![(0x80 << 32 | 0x40, 1)]),
            (format!("{work}/bin/work/TIMER.0.0.all.all.0"), vec![(0x300 << 32 | 0x200, 1)]),
        ])
    );
}

#[test]
fn no_arc_leads_from_the_kernel_to_user_space() {
    let mut s = session(CollectorOptions::default());
    let stats = s.consume(
        &[
            &CPU0[..],
            &[ESC, 8, ESC, 4],
            &TASK,
            &[
                KERNEL,
                0,
                KERNEL + 8,
                0,
                ESC,
                5,
                ESC,
                3,
                PROGRAM,
                0x80,
                0,
                0x90,
                0,
            ],
        ]
        .concat(),
    );
    assert_eq!(
        (stats.samples, stats.frames, stats.arcs, stats.frames_cut),
        (1, 3, 2, 0)
    );
}

#[test]
fn sample_of_the_next_cpu_buffer_is_no_frame() {
    let mut s = session(CollectorOptions::default());
    let stats = s.consume(
        &[
            &CPU0[..],
            &[ESC, 8, ESC, 4, KERNEL, 0, KERNEL, 0, ESC, 2, 1, KERNEL, 0],
        ]
        .concat(),
    );
    assert_eq!((stats.samples, stats.frames), (2, 1));
}

#[test]
fn flushes_add_up_and_the_last_one_holds_all() {
    let mut s = session(CollectorOptions::default());
    let words = user(&[ESC, 3, PROGRAM, 0x1000, 0]);
    s.consume(&words);
    s.flush();
    s.consume(&words);
    assert_eq!(s.counts().into_values().next(), Some(vec![(0x1000, 2)]));
}

#[test]
fn full_counter_saturates_and_tells() {
    let mut s = session(CollectorOptions::default());
    let words = user(&[ESC, 3, PROGRAM, 0x1000, 0]);
    s.consume(&words);
    s.collector.store.preset(u32::MAX);
    assert_eq!(s.consume(&words).saturated, 1);
    assert_eq!(
        s.counts().into_values().next(),
        Some(vec![(0x1000, u64::from(u32::MAX))])
    );
}

#[test]
fn guest_tree_holds_the_sampled_files_with_their_times() {
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[
        ESC, 3, PROGRAM, 1, 0, ESC, 3, LIBRARY, 1, 0, ESC, 4, KERNEL, 0,
    ]));
    let files = s.sample_files();
    let root = s.dir.path().join("root");
    assert_eq!(fs::read(root.join("bin/work")).unwrap(), b"\x7fELF work");
    assert!(!root.join("lib/libshare.so").exists());
    for (path, file) in files {
        let SamplePath {
            image: ImageName::Root(image),
            ..
        } = SamplePath::parse(path.as_bytes()).unwrap()
        else {
            panic!("{path}")
        };
        let copy = root.join(std::str::from_utf8(&image[1..]).unwrap());
        let mtime = fs::metadata(copy).map_or(0, |copy| {
            copy.modified()
                .unwrap()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        });
        assert_eq!(file.header.mtime, mtime, "{path}");
    }
    assert_eq!(
        fs::canonicalize(root.join("var/lib/oprofile")).unwrap(),
        fs::canonicalize(s.dir.path()).unwrap()
    );
}

#[test]
fn hostile_name_stays_within_the_session() {
    let outer = TempDir::new().unwrap();
    let dir = outer.path().join("inner");
    let mut guest = Guest::default();
    let mut collector = Collector::create(&dir, CollectorOptions::default()).unwrap();
    collector.consume(&user(&[ESC, 3, CLIMBER, 1, 0]), &mut guest);
    collector.flush(&guest, &Account::default()).unwrap();
    let mut paths = Vec::new();
    walk(&dir.join("samples/current"), &mut |_, relative| {
        paths.push(relative.to_owned())
    });
    assert_eq!(
        paths,
        [
            "{root}/bin/work/{dep}/{root}/%2E%2E/%2E%2E/%7Bdep}/var%00/TIMER%2E0.0.all.all.0/TIMER.0.0.all.all.0"
        ]
    );
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
    let here: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(here.len(), 6, "{here:?}");
}

#[test]
fn earlier_session_becomes_the_previous_one() {
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[ESC, 3, PROGRAM, 0x1000, 0]));
    s.flush();
    let Session {
        dir,
        collector,
        guest,
    } = s;
    collector.finish(&guest, &Account::default()).unwrap();
    let collector = Collector::create(dir.path(), CollectorOptions::default()).unwrap();
    drop(collector);
    let path = "{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all.0";
    assert!(dir.path().join("samples/previous").join(path).exists());
    assert!(!dir.path().join("samples/current").join(path).exists());
    assert!(dir.path().join("previous-root/bin/work").exists());
    assert!(!dir.path().join("root/bin/work").exists());
    Collector::create(dir.path(), CollectorOptions::default()).unwrap();
    assert!(!dir.path().join("samples/previous").join(path).exists());
}

#[test]
fn second_collector_is_refused_while_the_first_runs() {
    let s = session(CollectorOptions::default());
    assert!(matches!(
        Collector::create(s.dir.path(), CollectorOptions::default()),
        Err(CollectorError::InUse { .. })
    ));
    let dir = s.dir;
    drop(s.collector);
    Collector::create(dir.path(), CollectorOptions::default()).unwrap();
}

#[test]
fn directory_named_root_that_is_not_ours_is_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("root/precious"), "x").unwrap();
    assert!(matches!(
        Collector::create(dir.path(), CollectorOptions::default()),
        Err(CollectorError::ForeignRoot { .. })
    ));
    assert!(dir.path().join("root/precious").exists());
}

#[test]
fn unusable_directory_is_refused_with_its_path() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Collector::create(&file.join("session"), CollectorOptions::default()).unwrap_err();
    assert!(error.to_string().contains("file/session"), "{error}");
    let long = dir.path().join(["a"; 100].map(|_| "abcdefghij").join("/"));
    assert!(matches!(
        Collector::create(&long, CollectorOptions::default()),
        Err(CollectorError::PathTooLong { .. })
    ));
}

#[test]
fn event_name_that_breaks_file_names_is_refused() {
    let dir = TempDir::new().unwrap();
    for event in ["", "a.b", "a/b", "..", "{dep}"] {
        let options = CollectorOptions {
            event: event.into(),
            ..Default::default()
        };
        assert!(
            matches!(
                Collector::create(dir.path(), options),
                Err(CollectorError::EventName(_))
            ),
            "{event}"
        );
    }
}

/// `/a` is a file and a directory.
struct Contradiction;

impl GuestNames for Contradiction {
    fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        let path: &[u8] = if cookie == 1 { b"/a" } else { b"/a/b" };
        Some(CookieTarget::File {
            path: path.to_vec(),
            deleted: false,
        })
    }

    fn kernel_image(&self, _: u64) -> Option<Arc<KernelImage>> {
        None
    }
}

impl GuestFiles for Contradiction {
    fn open(&self, _: &[u8]) -> Option<GuestFile<'_>> {
        Some(GuestFile {
            contents: Cow::Borrowed(b"x"),
            mtime: 1,
        })
    }
}

#[test]
fn contradicting_names_cost_a_copy_and_no_sample() {
    let dir = TempDir::new().unwrap();
    let mut collector = Collector::create(dir.path(), CollectorOptions::default()).unwrap();
    collector.consume(
        &[ESC, 2, 0, ESC, 5, ESC, 3, 1, 7, 0, ESC, 3, 2, 7, 0],
        &mut Contradiction,
    );
    collector
        .flush(&Contradiction, &Account::default())
        .unwrap();
    let current = dir.path().join("samples/current");
    for image in ["a", "a/b"] {
        let path = current.join(format!(
            "{{root}}/{image}/{{dep}}/{{root}}/{image}/TIMER.0.0.all.all.0"
        ));
        assert_eq!(SampleFile::read(&path).unwrap().total(), 1);
    }
    assert!(dir.path().join("root/a").is_file());
}

/// A place that cannot be written even by root: the parent is a file.
#[test]
fn failed_flush_keeps_the_samples_and_the_old_file() {
    let mut s = session(CollectorOptions::default());
    let words = user(&[ESC, 3, PROGRAM, 0x1000, 0]);
    s.consume(&words);
    s.flush();
    let partial = s.dir.path().join("partial");
    fs::remove_dir(&partial).unwrap();
    fs::write(&partial, "in the way").unwrap();
    s.consume(&words);
    let error = s
        .collector
        .flush(&s.guest, &Account::default())
        .unwrap_err();
    assert!(matches!(error, CollectorError::Write { .. }));
    let path = s
        .dir
        .path()
        .join("samples/current/{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all.0");
    assert_eq!(SampleFile::read(&path).unwrap().total(), 1);
    fs::remove_file(&partial).unwrap();
    fs::create_dir(&partial).unwrap();
    s.flush();
    assert_eq!(SampleFile::read(&path).unwrap().total(), 2);
}

#[test]
fn device_that_is_full_fails_the_flush_and_nothing_else() {
    // A full device answers ENOSPC to writes; /dev/full does so for the file being written.
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[ESC, 3, PROGRAM, 0x1000, 0]));
    for number in 0..64 {
        std::os::unix::fs::symlink("/dev/full", s.dir.path().join(format!("partial/{number}")))
            .unwrap();
    }
    let error = s
        .collector
        .flush(&s.guest, &Account::default())
        .unwrap_err();
    let CollectorError::Write { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    for entry in fs::read_dir(s.dir.path().join("partial")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(s.counts().len(), 1);
}

#[test]
fn statistics_tell_what_was_lost_and_where() {
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[ESC, 3, PROGRAM, 0x1000, 0, ESC, 3, 0, 1, 0]));
    let account = Account::from_iter([
        ("received", 9),
        ("no_mm", 2),
        ("lost_guest", 3),
        ("lost_overflow", 1),
        ("ignored", 1),
    ]);
    s.collector.flush(&s.guest, &account).unwrap();
    let read = |name: &str| fs::read_to_string(s.dir.path().join(name)).unwrap();
    assert_eq!(read("samples/current/stats/total_samples"), "9\n");
    assert_eq!(read("samples/current/stats/lost_no_mapping"), "3\n");
    assert_eq!(read("samples/current/stats/lost_records_by_kernel"), "5\n");
    assert!(
        !s.dir
            .path()
            .join("samples/current/stats/lost_kernel")
            .exists()
    );
    let log = read("samples/operf.log");
    assert!(
        log.contains("-- OProfile/operf Statistics --\nNr. non-backtrace samples: 1\n"),
        "{log}"
    );
    assert!(
        log.contains("Nr. samples lost due to no permanent mapping: 3\n"),
        "{log}"
    );
    let text = read("account.txt");
    assert!(
        text.starts_with("received 9\nno_mm 2\n") && text.contains("collector_no_region 1\n"),
        "{text}"
    );
}

#[test]
fn nothing_lost_leaves_no_statistics_files() {
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[ESC, 3, PROGRAM, 0x1000, 0]));
    s.flush();
    assert!(!s.dir.path().join("samples/current/stats").exists());
}

#[test]
fn module_load_is_passed_on() {
    let mut s = session(CollectorOptions::default());
    assert_eq!(s.consume(&[ESC, 6, ESC, 6]).modules_loaded, 2);
    assert_eq!(s.guest.modules_loaded, 2);
}

/// Modules that come and go at one address, each with its own symbols.
struct Reloading(std::cell::Cell<u64>);

impl GuestNames for Reloading {
    fn cookie(&self, _: u64) -> Option<CookieTarget> {
        None
    }

    fn kernel_image(&self, address: u64) -> Option<Arc<KernelImage>> {
        let start = MODULE + self.0.get() * 0x1000;
        let size = if self.0.get() == 2 { 0x800 } else { 0x1000 };
        let image = KernelImage {
            name: b"m/x".to_vec(),
            kind: ImageKind::Module,
            start,
            end: start + size,
            symbols: vec![],
        };
        (start..image.end)
            .contains(&address)
            .then(|| Arc::new(image))
    }
}

#[test]
fn module_loaded_elsewhere_is_the_same_image_and_another_build_is_not() {
    let dir = TempDir::new().unwrap();
    let mut collector = Collector::create(dir.path(), CollectorOptions::default()).unwrap();
    let mut names = Reloading(0.into());
    for load in 0..3 {
        names.0.set(load);
        collector.consume(
            &[ESC, 2, 0, ESC, 4, MODULE + load * 0x1000 + 0x10, 0],
            &mut names,
        );
    }
    assert_eq!(collector.stats().kernel, 3);
    collector.flush(&(), &Account::default()).unwrap();
    let modules = dir.path().join("samples/current/{root}/lib/modules");
    let read = |name: &str| {
        SampleFile::read(&modules.join(format!(
            "{name}/{{dep}}/{{root}}/lib/modules/{name}/TIMER.0.0.all.all.0"
        )))
    };
    assert_eq!(
        read("m%2Fx.ko").unwrap().counts,
        BTreeMap::from([(0x1010, 2)])
    );
    assert_eq!(
        read("m%2Fx~2.ko").unwrap().counts,
        BTreeMap::from([(0x1010, 1)])
    );
}

/// Every address and cookie is a new image.
struct Endless;

impl GuestNames for Endless {
    fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        Some(CookieTarget::File {
            path: format!("/f{cookie}").into_bytes(),
            deleted: false,
        })
    }

    fn kernel_image(&self, address: u64) -> Option<Arc<KernelImage>> {
        let symbols = vec![Symbol {
            address,
            size: address,
            kind: SymbolKind::Function,
            name: vec![],
        }];
        Some(Arc::new(KernelImage {
            name: b"k".to_vec(),
            kind: ImageKind::Module,
            start: address,
            end: address + 1,
            symbols,
        }))
    }
}

#[test]
fn endless_images_are_counted_and_not_kept() {
    let dir = TempDir::new().unwrap();
    let mut collector = Collector::create(dir.path(), CollectorOptions::default()).unwrap();
    let limit = images::MAX_IMAGES as u64;
    let mut words = vec![ESC, 2, 0, ESC, 5];
    (1..=limit + 100).for_each(|cookie| words.extend([ESC, 3, cookie, 1, 0]));
    collector.consume(&words, &mut Endless);
    assert_eq!(
        (collector.stats().file, collector.stats().over_capacity),
        (limit, 100)
    );
    let mut words = vec![ESC, 2, 0, ESC, 4];
    (1..200).for_each(|address| words.extend([address, 0]));
    collector.consume(&words, &mut Endless);
    assert_eq!(collector.stats().kernel, 0);
    assert!(collector.stats().adds_up());
}

/// Each rule of the on-disk format that a writer has to obey, on a session with all kinds of samples.
#[test]
fn session_obeys_every_rule_of_the_format() {
    let mut s = session(CollectorOptions::default());
    for cpu in 0..3 {
        let mut words = vec![ESC, 2, cpu, ESC, 8, ESC, 5];
        words.extend(TASK);
        words.extend([
            ESC, 3, LIBRARY, 0x20, 0, ESC, 3, PROGRAM, 0x40, 0, ESC, 3, JIT, 0x7100, 0, ESC, 3,
            CLIMBER, 1, 0,
        ]);
        for key in 0..300 {
            words.extend([ESC, 8, ESC, 4, KERNEL + key * 16, 0, MODULE + key, 0]);
        }
        s.consume(&words);
        s.flush();
    }
    let current = s.dir.path().join("samples/current");
    let mut mtimes: BTreeMap<ImageName, u64> = BTreeMap::new();
    let mut files = 0;
    walk(&current, &mut |path, relative| {
        files += 1;
        let parsed =
            SamplePath::parse(path.strip_prefix(&current).unwrap().as_os_str().as_bytes()).unwrap();
        assert!(relative.starts_with("{root}/"), "{relative}");
        assert!(!relative.contains("/proc/kallsyms"));
        assert_eq!(relative.rsplit('/').next().unwrap().matches('.').count(), 5);
        assert_eq!((&*parsed.spec.count, &*parsed.spec.unit_mask), ("0", "0"));
        assert!(parsed.spec.cpu.parse::<u32>().unwrap() < 3);
        assert!(matches!(parsed.app, ImageName::Root(_)));

        let bytes = fs::read(path).unwrap();
        let word =
            |offset: usize| u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap());
        let long =
            |offset: usize| u64::from_ne_bytes(bytes[offset..offset + 8].try_into().unwrap());
        assert_eq!(&bytes[..4], b"DAE\n");
        assert_eq!(
            (
                word(4),
                word(8),
                word(12),
                word(16),
                word(20),
                word(24),
                word(28)
            ),
            (0x13, 4, 0, 0, 0, 0, 0)
        );
        assert_eq!((long(32), word(48), word(52)), (0, 0, 0));
        assert_eq!(
            long(56) != 0,
            matches!(parsed.image, ImageName::Anon { .. })
        );
        assert_eq!(
            long(64) != 0,
            matches!(parsed.callee, Some(ImageName::Anon { .. }))
        );
        assert_eq!(
            *mtimes.entry(parsed.image.clone()).or_insert(long(40)),
            long(40),
            "one mtime an image"
        );
        let (size, used) = (word(72), word(76));
        assert!(size.is_power_of_two() && size >= 128 && used < size && used > 1);
        assert_eq!(bytes.len(), 104 + 20 * size as usize);
        assert!(bytes[80..104].iter().all(|byte| *byte == 0));
        // Each node is in exactly one chain, and in that of its key.
        let mut seen = 0;
        for bucket in 0..size {
            let mut node = word(104 + 16 * size as usize + 4 * bucket as usize);
            while node != 0 {
                assert!(node < used);
                let at = 104 + 16 * node as usize;
                let folded = word(at) ^ word(at + 4);
                assert_eq!((folded ^ (folded >> 8)) & (size - 1), bucket);
                node = word(at + 12);
                seen += 1;
                assert!(seen < used);
            }
        }
        assert_eq!(seen, used - 1);
    });
    assert_eq!(files, 3 * 6);
    assert_eq!(
        fs::read_dir(s.dir.path().join("partial")).unwrap().count(),
        0
    );
    let abi = fs::read_to_string(s.dir.path().join("abi")).unwrap();
    assert_eq!(abi.lines().count(), 31);
    assert!(abi.lines().all(|line| line.split(' ').count() == 2));
}

#[test]
fn copies_of_guest_files_cannot_be_run() {
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[ESC, 3, PROGRAM, 1, 0]));
    s.flush();
    let mode = fs::metadata(s.dir.path().join("root/bin/work"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7111, 0);
}

proptest! {
    #[test]
    fn any_words_are_accounted_for(words in prop::collection::vec(prop_oneof![
        3 => Just(ESC), 3 => 0u64..15, 1 => Just(KERNEL), 1 => Just(MODULE + 5), 1 => any::<u64>()], 0..300), per_cpu in any::<bool>()) {
        let mut s = session(CollectorOptions { per_cpu, ..Default::default() });
        let stats = s.consume(&words);
        let filed: u64 = s
            .sample_files()
            .iter()
            .filter(|(path, _)| !path.contains("{cg}"))
            .map(|(_, file)| file.total())
            .sum();
        prop_assert_eq!(filed, stats.accepted());
    }
}
