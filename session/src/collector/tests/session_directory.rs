//! What is on disk, and what is not.

use super::*;

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
        paths.push(relative.to_owned());
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
        ("lost_in_guest", 3),
        ("lost_words", 1000),
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

#[test]
fn a_saved_session_keeps_its_samples_and_its_guest_tree() {
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[ESC, 3, PROGRAM, 1, 0]));
    let (guest, account) = (Guest::default(), Account::default());
    s.collector.save("a-1", &guest, &account).unwrap();
    assert_eq!(s.collector.stats().samples, 0);
    assert!(s.sample_files().is_empty());
    let dir = s.dir.path().to_owned();
    assert!(dir.join("samples/a-1/{root}/bin/work").is_dir());
    assert!(dir.join("a-1-root/bin/work").exists());
    // The next session counts from nothing, under the same names.
    s.consume(&user(&[ESC, 3, PROGRAM, 1, 0]));
    assert_eq!(s.counts().into_values().next(), Some(vec![(1, 1)]));
    let taken = s.collector.save("a-1", &guest, &account);
    assert!(matches!(taken, Err(CollectorError::NameTaken(_))));
}

#[test]
fn names_that_lead_elsewhere_are_no_names_of_sessions() {
    let mut s = session(CollectorOptions::default());
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "/a",
        "current",
        "previous",
        "-a",
        ".a",
        "ä",
        &"x".repeat(65),
    ] {
        let refused = s
            .collector
            .save(name, &Guest::default(), &Account::default());
        assert!(matches!(refused, Err(CollectorError::Name(_))), "{name}");
    }
}

#[test]
fn a_reset_session_is_empty_on_disk_and_goes_on() {
    let mut s = session(CollectorOptions::default());
    s.consume(&user(&[ESC, 3, PROGRAM, 1, 0]));
    s.flush();
    s.collector.reset().unwrap();
    assert_eq!(s.sample_files().len(), 0);
    s.consume(&user(&[ESC, 3, PROGRAM, 2, 0]));
    assert_eq!(s.counts().into_values().next(), Some(vec![(2, 1)]));
}

#[test]
fn the_way_of_filing_changes_only_while_nothing_is_filed() {
    let mut s = session(CollectorOptions::default());
    s.collector.separate(Separation::None, false).unwrap();
    s.consume(&user(&[ESC, 3, PROGRAM, 1, 0]));
    let refused = s.collector.separate(Separation::Kernel, false);
    assert!(matches!(refused, Err(CollectorError::Filed)));
    s.collector.separate(Separation::None, false).unwrap();
    s.collector.reset().unwrap();
    s.collector.separate(Separation::Kernel, true).unwrap();
}
