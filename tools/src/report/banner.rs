//! What was counted: the lines above a table.

use std::fmt::Write as _;

use oprofile_session::sample_file::{CPU_TYPE_TIMER, Header, read_header_of};

use crate::classes::Axis;
use crate::cpu_types::{CpuType, cpu_type};
use crate::error::ToolError;
use crate::event_files::{Described, EventTable};
use crate::names::printable;
use crate::profile::Selection;

/// The event of one class, as the headers of its files tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassEvent {
    /// Name in the sample files' names.
    pub name: String,
    /// Number of the event.
    pub number: u32,
    /// Unit mask; that of all files when they are merged.
    pub unit_mask: u32,
    /// Sampling period.
    pub count: u32,
    /// What the event files say; `None` when the event is not in them.
    pub described: Option<Described>,
}

/// What was counted.
#[derive(Debug)]
pub struct Banner {
    /// The processor.
    pub cpu: CpuType,
    /// Whether the timer was the event.
    pub timer: bool,
    /// In MHz, 0 when unknown.
    pub speed: f64,
    /// By class.
    pub events: Vec<ClassEvent>,
    /// What the user ought to know.
    pub warnings: Vec<String>,
}

impl Banner {
    /// Reads one header for each kind of file.
    pub fn read(selection: &Selection) -> Result<Self, ToolError> {
        let mut first: Option<(Header, CpuType)> = None;
        let mut events: Vec<Option<ClassEvent>> = vec![None; selection.classes.len()];
        let mut seen = std::collections::HashSet::new();
        for (file, class) in selection.files.iter().zip(&selection.classes.of_file) {
            let spec = &file.name.spec;
            // Files of one class differ in the unit mask only, when those are merged.
            if !seen.insert((*class, &spec.unit_mask)) {
                continue;
            }
            let header = read_header_of(&file.path)
                .map_err(|source| ToolError::sample_file(&file.path, source))?;
            if first.is_none() {
                let cpu = cpu_type(header.cpu_type).ok_or_else(|| ToolError::CpuType {
                    path: file.path.clone(),
                    cpu_type: header.cpu_type,
                })?;
                first = Some((header, cpu));
            }
            match &mut events[*class] {
                Some(event) => event.unit_mask |= header.ctr_um,
                empty => {
                    *empty = Some(ClassEvent {
                        name: spec.event.clone(),
                        number: header.ctr_event,
                        unit_mask: header.ctr_um,
                        count: header.ctr_count,
                        described: None,
                    });
                }
            }
        }
        let (header, cpu) = first.ok_or(ToolError::NoSamples)?;
        let mut banner = Self {
            cpu,
            timer: header.cpu_type == CPU_TYPE_TIMER,
            speed: header.cpu_speed,
            events: events.into_iter().flatten().collect(),
            warnings: Vec::new(),
        };
        if !banner.timer {
            banner.describe();
        }
        Ok(banner)
    }

    fn describe(&mut self) {
        let table = EventTable::load(&self.cpu);
        for event in &mut self.events {
            event.described = match &table {
                Some(table) => table.describe(event.number, event.unit_mask, &event.name),
                // Without event files the name of the sample files has to do.
                None => Some(Described {
                    name: event.name.clone(),
                    description: "no description on this machine".to_owned(),
                    unit_mask: "no description on this machine".to_owned(),
                }),
            };
            if event.described.is_none() {
                let warning = format!("Could not locate event {}", event.number);
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
        }
    }

    /// The lines.
    pub fn text(&self, selection: &Selection) -> String {
        let mut text = format!("CPU: {}", self.cpu.name);
        // Infallible for a String, here and below.
        if self.speed > 0.0 && self.speed.is_finite() {
            let _ = write!(text, ", speed {} MHz (estimated)", six_digits(self.speed));
        }
        text.push('\n');
        let classes = &selection.classes;
        let events = if classes.axis == Axis::Event {
            &self.events[..]
        } else {
            self.events.get(..1).unwrap_or_default()
        };
        for event in events {
            if self.timer {
                text.push_str("Profiling through timer interrupt\n");
                continue;
            }
            let _ = match &event.described {
                Some(described) => writeln!(
                    text,
                    "Counted {} events ({}) with a unit mask of 0x{:02x} ({}) count {}",
                    printable(described.name.as_bytes()),
                    printable(described.description.as_bytes()),
                    event.unit_mask,
                    printable(described.unit_mask.as_bytes()),
                    event.count
                ),
                None => writeln!(text, "Unknown event"),
            };
        }
        for line in classes.banner() {
            text.push_str(&printable(line.as_bytes()));
            text.push('\n');
        }
        text
    }
}

/// A positive number with six significant digits and no zeros at its end.
fn six_digits(value: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the logarithm of a finite number is small"
    )]
    let digits_before = value.log10().floor() as i32 + 1;
    let decimals = usize::try_from(6 - digits_before).unwrap_or(0);
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_has_six_digits() {
        for (speed, text) in [
            (2400.12, "2400.12"),
            (1008.0, "1008"),
            (3100.5, "3100.5"),
            (2596.1234, "2596.12"),
            (0.5, "0.5"),
        ] {
            assert_eq!(six_digits(speed), text);
        }
    }
}
