//! Which file and which counter a sample ends in.

use super::*;

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
