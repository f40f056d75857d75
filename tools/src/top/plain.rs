//! The table as lines, for scripts and for terminals without a cursor to move, and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::state::State;
use super::view;

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
    writeln!(out, "{}", view::account_line(state))?;
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
    };
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::snapshot;
    use super::super::state::Message;
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
}
