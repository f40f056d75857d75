//! `opreport -X`: the document is well-formed and holds every sample, and what it names is text that XML can hold.

#[allow(
    dead_code,
    reason = "the other tests of this crate need the rest of the guest"
)]
mod support;
#[path = "support/xml.rs"]
mod xml;

use std::path::Path;

use oprofile_session::Account;

use support::{Guest, Session, TEXT, program, vcpu};
use xml::Element;

const WORK: u64 = 1;
const LIBRARY: u64 = 2;

/// A program with a library.
fn session() -> Session {
    let mut guest = Guest::default();
    guest.file(
        b"/bin/work",
        Some(program(&[(0, b"main"), (0x100, b"crunch")])),
    );
    guest.file(b"/lib/libshare.so", Some(program(&[(0x80, b"_Z3mixi")])));
    let samples = [
        (WORK, TEXT + 0x10, 10),
        (WORK, TEXT + 0x110, 30),
        (WORK, TEXT + 0x118, 20),
        (LIBRARY, TEXT + 0x90, 40),
    ];
    Session::record(guest, &[vcpu(0, &samples)], &Account::default())
}

#[test]
fn xml_of_symbols_and_details_holds_every_sample() {
    let session = session();
    for arguments in [&[][..], &["-l"], &["-d"]] {
        let (stdout, stderr) = session.report(&[&["-X"], arguments].concat());
        assert_eq!(stderr, "");
        let document = Element::parse(&stdout);
        let profile = document.one("profile");
        assert_eq!(profile.attribute("schemaversion"), "3.1");
        let binary = profile.one("binary");
        assert_eq!(
            Path::new(binary.attribute("name")).file_name().unwrap(),
            "work"
        );
        // Its own; those of its libraries are told with them.
        assert_eq!(binary.count(), 60);
        let library = binary.one("module");
        assert!(library.attribute("name").ends_with("/lib/libshare.so"));
        assert_eq!(library.count(), 40);
        let names = profile.symbol_names();
        let symbols = binary.below("symbol");
        let mut counts: Vec<(&str, u64)> = symbols
            .iter()
            .map(|symbol| (&names[symbol.attribute("idref")][..], symbol.count()))
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, [("crunch", 50), ("main", 10), ("mix(int)", 40)]);
        if arguments == ["-d"] {
            let details = profile.one("detailtable").below("detaildata");
            let sum: u64 = details.iter().map(|detail| detail.count()).sum();
            assert_eq!((details.len(), sum), (4, 100));
        }
    }
}

#[test]
fn vcpus_are_classes_and_each_count_names_its_own() {
    let mut guest = Guest::default();
    guest.file(b"/bin/work", Some(program(&[(0, b"main")])));
    let reads = [vcpu(0, &[(WORK, TEXT, 3)]), vcpu(1, &[(WORK, TEXT, 5)])];
    let session = Session::record(guest, &reads, &Account::default());
    let document = Element::parse(&session.report(&["-X", "-l"]).0);
    let profile = document.one("profile");
    let classes: Vec<(&str, &str)> = profile
        .one("classes")
        .all("class")
        .iter()
        .map(|class| (class.attribute("name"), class.attribute("cpu")))
        .collect();
    assert_eq!(classes.len(), 2);
    let symbol = profile.below("symbol")[0];
    let mut counts: Vec<(&str, &str)> = Vec::new();
    for count in symbol.all("count") {
        let (_, cpu) = classes
            .iter()
            .find(|(name, _)| *name == count.attribute("class"))
            .unwrap();
        counts.push((cpu, count.text()));
    }
    assert_eq!(counts, [("0", "3"), ("1", "5")]);
}

#[test]
fn names_that_xml_cannot_hold_are_escaped() {
    let mut guest = Guest::default();
    let name = b"<a href=\"x\">&'\x01\xff";
    guest.file(b"/bin/<work>&\"", Some(program(&[(0, name)])));
    let session = Session::record(guest, &[vcpu(0, &[(WORK, TEXT, 3)])], &Account::default());
    for arguments in [["-X", "-l"], ["-X", "-d"], ["-X", "-c"]] {
        let (stdout, _) = session.report(&arguments);
        let document = Element::parse(&stdout);
        let profile = document.one("profile");
        let names: Vec<String> = profile.symbol_names().into_values().collect();
        assert_eq!(names, [r#"<a href="x">&'\x01\xff"#], "{stdout}");
        let binary = profile.one("binary").attribute("name");
        assert!(binary.ends_with("<work>&\""), "{binary}");
    }
}
