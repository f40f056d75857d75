//! The tables as JSON, for scripts. docs/opreport.md states the schema.

use std::io;

use oprofile_session::sample_path::SampleSpec;
use serde::Serialize;
use serde::ser::Serializer;
use serde_json::Value;

use super::banner::{Banner, ClassEvent};
use super::numbers::reaches;
use super::summary::{AppCounts, Programs};
use super::{Options, Sink};
use crate::error::ToolError;
use crate::lines::SourceLine;
use crate::names::printable;
use crate::options::Kind;
use crate::profile::{ImageId, Selection};
use crate::rows::{Detail, ImageRows, SymbolRows};

/// Name and version of the schema; a change that breaks readers counts it up.
const SCHEMA: &str = "virtio-oprofile-report/1";

#[derive(Serialize)]
struct Document<'a, R: Serialize> {
    schema: &'static str,
    cpu: Cpu<'a>,
    /// What the elements of every `counts` and `percents` are about, in this order.
    classes: Vec<Class<'a>>,
    total: &'a [u64],
    #[serde(flatten)]
    rows: R,
}

#[derive(Serialize)]
struct Cpu<'a> {
    name: &'a str,
    /// `None` when the session does not tell.
    mhz: Option<f64>,
}

#[derive(Serialize)]
struct Class<'a> {
    event: &'a str,
    count: u32,
    unit_mask: u32,
    vcpu: Value,
    tgid: Value,
    tid: Value,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    counts: &'a [u64],
    percents: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<Vec<Row<'a>>>,
}

#[derive(Serialize)]
struct Symbol<'a> {
    symbol: &'a str,
    linkage_name: String,
    image: &'a str,
    program: &'a str,
    address: u64,
    #[serde(flatten)]
    line: Option<Line>,
    counts: &'a [u64],
    percents: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Vec<Position<'a>>>,
}

#[derive(Serialize)]
struct Position<'a> {
    address: u64,
    #[serde(flatten)]
    line: Option<Line>,
    counts: &'a [u64],
    percents: Vec<f64>,
}

#[derive(Serialize)]
struct Line {
    file: String,
    line: u32,
}

/// Writes the table of programs.
pub(super) fn write_programs(
    selection: &Selection,
    banner: &Banner,
    programs: &Programs,
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    let names = names(selection);
    fn row<'a>(app: &'a AppCounts, names: &'a [String], total: &[u64]) -> Row<'a> {
        let name = |image: ImageId| names.get(image).map_or("", String::as_str);
        let images = app.images.iter().map(|(image, counts)| Row {
            name: name(*image),
            counts,
            percents: percents(counts, &app.counts),
            images: None,
        });
        Row {
            name: name(app.app),
            counts: &app.counts,
            percents: percents(&app.counts, total),
            images: Some(images.collect()),
        }
    }
    #[derive(Serialize)]
    struct Rows<'a> {
        programs: Vec<Row<'a>>,
    }
    let shown = |app: &&AppCounts| reaches(&app.counts, &programs.total, options.threshold);
    let apps = programs.apps.iter().filter(shown);
    let rows = Rows {
        programs: apps.map(|app| row(app, &names, &programs.total)).collect(),
    };
    write(selection, banner, &programs.total, rows, sink)
}

/// Writes the table of symbols, each as it is made: there may be millions.
pub(super) fn write_symbols(
    selection: &Selection,
    banner: &Banner,
    rows: &SymbolRows,
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    #[derive(Serialize)]
    struct Rows<'a> {
        symbols: Symbols<'a>,
    }
    let symbols = Symbols {
        rows,
        names: names(selection),
        options,
    };
    write(selection, banner, &rows.total, Rows { symbols }, sink)
}

struct Symbols<'a> {
    rows: &'a SymbolRows,
    names: Vec<String>,
    options: &'a Options,
}

impl Serialize for Symbols<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.order.iter().map(|entry| {
            let (image, row) = self.rows.at(*entry);
            self.symbol(image, row)
        }))
    }
}

impl<'a> Symbols<'a> {
    fn name(&self, image: ImageId) -> &str {
        self.names.get(image).map_or("", String::as_str)
    }

    fn symbol(&'a self, image: &'a ImageRows, number: usize) -> Symbol<'a> {
        let classes = self.rows.classes;
        let row = &image.rows[number];
        let counts = image.counts(number, classes);
        let total = match self.options.global_percent {
            true => &self.rows.total[..],
            false => counts,
        };
        let position = |(detail, counts): (&'a Detail, &'a [u64])| Position {
            address: detail.address,
            line: detail.line.as_ref().map(line),
            counts,
            percents: percents(counts, total),
        };
        let details = (self.options.kind == Kind::Details)
            .then(|| image.details(number, classes).map(position).collect());
        Symbol {
            symbol: image.name(row),
            linkage_name: printable(image.raw_name(number)),
            image: self.name(image.image),
            program: self.name(row.app as ImageId),
            address: row.address,
            line: image.line(number).map(line),
            counts,
            percents: percents(counts, &self.rows.total),
            details,
        }
    }
}

fn write(
    selection: &Selection,
    banner: &Banner,
    total: &[u64],
    rows: impl Serialize,
    sink: &mut Sink<'_>,
) -> Result<(), ToolError> {
    let mhz = Some(banner.speed).filter(|speed| *speed > 0.0 && speed.is_finite());
    let names: Vec<String> = banner
        .events
        .iter()
        .map(|event| printable(event.name.as_bytes()))
        .collect();
    let classes = selection.classes.specs().iter().zip(&banner.events);
    let document = Document {
        schema: SCHEMA,
        cpu: Cpu {
            name: banner.cpu.name,
            mhz,
        },
        classes: classes
            .zip(&names)
            .map(|((spec, event), name)| class(spec, event, name))
            .collect(),
        total,
        rows,
    };
    let mut serializer = serde_json::Serializer::new(&mut *sink.out);
    document
        .serialize(&mut serializer)
        .map_err(io::Error::from)
        .and_then(|()| sink.out.write_all(b"\n"))
        .map_err(ToolError::Output)
}

fn class<'a>(spec: &SampleSpec, event: &ClassEvent, name: &'a str) -> Class<'a> {
    Class {
        event: name,
        count: event.count,
        unit_mask: event.unit_mask,
        vcpu: number(&spec.cpu),
        tgid: number(&spec.tgid),
        tid: number(&spec.tid),
    }
}

/// The number of a vCPU, process or thread; null for all of them.
fn number(text: &str) -> Value {
    text.parse::<u64>().map_or(Value::Null, Value::from)
}

fn names(selection: &Selection) -> Vec<String> {
    let images = selection.images.iter();
    images.map(|image| printable(&image.long_name())).collect()
}

fn percents(counts: &[u64], total: &[u64]) -> Vec<f64> {
    let pairs = counts.iter().zip(total);
    pairs
        .map(|(count, total)| percent(*count, *total))
        .collect()
}

/// As [`super::percent`], but multiplied first: all digits are shown, and 55 of 100 are to be 55.
#[expect(clippy::cast_precision_loss, reason = "so are all numbers of scripts")]
fn percent(count: u64, total: u64) -> f64 {
    match total {
        0 => 0.0,
        total => count as f64 * 100.0 / total as f64,
    }
}

fn line(line: &SourceLine) -> Line {
    Line {
        file: printable(line.file.as_bytes()),
        line: line.line,
    }
}
