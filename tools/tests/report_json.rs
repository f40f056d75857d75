//! `opreport --json`: what a script reads.

#[allow(
    dead_code,
    reason = "the other tests of this crate need the rest of the guest"
)]
mod support;

use oprofile_session::Account;
use serde_json::{Value, json};

use support::{Guest, Session, TEXT, program, vcpu};

/// A program with a mangled, a strange and a plain name, and a library, on two vCPUs.
fn session() -> Session {
    let mut guest = Guest::default();
    let functions: [(u64, &[u8]); 3] = [
        (0, b"main"),
        (0x100, b"_RNvC4work6crunch"),
        (0x200, b"odd\xff\x1b"),
    ];
    let work = guest.file(b"/bin/work", Some(program(&functions)));
    let library = guest.file(b"/lib/libx.so", Some(program(&[(0, b"inner")])));
    let reads = [
        vcpu(
            0,
            &[
                (work, TEXT + 0x10, 10),
                (work, TEXT + 0x120, 50),
                (library, TEXT + 8, 15),
            ],
        ),
        vcpu(1, &[(work, TEXT + 0x100, 5), (work, TEXT + 0x200, 20)]),
    ];
    Session::record(guest, &reads, &Account::default())
}

#[track_caller]
fn report(session: &Session, arguments: &[&str]) -> Value {
    let (stdout, stderr) = session.report(&[&["--json"], arguments].concat());
    assert_eq!(stderr, "");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn programs_have_counts_by_class() {
    assert_eq!(
        report(&session(), &[]),
        json!({
            "schema": "virtio-oprofile-report/1",
            "cpu": {"name": "CPU with timer interrupt", "mhz": null},
            "classes": [
                {"event": "TIMER", "count": 0, "unit_mask": 0, "vcpu": 0, "tgid": null, "tid": null},
                {"event": "TIMER", "count": 0, "unit_mask": 0, "vcpu": 1, "tgid": null, "tid": null},
            ],
            "total": [75, 25],
            "programs": [{
                "name": "/bin/work",
                "counts": [75, 25],
                "percents": [100.0, 100.0],
                "images": [
                    {"name": "/bin/work", "counts": [60, 25], "percents": [80.0, 100.0]},
                    {"name": "/lib/libx.so", "counts": [15, 0], "percents": [20.0, 0.0]},
                ],
            }],
        })
    );
}

#[test]
fn symbols_have_addresses_and_names_without_control_characters() {
    let report = report(&session(), &["-l", "--merge=cpu", "--threshold=12"]);
    assert_eq!(report["total"], json!([100]));
    assert_eq!(report["classes"][0]["vcpu"], Value::Null);
    let row = |symbol: &str, linkage: &str, image: &str, address: u64, count: u64| {
        json!({
            "symbol": symbol, "linkage_name": linkage, "image": image, "program": "/bin/work",
            "address": address, "counts": [count], "percents": [count as f64],
        })
    };
    let expected = [
        row(
            "work::crunch",
            "_RNvC4work6crunch",
            "/bin/work",
            0x40_0100,
            55,
        ),
        row(r"odd\xff\x1b", r"odd\xff\x1b", "/bin/work", 0x40_0200, 20),
        row("inner", "inner", "/lib/libx.so", 0x40_0000, 15),
    ];
    assert_eq!(report["symbols"], json!(expected));
}

#[test]
fn details_are_of_the_symbol_or_of_all() {
    let session = session();
    let details = |arguments: &[&str]| {
        let report = report(&session, &[&["-d", "-m", "cpu"], arguments].concat());
        report["symbols"][0]["details"].clone()
    };
    let position = |offset: u64, count: u64, percent: f64| json!({"address": 0x40_0100 + offset, "counts": [count], "percents": [percent]});
    let of_all = [position(0, 5, 5.0), position(0x20, 50, 50.0)];
    assert_eq!(details(&["--global-percent"]), json!(of_all));
    let of_symbol = details(&[]);
    assert_eq!(of_symbol[1]["counts"], json!([50]));
    assert_eq!(of_symbol[1]["percents"], json!([5000.0 / 55.0]));
}

#[test]
fn what_has_no_place_in_the_schema_is_refused() {
    let session = session();
    for arguments in [
        &["-c"][..],
        &["-X"],
        &["-l", "-a"],
        &["-l", "{", "event:TIMER", "}", "{", "}"],
    ] {
        let output = session.try_report(&[&["--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("--json"), "{stderr}");
    }
}
