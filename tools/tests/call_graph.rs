//! `opreport -c`, as text and XML, on arcs that are known: who calls whom, how often, and that no arc is lost.

#[allow(
    dead_code,
    reason = "the other tests of this crate need the rest of the guest"
)]
mod support;
#[path = "support/xml.rs"]
mod xml;

use std::fs;

use oprofile_session::Account;
use oprofile_session::sample_file::{Header, encode};
use support::{Guest, MTIME, Session, TEXT, program, vcpu};
use xml::Element;

const WORK: u64 = 1;
const LIBRARY: u64 = 2;
/// Places in the functions of [`session`].
const IN_MAIN: u64 = TEXT + 0x10;
const IN_CRUNCH: u64 = TEXT + 0x110;
const IN_MIX: u64 = TEXT + 0x90;
const IN_LEAF: u64 = TEXT + 0x190;
/// A caller that was never sampled itself.
const IN_QUIET: u64 = TEXT + 0x210;

/// `main` calls `crunch` and `mix`; `crunch` calls itself and `mix`; `mix` calls `leaf`; `quiet` calls `leaf`.
fn session() -> Session {
    let mut guest = Guest::default();
    guest.file(
        b"/bin/work",
        Some(program(&[
            (0, b"main"),
            (0x100, b"crunch"),
            (0x200, b"quiet"),
        ])),
    );
    guest.file(
        b"/lib/libshare.so",
        Some(program(&[(0x80, b"_Z3mixi"), (0x180, b"leaf")])),
    );
    let samples = [
        (WORK, IN_MAIN, 10),
        (WORK, IN_CRUNCH, 50),
        (LIBRARY, IN_MIX, 30),
        (LIBRARY, IN_LEAF, 10),
    ];
    let session = Session::record(guest, &[vcpu(0, &samples)], &Account::default());
    let (work, library) = ("{root}/bin/work", "{root}/lib/libshare.so");
    add_arcs(
        &session,
        work,
        work,
        &[(IN_MAIN, IN_CRUNCH, 7), (IN_CRUNCH, IN_CRUNCH, 3)],
    );
    add_arcs(
        &session,
        work,
        library,
        &[
            (IN_MAIN, IN_MIX, 1),
            (IN_CRUNCH, IN_MIX, 20),
            (IN_QUIET, IN_LEAF, 2),
        ],
    );
    add_arcs(&session, library, library, &[(IN_MIX, IN_LEAF, 8)]);
    session
}

fn add_arcs(session: &Session, caller: &str, callee: &str, arcs: &[(u64, u64, u64)]) {
    let directory = format!("{{root}}/bin/work/{{dep}}/{caller}/{{cg}}/{callee}");
    let path = session.sample_file(&format!("{directory}/TIMER.0.0.all.all.0"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut counts: Vec<(u64, u64)> = arcs
        .iter()
        .map(|(from, to, count)| (from << 32 | to, *count))
        .collect();
    counts.sort_unstable();
    fs::write(
        path,
        encode(&Header::timer(0, 0, MTIME), counts.into_iter()),
    )
    .unwrap();
}

#[test]
fn each_function_stands_between_its_callers_and_callees() {
    let (stdout, stderr) = session().report(&["-c", "-n"]);
    assert_eq!(stderr, "");
    let line = "-".repeat(79);
    let expected = "\
LINE
  7        70.0000  work                     main
  3        30.0000  work                     crunch
50       50.0000  work                     crunch
  50       68.4932  work                     crunch [self]
  20       27.3973  libshare.so              mix(int)
  3         4.1096  work                     crunch
LINE
  1         4.7619  work                     main
  20       95.2381  work                     crunch
30       30.0000  libshare.so              mix(int)
  30       78.9474  libshare.so              mix(int) [self]
  8        21.0526  libshare.so              leaf
LINE
  2        20.0000  work                     quiet
  8        80.0000  libshare.so              mix(int)
10       10.0000  libshare.so              leaf
  10       100.000  libshare.so              leaf [self]
LINE
10       10.0000  work                     main
  10       55.5556  work                     main [self]
  7        38.8889  work                     crunch
  1         5.5556  libshare.so              mix(int)
LINE
0              0  work                     quiet
  2        100.000  libshare.so              leaf
  0              0  work                     quiet [self]
LINE";
    assert_eq!(
        sorted_blocks(&stdout),
        sorted_blocks(&expected.replace("LINE", &line))
    );
}

/// The blocks, those of equal count in any order, and the callers of one block in order of their counts.
fn sorted_blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = text
        .split(&"-".repeat(79))
        .map(|block| {
            let mut lines: Vec<&str> = block.trim_matches('\n').lines().collect();
            let own = lines.iter().position(|line| !line.starts_with(' '));
            lines[..own.unwrap_or(0)].sort_unstable();
            lines.join("\n")
        })
        .collect();
    blocks.sort_unstable();
    blocks
}

#[test]
fn global_percentages_are_of_all_samples() {
    let (stdout, _) = session().report(&["-c", "-n", "-%"]);
    assert!(
        stdout.contains("\n  7         7.0000  work                     main\n"),
        "{stdout}"
    );
    assert!(
        stdout.contains("\n  20       20.0000  libshare.so              mix(int)\n"),
        "{stdout}"
    );
}

#[test]
fn filter_chooses_blocks_and_not_lines_in_them() {
    let (stdout, _) = session().report(&["-c", "-n", "-i", "mix(int)"]);
    assert!(
        stdout.contains("crunch") && stdout.contains("leaf"),
        "{stdout}"
    );
    let heads: Vec<&str> = stdout
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    assert_eq!(heads.len(), 1, "{stdout}");
    assert!(heads[0].ends_with("mix(int)"), "{stdout}");
}

#[test]
fn calls_outside_all_functions_are_counted_in_one_warning() {
    let session = session();
    // Before the library's first function.
    let library = "{root}/lib/libshare.so";
    add_arcs(
        &session,
        library,
        library,
        &[(IN_MIX, TEXT + 0x10, 4), (IN_MIX, IN_LEAF, 8)],
    );
    let (stdout, stderr) = session.report(&["-c", "-n"]);
    assert!(
        stdout.contains("  8        21.0526  libshare.so              leaf"),
        "{stdout}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains('4'), "{stderr}");
}

#[test]
fn xml_has_callers_and_callees_of_each_function() {
    let (stdout, _) = session().report(&["-X", "-c"]);
    let document = Element::parse(&stdout);
    let profile = document.one("profile");
    let names = profile.symbol_names();
    let name = |symbol: &Element| names[symbol.attribute("idref")].clone();
    let mut arcs = Vec::new();
    let mut own = Vec::new();
    let mut with_callers = Vec::new();
    let mut symbols = profile.below("symbol");
    symbols.retain(|symbol| !symbol.all("callers").is_empty());
    for symbol in symbols {
        let function = name(symbol);
        own.push((function.clone(), symbol.count()));
        // Those of libraries have their module around them.
        for callee in symbol.one("callees").below("symbol") {
            if callee.attributes.iter().any(|(key, _)| key == "self") {
                assert_eq!((name(callee), callee.count()), own.last().unwrap().clone());
            } else {
                arcs.push((function.clone(), name(callee), callee.count()));
            }
        }
        for caller in symbol.one("callers").below("symbol") {
            with_callers.push((name(caller), function.clone(), caller.count()));
        }
    }
    let list = |list: &[(&str, &str, u64)]| -> Vec<(String, String, u64)> {
        let list = list.iter();
        list.map(|(a, b, count)| ((*a).to_owned(), (*b).to_owned(), *count))
            .collect()
    };
    let expected = list(&[
        ("crunch", "crunch", 3),
        ("crunch", "mix(int)", 20),
        ("main", "crunch", 7),
        ("main", "mix(int)", 1),
        ("mix(int)", "leaf", 8),
        ("quiet", "leaf", 2),
    ]);
    arcs.sort();
    with_callers.sort();
    own.sort();
    assert_eq!(arcs, expected);
    assert_eq!(with_callers, expected);
    let own: Vec<(&str, u64)> = own
        .iter()
        .map(|(name, count)| (&name[..], *count))
        .collect();
    assert_eq!(
        own,
        [
            ("crunch", 50),
            ("leaf", 10),
            ("main", 10),
            ("mix(int)", 30),
            ("quiet", 0)
        ]
    );
}
