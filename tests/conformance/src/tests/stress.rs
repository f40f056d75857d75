//! Random scenarios of every family at once: none panics, and the final state agrees with itself and with the results.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::model::Op;
use crate::session::Session;
use crate::world::ScriptedWorld;

const CPUS: u16 = 2;
const TASKS: [u64; 3] = [101, 102, 103];
const TEXT: u64 = 0x40_0000;

/// Two processes and a kernel thread. The first two files are one directory entry.
fn session(auto_start: bool) -> Session<ScriptedWorld> {
    let vma = |start: u64, file: Option<usize>| json!({"start": start, "end": start + 0x2000, "pgoff": 1, "file": file, "exec": true});
    let scenario = json!({
        "config": {"cpus": CPUS, "online": [0, 1], "buffer_size": 64, "buffer_watershed": 8, "cpu_buffer_size": 12,
            "backtrace_depth": 0, "auto_start": auto_start},
        "files": [{"cookie": 0x1000, "path": "/bin/a"}, {"cookie": 0x1000, "path": "/mnt/a"},
            {"cookie": u64::MAX, "path": "/lib/b", "deleted": true}],
        "mms": [{"id": 1, "exe": 0, "vmas": [vma(TEXT, Some(0)), vma(2 * TEXT, None)]},
            {"id": 2, "exe": null, "vmas": [vma(TEXT, Some(1)), vma(2 * TEXT, Some(2))]}],
        "tasks": [{"id": TASKS[0], "pid": 1, "tgid": 1, "mm": 1}, {"id": TASKS[1], "pid": 2, "tgid": 2, "mm": 2},
            {"id": TASKS[2], "pid": 3, "tgid": 3, "mm": null, "kthread": true}],
        "ops": [],
        "expected": {"results": [], "final": {}},
    });
    let scenario: crate::model::Scenario = serde_json::from_value(scenario).unwrap();
    let (files, mms, tasks) = (scenario.files, scenario.mms, scenario.tasks);
    Session::new(
        &scenario.config,
        ScriptedWorld::new(files, mms, tasks).unwrap(),
    )
    .unwrap()
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(vec![
            "enable", "dump", "buffer", "buffer_size", "buffer_watershed", "cpu_buffer_size", "cpu_type",
            "backtrace_depth", "pointer_size", "time_slice", "stats/cpu1/sample_received", "stats/bt_lost_no_mapping",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (0u64..100).prop_map(|number| number.to_string()),
        1 => "(0x)?[0-9a-f]{0,20}",
        1 => any::<String>(),
    ]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..0x3000).prop_map(|offset| TEXT + offset),
        2 => (0u64..0x3000).prop_map(|offset| 2 * TEXT + offset),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ]
}

/// Operations that are about the control files.
fn file_op() -> impl Strategy<Value = Value> {
    let hook = select(vec![
        "setup",
        "start",
        "switch_events",
        "sync_start",
        "sync_stop",
        "backtrace",
        "capable",
    ]);
    prop_oneof![
        6 => Just(json!({"op": "open"})),
        2 => Just(json!({"op": "close"})),
        5 => Just(json!({"op": "start"})),
        2 => Just(json!({"op": "stop"})),
        2 => Just(json!({"op": "dump"})),
        1 => Just(json!({"op": "fs_list"})),
        5 => Just(json!({"op": "read"})),
        1 => (any::<u64>(), 0u64..2).prop_map(|(count, offset)| json!({"op": "read", "count": count, "offset": offset})),
        6 => (0u64..250).prop_map(|jiffies| json!({"op": "tick", "jiffies": jiffies})),
        3 => (path(), prop_oneof![4 => Just(0), 1 => any::<u64>()])
            .prop_map(|(path, offset)| json!({"op": "fs_read", "path": path, "offset": offset})),
        5 => (path(), text(), prop_oneof![9 => Just(0), 1 => any::<u64>()])
            .prop_map(|(path, text, offset)| json!({"op": "fs_write", "path": path, "text": text, "offset": offset})),
        2 => (select(vec![0, 0x1000, u64::MAX]), 0u64..30)
            .prop_map(|(cookie, len)| json!({"op": "lookup", "cookie": cookie, "len": len})),
        1 => (hook, select(vec![0, 0, 0, 1, 1, -12])).prop_map(|(name, value)| json!({"op": "hook", "name": name, "value": value})),
    ]
}

/// Operations that are about the machine. Each task is freed once at most: the caller sees to it.
fn machine_op() -> impl Strategy<Value = Value> {
    let task = || select(TASKS.to_vec());
    let cpu = 0..CPUS;
    let frames = || prop::collection::vec(address(), 0..5);
    let stack = prop::collection::vec(prop_oneof![0x1000u64..0x1060, address()], 0..12);
    prop_oneof![
        8 => (cpu.clone(), task(), any::<bool>(), address(), frames()).prop_map(|(cpu, task, user, pc, trace)| {
            json!({"op": "sample", "cpu": cpu, "task": task, "user": user, "pc": pc, "event": 0, "trace": trace})
        }),
        3 => (cpu.clone(), task(), any::<[bool; 2]>(), 0x0ff8u64..0x1060, stack, frames()).prop_map(
            |(cpu, task, [user, ia32], bp, stack, kernel_trace)| {
                let memory = [&[0x1000], &stack[..]].concat();
                json!({"op": "x86_sample", "cpu": cpu, "task": task, "user": user, "ip": TEXT, "bp": bp, "event": 0,
                    "ia32": ia32, "memory": [memory], "kernel_trace": kernel_trace})
            }
        ),
        2 => (cpu.clone(), task(), address(), 0usize..9).prop_map(|(cpu, task, pc, size)| {
            json!({"op": "data_sample", "cpu": cpu, "task": task, "user": true, "pc": pc, "code": 13, "size": size,
                "adds": [["u64", pc], ["word", 1]]})
        }),
        2 => (any::<[bool; 4]>(), 0u32..128, any::<[u64; 2]>()).prop_map(|([fetch, op, rand, target], caps, counts)| {
            json!({"op": "ibs_setup", "caps": caps, "fetch_enable": u64::from(fetch), "op_enable": u64::from(op),
                "max_cnt_fetch": counts[0], "max_cnt_op": counts[1], "rand_enable": u64::from(rand),
                "dispatched_ops": u64::from(rand), "branch_target": u64::from(target)})
        }),
        1 => Just(json!({"op": "ibs_start"})),
        1 => Just(json!({"op": "ibs_stop"})),
        2 => (cpu.clone(), task(), address()).prop_map(|(cpu, task, pc)| {
            json!({"op": "ibs_nmi", "cpu": cpu, "task": task, "user": true,
                "msrs": [[0xc001_1030u32, u64::MAX], [0xc001_1031u32, pc], [0xc001_1033u32, u64::MAX], [0xc001_1034u32, pc]]})
        }),
        3 => cpu.clone().prop_map(|cpu| json!({"op": "sync", "cpu": cpu})),
        1 => (cpu.clone(), task()).prop_map(|(cpu, task)| json!({"op": "task_exit", "cpu": cpu, "task": task})),
        1 => (cpu.clone(), task(), address())
            .prop_map(|(cpu, task, addr)| json!({"op": "munmap", "cpu": cpu, "task": task, "addr": addr})),
        1 => Just(json!({"op": "module", "state": "coming"})),
        2 => Just(json!({"op": "task_free", "task": 0})),
        2 => prop::collection::vec(cpu.clone(), 0..3).prop_map(|cpus| json!({"op": "set_online", "cpus": cpus})),
        1 => (0usize..3).prop_map(|file| json!({"op": "mark_deleted", "file": file})),
        2 => cpu.prop_map(|cpu| json!({"op": "inc_lost", "cpu": cpu})),
    ]
}

/// What results say of the state.
#[derive(Default)]
struct Told {
    opened: bool,
    list: Option<Value>,
    buried: BTreeSet<u64>,
    freed: BTreeSet<u64>,
}

impl Told {
    /// Executes `op`, and checks its result against what has been told.
    fn execute(&mut self, session: &mut Session<ScriptedWorld>, mut op: Value) {
        let name = op["op"].as_str().unwrap().to_owned();
        if name == "task_free" {
            let next = 1_000 + self.buried.len() as u64;
            self.buried.insert(next);
            op["task"] = json!(next);
        }
        let was_started = session.end()["started"] == 1;
        let parsed: Op = serde_json::from_value(op.clone()).unwrap();
        let result = session.execute(&parsed).unwrap();
        for task in result["freed"].as_array().into_iter().flatten() {
            let task = task.as_u64().unwrap();
            assert!(self.buried.contains(&task), "{task} is alive");
            assert!(self.freed.insert(task), "{task} is freed twice");
        }
        match &name[..] {
            "open" if result["rc"] == 0 => {
                assert!(!self.opened);
                self.opened = true;
            }
            "close" => {
                assert_eq!(result["rc"] == 0, self.opened);
                self.opened = false;
            }
            "fs_list" => {
                let list = self.list.get_or_insert_with(|| result["files"].clone());
                assert_eq!(*list, result["files"]);
            }
            "fs_write" if result["rc"] == -16 => assert!(was_started, "busy while stopped: {op}"),
            "lookup" if result["path"].is_string() => {
                assert!(self.opened);
                let length = result["path"].as_str().unwrap().len() as u64 + 1;
                assert_eq!(result["rc"], length);
                assert!(length <= op["len"].as_u64().unwrap());
            }
            _ => {}
        }
    }

    /// Checks a state against what has been told, and against itself.
    fn check(&self, end: &Value) {
        let number = |value: &Value| value.as_u64().unwrap();
        let length = |value: &Value| value.as_array().unwrap().len();
        assert_eq!(end["opened"] == 1, self.opened);
        assert!(end["started"] == 0 || self.opened);
        assert_eq!(end["dcookies"].is_array(), self.opened);
        if !self.opened {
            assert_eq!(length(&end["pending"]), 0);
            assert!(
                end["rings"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|ring| length(ring) == 0)
            );
        }
        let waiting = length(&end["dying"]) + length(&end["dead"]);
        assert_eq!(self.freed.len() + waiting, self.buried.len());
        for cpu in end["cpus"].as_array().unwrap() {
            assert!(number(&cpu["sample_invalid_eip"]) <= number(&cpu["sample_received"]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_scenario_runs_and_agrees_with_itself(
        ops in prop::collection::vec(prop_oneof![file_op(), machine_op()], 0..100), auto_start: bool)
    {
        let mut session = session(auto_start);
        let mut told = Told { opened: auto_start, ..Told::default() };
        for op in ops {
            told.execute(&mut session, op);
            told.check(&session.end());
        }
    }

    /// Close and open again, and everything is as it was at the first time, whatever happened in between.
    #[test]
    fn a_session_after_any_other_is_like_the_first(
        ops in prop::collection::vec(prop_oneof![file_op(), machine_op()], 0..60))
    {
        let fresh = || [
            json!({"op": "fs_write", "path": "buffer_size", "text": "64"}),
            json!({"op": "fs_write", "path": "buffer_watershed", "text": "8"}),
            json!({"op": "fs_write", "path": "cpu_buffer_size", "text": "12"}),
            json!({"op": "fs_write", "path": "backtrace_depth", "text": "2"}),
            json!({"op": "fs_write", "path": "time_slice", "text": "7"}),
            json!({"op": "open"}),
            json!({"op": "start"}),
            json!({"op": "sample", "cpu": 0, "task": TASKS[0], "user": true, "pc": TEXT, "event": 0, "trace": [TEXT, 5]}),
            json!({"op": "sample", "cpu": 1, "task": TASKS[2], "user": false, "pc": 1, "event": 0}),
            json!({"op": "tick", "jiffies": 150}),
            json!({"op": "lookup", "cookie": 0x1000, "len": 100}),
            json!({"op": "dump"}),
            json!({"op": "read"}),
        ];
        let run = |session: &mut Session<ScriptedWorld>| -> Vec<Value> {
            let parse = |op| serde_json::from_value::<Op>(op).unwrap();
            fresh().map(parse).iter().map(|op| session.execute(op).unwrap()).collect()
        };
        let mut first = session(false);
        let expected = (run(&mut first), first.end());
        prop_assert!(expected.0.last().is_some_and(|read| read["words"].as_array().is_some_and(|words| words.len() > 20)));
        let mut later = session(false);
        let mut told = Told::default();
        for op in ops {
            // An unlinked file stays so.
            if op["op"] != "mark_deleted" {
                told.execute(&mut later, op);
            }
        }
        for (name, value) in [("setup", 0), ("start", 0), ("switch_events", 0), ("sync_start", 1), ("sync_stop", 1), ("backtrace", 1), ("capable", 1)] {
            told.execute(&mut later, json!({"op": "hook", "name": name, "value": value}));
        }
        told.execute(&mut later, json!({"op": "set_online", "cpus": [0, 1]}));
        // One more session, properly closed: a driver that stopped the syncs by itself has left the dead waiting.
        told.execute(&mut later, json!({"op": "stop"}));
        for (path, text) in [("buffer_size", "64"), ("buffer_watershed", "8")] {
            told.execute(&mut later, json!({"op": "fs_write", "path": path, "text": text}));
        }
        for op in ["open", "close"] {
            told.execute(&mut later, json!({"op": op}));
        }
        let actual = (run(&mut later), later.end());
        prop_assert_eq!(actual, expected);
    }
}
