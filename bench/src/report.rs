//! What came out, as a table and as JSON.

use std::fmt;

use serde::Serialize;

use crate::jobs::Job;
use crate::machine::Machine;
use crate::measure::{Figure, RATIO};

/// A figure as it is told.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(skip_serializing_if = "str::is_empty")]
    job: &'static str,
    figure: String,
    unit: &'static str,
    median: f64,
    /// A tenth of the rounds is below.
    low: f64,
    /// A tenth of the rounds is above.
    high: f64,
    /// At most so much is the aim.
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<f64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    known: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

/// How a figure compares with its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Reached,
    /// The median is beyond the target, but a tenth of the rounds is not: neighbours were busy then, most likely.
    ReachedInQuietRounds,
    Missed,
}

impl Row {
    fn new(job: &'static str, figure: &Figure) -> Self {
        let median = figure.median();
        let low = figure.quantile(0.1);
        let verdict = figure.reach.map(|reach| match reach {
            reach if median <= reach => Verdict::Reached,
            // A ratio is as often too small as too large when a neighbour disturbs it.
            reach if low <= reach && figure.unit != RATIO => Verdict::ReachedInQuietRounds,
            _ => Verdict::Missed,
        });
        Self {
            job,
            figure: figure.name.clone(),
            unit: figure.unit,
            median,
            low,
            high: figure.quantile(0.9),
            reach: figure.reach,
            known: figure.known,
            verdict,
        }
    }

    fn cells(&self) -> [String; 7] {
        let verdict = match (self.verdict, self.reach) {
            (Some(Verdict::Reached), _) => "reached".to_owned(),
            (Some(Verdict::ReachedInQuietRounds), _) => "reached in quiet rounds".to_owned(),
            (Some(Verdict::Missed), Some(reach)) => {
                format!("MISSED, {} times that", short(self.median / reach))
            }
            _ => String::new(),
        };
        [
            self.job.to_owned(),
            self.figure.clone(),
            format!("{} {}", short(self.median), self.unit),
            format!("{}–{}", short(self.low), short(self.high)),
            self.reach
                .map_or_else(String::new, |reach| format!("≤ {}", short(reach))),
            self.known.to_owned(),
            verdict,
        ]
    }
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.2}"),
        10.0..1_000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    rounds: usize,
    machine: Vec<Row>,
    figures: Vec<Row>,
}

impl Report {
    /// The figures of `machine` and `jobs`.
    pub fn new(rounds: usize, machine: &Machine, jobs: &[Box<dyn Job>]) -> Self {
        let rows = |job: &'static str, figures: &[Figure]| -> Vec<Row> {
            figures.iter().map(|figure| Row::new(job, figure)).collect()
        };
        Self {
            rounds,
            machine: rows("", &machine.figures),
            figures: jobs
                .iter()
                .flat_map(|job| rows(job.name(), job.figures()))
                .collect(),
        }
    }
}

const HEAD: [&str; 7] = [
    "job",
    "figure",
    "median",
    "10–90 %",
    "reach",
    "known",
    "verdict",
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = vec![HEAD.map(str::to_owned)];
        table.extend(self.machine.iter().map(|row| {
            let mut cells = row.cells();
            "this machine".clone_into(&mut cells[0]);
            cells
        }));
        table.extend(self.figures.iter().map(Row::cells));
        let width = |column: usize| {
            let lengths = table.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        };
        let widths: [usize; HEAD.len()] = std::array::from_fn(width);
        let mut last_job = "";
        for (index, row) in table.iter().enumerate() {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let cell = match column {
                    0 if cell == last_job => "",
                    _ => cell,
                };
                match column {
                    0 => write!(f, "| {cell:width$}")?,
                    2..=4 => write!(f, " | {cell:>width$}")?,
                    _ => write!(f, " | {cell:width$}")?,
                }
            }
            writeln!(f, " |")?;
            last_job = &row[0];
            if index == 0 {
                let rules = widths.map(|width| "-".repeat(width + 2));
                writeln!(f, "|{}|", rules.join("|"))?;
            }
        }
        let missed = |row: &&Row| row.verdict == Some(Verdict::Missed);
        let aims = self.figures.iter().filter(|row| row.verdict.is_some());
        writeln!(
            f,
            "\n{} rounds; {} of {} targets missed",
            self.rounds,
            self.figures.iter().filter(missed).count(),
            aims.count()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: f64) -> Row {
        let mut figure = Figure::new("sync", "ns").reach(20.0).known("40");
        figure.add(value);
        Row::new("mixed", &figure)
    }

    #[test]
    fn a_missed_target_is_said_with_its_distance() {
        assert_eq!(row(20.0).cells()[6], "reached");
        assert_eq!(row(25.0).cells()[6], "MISSED, 1.25 times that");
    }

    #[test]
    fn neighbours_of_most_rounds_are_told_from_a_miss() {
        let mut figure = Figure::new("sync", "ns").reach(20.0);
        for value in [19.0, 19.0, 25.0, 26.0, 27.0] {
            figure.add(value);
        }
        let row = Row::new("mixed", &figure);
        assert_eq!(row.verdict, Some(Verdict::ReachedInQuietRounds));
    }

    #[test]
    fn json_has_the_same_figures_as_the_table() {
        let report = Report {
            rounds: 1,
            machine: Vec::new(),
            figures: vec![row(25.0)],
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["figures"][0]["median"], 25.0);
        assert_eq!(json["figures"][0]["verdict"], "missed");
        assert!(report.to_string().contains("1 of 1 targets missed"));
    }
}
