//! The vectors of this repository, and files that are wrong on purpose.

mod ram;
mod stress;

use super::*;
use serde_json::json;
use std::collections::BTreeMap;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn family(path: &Path) -> String {
    let scenario: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    scenario["family"].as_str().unwrap().to_owned()
}

/// Exact counts, so that none is skipped or lost silently.
#[test]
fn every_vector_of_every_family_passes() {
    let report = run_dir(&vectors()).unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    let mut passed: BTreeMap<String, usize> = BTreeMap::new();
    for file in &report.files {
        if file.outcome == Outcome::Passed {
            *passed.entry(family(&file.path)).or_default() += 1;
        }
    }
    let expected = [
        ("ibs", 2),
        ("inject", 2),
        ("lifecycle", 9),
        ("raw", 41),
        ("writer", 13),
        ("x86bt", 4),
    ]
    .map(|(name, count)| (name.to_owned(), count));
    assert_eq!(passed, BTreeMap::from(expected));
    assert_eq!(report.skipped(), 0, "{report}");
}

/// A vector with one value changed, which must fail with a difference that names the place.
fn changed(name: &str, pointer: &str, value: Value) -> Vec<String> {
    let text = fs::read(vectors().join(name)).unwrap();
    let mut scenario: Value = serde_json::from_slice(&text).unwrap();
    *scenario.pointer_mut(pointer).unwrap() = value;
    match run_text(&serde_json::to_vec(&scenario).unwrap(), None) {
        Ok(Outcome::Failed(differences)) => differences,
        Ok(outcome) => panic!("{outcome:?}"),
        Err(error) => vec![with_causes(&error)],
    }
}

#[test]
fn a_wrong_result_is_told_with_its_place() {
    let differences = changed(
        "dump_empty_read_returns_zero.json",
        "/expected/results/0/woke",
        json!(2),
    );
    assert_eq!(differences, ["results[0].woke: expected 2, got 1"]);
}

#[test]
fn a_wrong_final_counter_is_told() {
    let differences = changed(
        "user_sample_no_mm_lost.json",
        "/expected/final/stats/sample_lost_no_mm",
        json!(u64::MAX),
    );
    assert_eq!(
        differences,
        ["final.stats.sample_lost_no_mm: expected 18446744073709551615, got 2"]
    );
}

#[test]
fn wrong_results_of_the_other_families_are_told() {
    for (name, pointer, value, difference) in [
        (
            "fs_number_parsing.json",
            "/expected/results/1/text",
            json!("4097\n"),
            "results[1].text: expected \"4097\\n\", got \"4096\\n\"",
        ),
        (
            "workqueue_timing.json",
            "/ops/8/jiffies",
            json!(0),
            "results[10].words: expected 17 items, got 0",
        ),
        (
            "ibs_fetch_and_op.json",
            "/expected/results/2/wrmsr/1/1",
            json!(146_634),
            "results[2].wrmsr[1][1]: expected 146634, got 146633",
        ),
        (
            "x86bt_user_ia32.json",
            "/ops/0/bp",
            json!(32_776),
            "results[1].ring: expected 5 items, got 4",
        ),
    ] {
        let told = changed(name, pointer, value);
        assert!(told.contains(&difference.to_owned()), "{name}: {told:?}");
    }
}

#[test]
fn internal_state_is_not_compared() {
    let text = fs::read(vectors().join("sync_empty_buffer.json")).unwrap();
    let mut scenario: Value = serde_json::from_slice(&text).unwrap();
    scenario["expected"]["final"]["internal"]["pos"] = json!(12345);
    let outcome = run_text(&serde_json::to_vec(&scenario).unwrap(), None).unwrap();
    assert_eq!(outcome, Outcome::Passed);
}

#[test]
fn scenarios_that_contradict_themselves_fail() {
    let file = "task_exit_syncs_current_cpu.json";
    for (pointer, value, message) in [
        ("/schema", json!(2), "Schema 2"),
        ("/expected/results", json!([]), "0 expected results"),
        ("/config/cpus", json!(2000), "2000 CPUs"),
        ("/config/online", json!([7]), "no CPU 7"),
        (
            "/config/buffer_size",
            json!(1u64 << 60),
            "exceeds the limit",
        ),
        (
            "/config/buffer_watershed",
            json!(4096),
            "auto_start is refused: The operation or value is not valid",
        ),
        ("/mms/0/exe", json!(9), "no file 9"),
        ("/tasks/0/mm", json!(9), "no mm 9"),
        ("/tasks/0/pid", json!(-1), "Not a scenario: "),
        ("/family", json!("other"), "Not a scenario: "),
        ("/ops/0", json!({"op": "fly"}), "Not a scenario: "),
        (
            "/ops/0",
            json!({"op": "dump", "extra": 1}),
            "Not a scenario: ",
        ),
        ("/ops/0", json!({"op": "sync", "cpu": 9}), "no CPU 9"),
        (
            "/ops/0",
            json!({"op": "tick", "jiffies": u64::MAX}),
            "too many at once",
        ),
        (
            "/ops/0",
            json!({"op": "hook", "name": "none", "value": 0}),
            "Not a scenario: ",
        ),
        (
            "/ops/0",
            json!({"op": "ibs_nmi", "cpu": 9, "task": 1, "user": true, "msrs": []}),
            "no CPU 9",
        ),
        (
            "/ops/0",
            json!({"op": "x86_sample", "cpu": 0, "task": 1, "user": true, "ip": 1, "bp": 1, "event": 0,
                "ia32": false, "memory": [[]], "kernel_trace": []}),
            "begins with its address",
        ),
        (
            "/ops/0",
            json!({"op": "x86_sample", "cpu": 0, "task": 1, "user": true, "ip": 1, "bp": 1, "event": 0,
                "ia32": false, "memory": [], "kernel_trace": [], "extra": 1}),
            "Not a scenario: ",
        ),
        (
            "/ops/0",
            json!({"op": "entries", "cpu": 0, "entries": [[1]]}),
            "at least two words",
        ),
        (
            "/ops/0",
            json!({"op": "set_kthread", "task": 1, "kthread": true}),
            "no task 1",
        ),
        (
            "/ops/0",
            json!({"op": "put_buff", "buf": [1], "start": 0, "stop": 1, "max": 1}),
            "does not lie",
        ),
        (
            "/ops/0",
            json!({"op": "sync", "cpu": 0, "inject": [{"at": -1, "do": {"op": "dump"}}]}),
            "injected",
        ),
    ] {
        let told = changed(file, pointer, value).join("\n");
        assert!(told.contains(message), "{pointer}: {told}");
    }
}

#[test]
fn a_file_that_is_no_json_fails_and_the_others_run() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.json"), "{\"schema\": 1,").unwrap();
    fs::write(folder.path().join("b.txt"), "no scenario").unwrap();
    fs::copy(
        vectors().join("sync_empty_buffer.json"),
        folder.path().join("c.json"),
    )
    .unwrap();
    let report = run_dir(folder.path()).unwrap();
    assert_eq!(
        (report.passed(), report.failed(), report.skipped()),
        (1, 1, 0)
    );
    assert!(
        report
            .to_string()
            .ends_with("1 passed, 1 failed, 0 skipped")
    );
}

#[test]
fn a_folder_without_scenarios_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(run_dir(folder.path()), Err(Error::Empty(_))));
    assert!(matches!(
        run_dir(&folder.path().join("gone")),
        Err(Error::Folder { .. })
    ));
}
