//! Sessions as the collector writes them, then one rule broken in each.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use super::*;
use crate::collector::{Account, Collector, CollectorOptions};
use crate::events::ESCAPE as ESC;
use crate::guest::{
    CookieTarget, GuestFile, GuestFiles, GuestNames, ImageKind, KernelImage, Symbol, SymbolKind,
};
use crate::sample_file::Header;

const PROGRAM: &str = "{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all.0";
const REGION: &str = "{root}/bin/work/{dep}/{anon:anon}/7.0x7000.0x8fff/TIMER.0.0.all.all.0";
const CHAIN: &str =
    "{root}/bin/work/{dep}/{root}/bin/work/{cg}/{anon:anon}/7.0x7000.0x8fff/TIMER.0.0.all.all.0";
const KERNEL: u64 = 0xffff_8000_0010_0000;

/// A program of cookie 1, a region of cookie 2, a kernel.
struct Guest;

impl GuestNames for Guest {
    fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        match cookie {
            1 => Some(CookieTarget::File {
                path: b"/bin/work".to_vec(),
                deleted: false,
            }),
            2 => Some(CookieTarget::Anonymous {
                tgid: 7,
                start: 0x7000,
                end: 0x9000,
                name: "anon".into(),
            }),
            _ => None,
        }
    }

    fn kernel_image(&self, _: u64) -> Option<std::sync::Arc<KernelImage>> {
        let symbol = Symbol {
            address: KERNEL,
            size: 16,
            kind: SymbolKind::Function,
            name: b"entry".to_vec(),
        };
        Some(std::sync::Arc::new(KernelImage {
            name: b"tiny".to_vec(),
            kind: ImageKind::Kernel,
            start: KERNEL,
            end: KERNEL + 0x1000,
            symbols: vec![symbol],
        }))
    }
}

impl GuestFiles for Guest {
    fn open(&self, path: &[u8]) -> Option<GuestFile<'_>> {
        (path == b"/bin/work").then_some(GuestFile {
            contents: b"\x7fELF".into(),
            mtime: 1_600_000_000,
        })
    }
}

/// A finished session with samples of a program, a region and a kernel, with arcs and with losses.
struct Session(TempDir);

impl Session {
    fn record() -> Self {
        let dir = TempDir::new().unwrap();
        let mut collector = Collector::create(dir.path(), CollectorOptions::default()).unwrap();
        let mut words = vec![ESC, 2, 0, ESC, 1, 10, 1, ESC, 7, 10, ESC, 5, ESC, 3, 1];
        // More addresses than a new table holds, some far apart.
        for index in 0..300u64 {
            words.extend([(index * 0x1_0000_0101) % (1 << 40), 0]);
        }
        words.extend([ESC, 3, 2, 0x7010, 0, ESC, 3, 99, 1, 0]);
        // A chain: the region, called by the program.
        words.extend([ESC, 8, ESC, 3, 2, 0x7020, 0, ESC, 3, 1, 0x1234, 0]);
        words.extend([ESC, 2, 1, ESC, 4, KERNEL + 4, 0]);
        collector.consume(&words, &mut Guest);
        let stats = collector.finish(&Guest, &Account::default()).unwrap();
        assert!(
            stats.adds_up() && stats.lost() > 0 && stats.arcs > 0,
            "{stats:?}"
        );
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sample_file(&self, name: &str) -> PathBuf {
        self.path("samples/current").join(name)
    }

    /// Changes bytes of a sample file.
    fn patch(&self, name: &str, offset: usize, bytes: &[u8]) {
        let path = self.sample_file(name);
        let mut content = fs::read(&path).unwrap();
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
        fs::write(path, content).unwrap();
    }

    /// Moves a sample file to another name.
    fn rename(&self, old: &str, new: &str) {
        let new = self.sample_file(new);
        fs::create_dir_all(new.parent().unwrap()).unwrap();
        fs::rename(self.sample_file(old), new).unwrap();
    }

    /// Adds a sample file.
    fn add(&self, name: &str, header: &Header, counts: &[(u64, u64)]) {
        let path = self.sample_file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = crate::sample_file::encode(header, counts.iter().copied());
        fs::write(path, bytes).unwrap();
    }

    fn add_file(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[track_caller]
    fn expect(&self, rules: &[Rule]) {
        let report = validate(self.0.path());
        let found: Vec<_> = report
            .findings
            .iter()
            .map(|finding| finding.rule.clone())
            .collect();
        assert_eq!(found, rules, "{report}");
    }
}

/// The bytes of a header field.
fn word(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

fn program() -> Header {
    Header::timer(0, 0, 1_600_000_000)
}

#[test]
fn session_of_the_collector_breaks_no_rule() {
    let session = Session::record();
    let report = validate(session.0.path());
    assert!(report.is_valid(), "{report}");
    assert_eq!((report.sample_files, report.samples), (4, 303), "{report}");
    for name in [PROGRAM, REGION, CHAIN] {
        assert!(session.sample_file(name).is_file(), "{name}");
    }
    let total = session.path("samples/current/stats/total_samples");
    assert!(total.is_file(), "the session has losses");
}

#[test]
fn header_is_checked_field_by_field() {
    let nan = f64::NAN.to_ne_bytes();
    let cases: [(&str, usize, &[u8], Rule); 17] = [
        (PROGRAM, 0, b"DAF\n", Rule::Magic),
        (PROGRAM, 4, &word(0x12), Rule::Version(0x12)),
        (PROGRAM, 8, &word(88), Rule::CpuType(88)),
        (PROGRAM, 12, &word(1), Rule::TimerEvent),
        (PROGRAM, 16, &word(1), Rule::UnitMaskDiffers),
        (PROGRAM, 20, &word(1), Rule::CountDiffers),
        (REGION, 24, &word(1), Rule::AnonKernel),
        (REGION, 28, &word(1), Rule::Padding("header")),
        (PROGRAM, 32, &nan, Rule::Speed),
        (REGION, 40, &word(1), Rule::AnonTime),
        (PROGRAM, 48, &word(1), Rule::NoCallee),
        (CHAIN, 48, &word(1), Rule::AnonKernel),
        (PROGRAM, 52, &word(1), Rule::Padding("header")),
        (PROGRAM, 56, &word(1), Rule::AnonStart(Part::Image)),
        (REGION, 56, &word(0), Rule::AnonStart(Part::Image)),
        (PROGRAM, 64, &word(1), Rule::NoCallee),
        (CHAIN, 64, &word(1), Rule::AnonStart(Part::Callee)),
    ];
    for (name, offset, bytes, rule) in cases {
        let session = Session::record();
        session.patch(name, offset, bytes);
        session.expect(&[rule]);
    }
}

#[test]
fn flags_are_zero_or_one() {
    let session = Session::record();
    session.patch(CHAIN, 24, &word(2));
    // The program's own file says 0 of the same image.
    session.expect(&[Rule::Flag, Rule::KernelDiffers]);
}

#[test]
fn descriptor_and_length_are_checked() {
    let cases: [(usize, &[u8], Rule); 7] = [
        (72, &word(511), Rule::Size(511)),
        (72, &word(64), Rule::Size(64)),
        (72, &word(1024), Rule::Length),
        (72, &word(1 << 24), Rule::TooLarge(1 << 24)),
        (76, &word(0), Rule::CurrentSize(0)),
        (76, &word(512), Rule::CurrentSize(512)),
        (103, &[1], Rule::Padding("descriptor")),
    ];
    for (offset, bytes, rule) in cases {
        let session = Session::record();
        session.patch(PROGRAM, offset, bytes);
        session.expect(&[rule]);
    }
}

#[test]
fn cut_files_are_found() {
    for (length, rule) in [
        (0, Rule::TooShort),
        (103, Rule::TooShort),
        (2663, Rule::Length),
        (2665, Rule::Length),
    ] {
        let session = Session::record();
        let path = session.sample_file(REGION);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(length).unwrap();
        session.expect(&[rule]);
    }
}

/// The region's file has one node: node 1 at 120, next free one at 136, buckets from 2152 on.
#[test]
fn nodes_and_chains_are_checked() {
    let cases: [(usize, &[u8], Rule); 5] = [
        (104, &word(1), Rule::Padding("nodes")),
        (136 + 12, &word(1), Rule::Padding("nodes")),
        (128, &word(0), Rule::ZeroCount(0x10)),
        (132, &word(1), Rule::Chain(1)),
        (2152 + 4 * 0x10, &word(2), Rule::ChainTarget(2)),
    ];
    for (offset, bytes, rule) in cases {
        let session = Session::record();
        // One node only, whatever else was recorded.
        let header = Header {
            anon_start: 0x7000,
            ..Header::timer(0, 0, 0)
        };
        session.add(REGION, &header, &[(0x10, 5)]);
        session.patch(REGION, offset, bytes);
        let report = validate(session.0.path());
        assert_eq!(
            report.findings.first().map(|finding| &finding.rule),
            Some(&rule),
            "{report}"
        );
    }
}

#[test]
fn node_without_a_chain_or_in_a_wrong_one_is_found() {
    let session = Session::record();
    session.add(PROGRAM, &program(), &[(0x10, 5)]);
    session.patch(PROGRAM, 2152 + 4 * 0x10, &word(0));
    session.expect(&[Rule::Chain(1)]);
    session.patch(PROGRAM, 2152 + 4 * 0x11, &word(1));
    session.expect(&[Rule::Chain(1)]);
}

#[test]
fn key_that_is_there_twice_is_found() {
    let session = Session::record();
    session.add(PROGRAM, &program(), &[(0x10, 5), (0x10, 6)]);
    session.expect(&[Rule::DuplicateKey(0x10)]);
}

#[test]
fn key_outside_of_its_region_is_found() {
    let session = Session::record();
    let header = Header {
        anon_start: 0x7000,
        ..Header::timer(0, 0, 0)
    };
    session.add(REGION, &header, &[(0x1fff, 1)]);
    session.expect(&[]);
    session.add(REGION, &header, &[(0x2000, 1)]);
    session.expect(&[Rule::KeyOutsideRegion(0x2000)]);
}

#[test]
fn paths_are_checked() {
    let spec = "TIMER.0.0.all.all.0";
    let cases: BTreeMap<String, Rule> = [
        (
            "{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all".to_owned(),
            Rule::Path,
        ),
        (
            "{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all.x".to_owned(),
            Rule::SpecNumber,
        ),
        (
            format!("{{root}}/bin/work/{{root}}/bin/work/{spec}"),
            Rule::Path,
        ),
        (
            format!("{{root}}bin/{{dep}}/{{root}}/bin/work/{spec}"),
            Rule::Component(Part::Program),
        ),
        (
            format!("{{root}}/bin/work/{{dep}}/{{root}}/{{x}}/{spec}"),
            Rule::Component(Part::Image),
        ),
        (
            format!("{{root}}/bin/work/{{dep}}/{{root}}/b\n/{spec}"),
            Rule::Component(Part::Image),
        ),
        (
            format!("{{root}}/bin/work/{{dep}}/{{root}}/proc/kallsyms/{spec}"),
            Rule::Kallsyms(Part::Image),
        ),
        (
            format!("{{root}}/bin/work/{{dep}}/{{kern}}/a/b/{spec}"),
            Rule::KernelName(Part::Image),
        ),
        (
            format!("{{root}}/bin/work/{{dep}}/{{anon:x}}/7.0x7000/{spec}"),
            Rule::Path,
        ),
    ]
    .into_iter()
    .collect();
    for (name, rule) in cases {
        let session = Session::record();
        session.add(&name, &Header::timer(0, 0, 0), &[(1, 1)]);
        let report = validate(session.0.path());
        assert!(
            report.findings.iter().any(|finding| finding.rule == rule),
            "{name} {rule:?} {report}"
        );
    }
}

#[test]
fn ranges_of_regions_are_checked() {
    for range in [
        "7.7000.0x8fff",
        "7.0x7000.0x6fff",
        "7.0x.0x1",
        ".0x7000.0x8fff",
    ] {
        let session = Session::record();
        session.rename(
            REGION,
            &format!("{{root}}/bin/work/{{dep}}/{{anon:anon}}/{range}/TIMER.0.0.all.all.0"),
        );
        session.expect(&[Rule::Range(Part::Image)]);
    }
}

#[test]
fn files_of_one_image_agree() {
    let other = "{root}/bin/other/{dep}/{root}/bin/work/TIMER.0.0.all.all.0";
    let session = Session::record();
    let mut header = program();
    session.add(other, &header, &[(1, 1)]);
    session.expect(&[]);
    header.is_kernel = 1;
    session.add(other, &header, &[(1, 1)]);
    // In the order of paths the other program's file comes first.
    session.expect(&[Rule::KernelDiffers, Rule::KernelDiffers]);
    session.add(other, &Header::timer(0, 0, 1_600_000_001), &[(1, 1)]);
    session.expect(&[Rule::TreeTime, Rule::TimeDiffers, Rule::TimeDiffers]);
}

#[test]
fn guest_tree_has_the_times_of_the_headers() {
    let session = Session::record();
    let copy = fs::File::options()
        .append(true)
        .open(session.path("root/bin/work"))
        .unwrap();
    copy.set_modified(UNIX_EPOCH + Duration::from_secs(5))
        .unwrap();
    session.expect(&[Rule::TreeTime]);
}

#[test]
fn guest_tree_leads_back_to_the_session() {
    let session = Session::record();
    let link = session.path("root/var/lib/oprofile");
    fs::remove_file(&link).unwrap();
    session.expect(&[Rule::ArchiveLink]);
    symlink("/", &link).unwrap();
    session.expect(&[Rule::ArchiveLink]);
}

#[test]
fn more_than_one_difference_between_files_is_found() {
    let session = Session::record();
    let name = |spec: &str| format!("{{root}}/bin/work/{{dep}}/{{root}}/bin/work/{spec}");
    session.add(&name("OTHER.0.0.all.all.0"), &program(), &[(1, 1)]);
    session.expect(&[Rule::Axes("event", "cpu")]);
}

#[test]
fn threads_may_differ_with_their_groups() {
    let session = Session::record();
    fs::remove_dir_all(session.path("samples/current")).unwrap();
    let name = |tgid: u32, tid: u32| {
        format!("{{root}}/bin/work/{{dep}}/{{root}}/bin/work/TIMER.0.0.{tgid}.{tid}.all")
    };
    session.add(&name(1, 1), &program(), &[(1, 1)]);
    session.add(&name(2, 2), &program(), &[(1, 1)]);
    session.expect(&[]);
    session.add(&name(2, 3), &program(), &[(1, 1)]);
    session.expect(&[Rule::Axes("tgid", "tid")]);
}

#[test]
fn foreign_and_torn_files_are_found() {
    let foreign = [
        "samples/x",
        "samples/current/x",
        "samples/current/x/y",
        "samples/current/{root}/bin/work/{dep}/{root}/bin/work/1.jo",
    ];
    for name in foreign {
        let session = Session::record();
        session.add_file(name, "x");
        session.expect(&[Rule::Foreign]);
    }
    let session = Session::record();
    session.add_file("partial/7", "x");
    session.expect(&[Rule::Torn]);
    // The format leaves room beside the sessions.
    let session = Session::record();
    session.add_file("notes.txt", "x");
    session.expect(&[]);
}

#[test]
fn links_and_symbols_of_regions_are_told_apart() {
    let session = Session::record();
    let symbols = "{root}/bin/work/{dep}/{anon:anon}/7.jo";
    fs::write(session.sample_file(symbols), "\x7fELF…").unwrap();
    session.expect(&[]);
    fs::write(session.sample_file(symbols), "text").unwrap();
    session.expect(&[Rule::Foreign]);
    fs::remove_file(session.sample_file(symbols)).unwrap();
    symlink(
        session.sample_file(PROGRAM),
        session.sample_file(&PROGRAM.replace("all.0", "all.5")),
    )
    .unwrap();
    session.expect(&[Rule::Foreign]);
}

#[test]
fn frame_is_checked() {
    let session = Session::record();
    session.add_file("abi", "little_endian 0\n");
    session.add_file("samples/operf.log", "Hello\n");
    session.expect(&[Rule::Abi, Rule::Log]);
    let session = Session::record();
    fs::rename(
        session.path("samples/current"),
        session.path("samples/saved"),
    )
    .unwrap();
    session.expect(&[Rule::NoSession]);
    let report = validate(&session.path("nowhere"));
    let rules: Vec<_> = report
        .findings
        .iter()
        .map(|finding| &finding.rule)
        .collect();
    assert_eq!(rules, [&Rule::Abi, &Rule::Log, &Rule::NoSession]);
}

#[test]
fn saved_session_is_checked_without_the_guest_tree() {
    let session = Session::record();
    session.add_file("samples/saved/x", "");
    session.expect(&[Rule::Foreign]);
}

#[test]
fn statistics_are_checked() {
    let stats = "samples/current/stats";
    for (name, content, rule) in [
        ("lost_kernel", "5x", Rule::Statistics),
        ("lost_anything", "5", Rule::Statistics),
        ("lost_kernel", "0\n", Rule::StatisticsTotal),
        ("files", "abc 1:2 3 /a\n", Rule::FileList),
    ] {
        let session = Session::record();
        session.add_file(&format!("{stats}/{name}"), content);
        session.expect(&[rule]);
    }
    let session = Session::record();
    fs::remove_file(session.path(stats).join("total_samples")).unwrap();
    session.expect(&[Rule::StatisticsTotal]);
}

#[test]
fn findings_are_bounded() {
    let session = Session::record();
    for number in 0..MAX_FINDINGS + 5 {
        session.add_file(&format!("samples/current/x{number}"), "");
    }
    assert_eq!(validate(session.0.path()).findings.len(), MAX_FINDINGS);
}
