//! The table as lines, for scripts and for terminals without a cursor to move, and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::state::State;
use super::view;
use super::vm::{Figure, Rate, Vcpu};

/// Name and version of the schema; a change that breaks readers counts it up.
const SCHEMA: &str = "virtio-oprofile-top/1";

/// Writes the heading, the account, the vCPUs and the first `limit` rows.
pub fn write(state: &State, limit: usize, out: &mut dyn Write) -> io::Result<()> {
    let total = state.snapshot.total();
    writeln!(
        out,
        "{total} samples, sorted by {}{}",
        state.sort.title(),
        if state.reverse { ", reversed" } else { "" }
    )?;
    for line in view::account_lines(state, 0) {
        writeln!(out, "{line}")?;
    }
    for bar in view::bars(state) {
        writeln!(out, "{bar}")?;
    }
    writeln!(
        out,
        "{:>10} {:>5} {:>8} {:<16} {:<18} {:<14} function",
        "samples", "%", "recent", "vCPU", "image", "program"
    )?;
    let rows = state.rows();
    for row in rows.iter().take(limit) {
        writeln!(
            out,
            "{:>10} {:>5} {:>8} {:<16} {:<18} {:<14} {}",
            row.samples,
            view::percent(row.samples, total),
            state.recent(row),
            view::shades(row),
            row.key.image,
            row.key.program,
            row.key.function
        )?;
    }
    match rows.len().saturating_sub(limit) {
        0 => Ok(()),
        more => writeln!(
            out,
            "({more} more functions; --lines says how many to show)"
        ),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    total: u64,
    lost: u64,
    account: BTreeMap<&'a str, u64>,
    vcpus: &'a [String],
    samples_by_vcpu: Vec<u64>,
    functions: Vec<Function<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<VmDocument<'a>>,
}

/// What the VM says; only there when it was asked.
#[derive(Serialize)]
struct VmDocument<'a> {
    ended: Option<&'a str>,
    started: bool,
    received: Counted,
    lost: Counted,
    losses: Vec<Counted>,
    vcpus: Vec<VcpuDocument>,
}

#[derive(Serialize)]
struct Counted {
    name: &'static str,
    value: u64,
    per_second: Option<f64>,
}

#[derive(Serialize)]
struct VcpuDocument {
    received: u64,
    lost: u64,
    per_second: Option<f64>,
}

impl From<Figure> for Counted {
    fn from(figure: Figure) -> Self {
        Self {
            name: figure.name,
            value: figure.value,
            per_second: per_second(figure.rate),
        }
    }
}

fn per_second(rate: Rate) -> Option<f64> {
    rate.map(|tenths| tenths as f64 / 10.0)
}

fn vm_document(state: &State) -> Option<VmDocument<'_>> {
    let vm = state.vm.as_ref()?;
    let vcpu = |vcpu: Vcpu| VcpuDocument {
        received: vcpu.received,
        lost: vcpu.lost,
        per_second: per_second(vcpu.rate),
    };
    Some(VmDocument {
        ended: state.vm_ended.as_deref(),
        started: vm.status().started,
        received: vm.received().into(),
        lost: vm.lost().into(),
        losses: vm.losses().into_iter().map(Counted::from).collect(),
        vcpus: vm.vcpus().into_iter().map(vcpu).collect(),
    })
}

#[derive(Serialize)]
struct Function<'a> {
    function: &'a str,
    image: &'a str,
    program: &'a str,
    samples: u64,
    recent: u64,
    by_vcpu: &'a [u64],
}

/// Writes the first `limit` rows as a JSON document in one line. `total` counts the rows left out, too.
pub fn write_json(state: &State, limit: usize, out: &mut dyn Write) -> io::Result<()> {
    let snapshot = &state.snapshot;
    let document = Document {
        schema: SCHEMA,
        total: snapshot.total(),
        lost: snapshot.lost(),
        account: snapshot
            .account
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect(),
        vcpus: &snapshot.vcpus,
        samples_by_vcpu: snapshot.by_vcpu(),
        functions: state
            .rows()
            .into_iter()
            .take(limit)
            .map(|row| Function {
                function: &row.key.function,
                image: &row.key.image,
                program: &row.key.program,
                samples: row.samples,
                recent: state.recent(row),
                by_vcpu: &row.by_vcpu,
            })
            .collect(),
        vm: vm_document(state),
    };
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::snapshot;
    use super::super::state::Message;
    use super::super::vm::tests::look;
    use super::*;

    fn started() -> State {
        let mut state = State::default();
        state.update(Message::Snapshot(Box::new(snapshot())));
        state
    }

    #[test]
    fn rows_left_out_are_told() {
        let mut text = Vec::new();
        write(&started(), 1, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "1000 samples, sorted by samples");
        assert_eq!(
            lines[5],
            "       850  85.0      850 *-               calc               calc           std::vector<int; 3>::at(\"&\")"
        );
        assert!(lines[6].contains("2 more functions"));
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn json_is_one_line_with_the_whole_account() {
        let mut text = Vec::new();
        write_json(&started(), usize::MAX, &mut text).unwrap();
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        assert_eq!(
            (&value["total"], &value["lost"]),
            (&1000.into(), &30.into())
        );
        assert_eq!(value["account"]["raced"], 0);
        let functions = value["functions"].as_array().unwrap();
        let sum: u64 = functions
            .iter()
            .map(|f| f["samples"].as_u64().unwrap())
            .sum();
        assert_eq!(sum, 1000);
    }
    #[test]
    fn the_vm_is_in_the_document_when_it_was_asked() {
        let document = |state: &State| -> serde_json::Value {
            let mut text = Vec::new();
            write_json(state, 1, &mut text).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        let mut state = started();
        assert_eq!(document(&state).get("vm"), None);
        state.update(Message::Look(look(0, [5, 5], &[("raced", 1)])));
        let first = document(&state);
        let unknown = serde_json::json!({"name": "received", "value": 10, "per_second": null});
        assert_eq!(first["vm"]["received"], unknown);
        state.update(Message::Look(look(1, [6, 5], &[("raced", 2)])));
        let second = document(&state);
        let raced = serde_json::json!([{"name": "raced", "value": 2, "per_second": 2.0}]);
        assert_eq!(second["vm"]["losses"], raced);
        assert_eq!(second["vm"]["vcpus"][0]["per_second"], 2.0);
        assert_eq!(second["vm"]["ended"], serde_json::Value::Null);
    }

    #[test]
    fn each_loss_has_a_line() {
        let mut state = started();
        state.update(Message::Look(look(
            0,
            [5, 5],
            &[("raced", 1), ("no_mm", 0)],
        )));
        let mut text = Vec::new();
        write(&state, 1, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1..4],
            [
                "VM, profiling runs: received 10, lost 1",
                "  no_mm 0",
                "  raced 1"
            ]
        );
    }
}
