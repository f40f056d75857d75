//! The vectors with their guests in RAM, and what cannot be there.

use oprofile_device::sync::World;
use oprofile_device::test_utils::SyntheticGuest;
use oprofile_wire::layout::Field;

use super::*;

/// Exact counts, so that none is skipped or lost silently.
#[test]
fn every_vector_passes_in_every_shape() {
    let report = run_dir_via_ram(&vectors()).unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(
        (report.passed(), report.skipped()),
        (24 * 71, 0),
        "{report}"
    );
    let text = report.to_string();
    assert!(text.contains("\ntiny kernel, list, 5 levels, 1 GiB pages: 71 passed, "));
    assert!(text.ends_with("\n1704 passed, 0 failed, 0 skipped"));
}

/// What a vector with one value changed comes to, in the first shape.
fn changed_in_ram(name: &str, pointer: &str, value: Value) -> Outcome {
    let text = fs::read(vectors().join(name)).unwrap();
    let mut scenario: Value = serde_json::from_slice(&text).unwrap();
    *scenario.pointer_mut(pointer).unwrap() = value;
    let text = serde_json::to_vec(&scenario).unwrap();
    run_text(&text, RamShape::all().next()).unwrap()
}

#[test]
fn what_ram_cannot_hold_is_skipped_with_the_reason() {
    let vma = |start: u64, end: u64| json!({"start": start, "end": end, "pgoff": 0, "file": 0, "exec": true});
    let many: Vec<_> = (1..40_000)
        .map(|page| vma(page << 12, (page + 1) << 12))
        .collect();
    for (pointer, value, reason) in [
        ("/files/1/cookie", json!(0x1000), "share a cookie"),
        ("/files/0/path", json!("memfd:x"), "directory tree"),
        ("/files/0/path", json!("/a//b"), "directory tree"),
        (
            "/files/0/path",
            json!("/".to_owned() + &"n".repeat(256)),
            "directory tree",
        ),
        ("/files/0/path", json!("/n".repeat(2_049)), "directory tree"),
        (
            "/mms/0/vmas",
            json!([vma(2, 3), vma(1, 2)]),
            "do not ascend",
        ),
        ("/mms/0/vmas", json!([vma(1, 3), vma(2, 4)]), "overlap"),
        ("/mms/0/vmas", json!([vma(3, 3)]), "empty"),
        (
            "/mms/0/vmas",
            json!([vma(1 << 46, 1 << 63)]),
            "kernel's half",
        ),
        ("/mms/0/vmas", json!(many), "more RAM"),
    ] {
        let file = "user_sample_file_mapping.json";
        let files = fs::read(vectors().join(file)).unwrap();
        let scenario: Value = serde_json::from_slice(&files).unwrap();
        let value = match pointer {
            "/files/1/cookie" => scenario["files"][0]["cookie"].clone(),
            _ => value,
        };
        match changed_in_ram(file, pointer, value) {
            Outcome::Skipped(told) => assert!(told.contains(reason), "{pointer}: {told}"),
            outcome => panic!("{pointer}: {outcome:?}"),
        }
    }
}

#[test]
fn a_wrong_result_is_told_in_ram_as_well() {
    let outcome = changed_in_ram(
        "user_sample_no_mm_lost.json",
        "/expected/final/stats/sample_lost_no_mm",
        json!(7),
    );
    let difference = "final.stats.sample_lost_no_mm: expected 7, got 2";
    assert_eq!(outcome, Outcome::Failed(vec![difference.to_owned()]));
}

/// A process with a file and a region without one, in RAM.
fn guest(shape: RamShape) -> RamGuest {
    let vma = |start: u64, file: Option<usize>| json!({"start": start, "end": start + 0x2000, "pgoff": 1, "file": file, "exec": true});
    let scenario = json!({
        "config": {"cpus": 1, "online": [0], "buffer_size": 64, "buffer_watershed": 8, "cpu_buffer_size": 12,
            "backtrace_depth": 0, "auto_start": true},
        "files": [{"cookie": 7, "path": "/bin/a"}],
        "mms": [{"id": 1, "exe": 0, "vmas": [vma(0x1000, Some(0)), vma(0x8000, None)]}],
        "tasks": [{"id": 5, "pid": 1, "tgid": 1, "mm": 1}],
        "ops": [],
        "expected": {"results": [], "final": {}},
    });
    let scenario: Scenario = serde_json::from_value(scenario).unwrap();
    assert_eq!(crate::ram::misfit(&scenario), None);
    let script = ScriptedWorld::new(scenario.files, scenario.mms, scenario.tasks).unwrap();
    RamGuest::new(script, shape)
}

/// Asks for both mappings and the main program.
fn ask(guest: &mut RamGuest) {
    let mut world = guest.world();
    let mm = world.task(5).unwrap().mm.unwrap();
    world.exe_cookie(mm);
    world.lookup(mm, 0x1800);
    world.lookup(mm, 0x8800);
}

#[test]
fn answers_come_from_ram_and_other_ones_than_the_scenarios_are_told() {
    // What is changed, given a task and a file.
    type Spoil = fn(&mut SyntheticGuest, u64, u64);
    const FILE: &str = "a file that the scenario has not";
    let spoils: [(Spoil, &str); 5] = [
        (
            |ram, _, file| {
                let dentry = ram.get(file, Field::FileDentry);
                ram.set_name(dentry, b"b");
            },
            FILE,
        ),
        (
            |ram, _, file| {
                let inode = ram.get(file, Field::FileInode);
                ram.set(inode, Field::InodeNumber, 1 << 40);
            },
            FILE,
        ),
        (
            |ram, _, file| ram.mark_deleted(ram.get(file, Field::FileDentry)),
            FILE,
        ),
        (
            |ram, task, _| ram.set_task_ids(task, 1, 2),
            "a region that the scenario has not",
        ),
        (
            |ram, task, _| ram.set_task_mm(task, ram.init_task() + (1 << 40)),
            "no answer",
        ),
    ];
    for shape in RamShape::all() {
        let mut good = guest(shape);
        ask(&mut good);
        assert_eq!(good.contradictions(), [""; 0]);
        for (spoil, told) in spoils {
            let mut bad = guest(shape);
            bad.spoil(spoil);
            ask(&mut bad);
            let all = bad.contradictions().join("\n");
            assert!(all.contains(told), "{shape}: {all}");
        }
    }
}
