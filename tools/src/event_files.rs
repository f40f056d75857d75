//! Descriptions of events and unit masks, from the files `events` and `unit_masks` of a processor.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cpu_types::CpuType;

/// Where OProfile installs the files of all processors.
const DEFAULT_DIRECTORY: &str = "/usr/share/oprofile";
/// Names another directory.
const DIRECTORY_VARIABLE: &str = "OPROFILE_EVENTS_DIR";
/// Deepest chain of `include:` lines; the real files have one.
const MAX_INCLUDES: usize = 4;
/// Longest file that is read; the longest real one has 100 kB.
const MAX_FILE: u64 = 16 << 20;

/// An event of a processor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    number: u32,
    name: String,
    description: String,
    unit_mask: String,
}

/// The events of a processor.
#[derive(Debug, Default)]
pub struct EventTable {
    events: Vec<Event>,
    unit_masks: Vec<UnitMask>,
}

#[derive(Debug, Default)]
struct UnitMask {
    name: String,
    bits: bool,
    values: Vec<(u32, String)>,
}

/// What the banner says about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Name of the event.
    pub name: String,
    /// What it counts.
    pub description: String,
    /// What the unit mask selects.
    pub unit_mask: String,
}

impl EventTable {
    /// Reads the files of a processor. `None` when this machine has none.
    pub fn load(cpu: &CpuType) -> Option<Self> {
        let directory = std::env::var_os(DIRECTORY_VARIABLE)
            .map_or_else(|| PathBuf::from(DEFAULT_DIRECTORY), PathBuf::from);
        let mut table = Self::default();
        let model = Path::new(cpu.family).join(cpu.model);
        let events = text(&directory.join(&model).join("events"))?;
        table.read_events(&directory, &events, MAX_INCLUDES);
        if let Some(masks) = text(&directory.join(&model).join("unit_masks")) {
            table.read_unit_masks(&directory, &masks, MAX_INCLUDES);
        }
        Some(table)
    }

    fn read_events(&mut self, directory: &Path, text_of: &str, includes: usize) {
        for line in text_of.lines().map(|line| line.trim()) {
            if let Some(other) = include(line, includes) {
                if let Some(other) = text(&directory.join(other).join("events")) {
                    self.read_events(directory, &other, includes - 1);
                }
                continue;
            }
            // The description is behind the first colon that stands alone.
            let Some((fields, description)) = line.split_once(" : ") else {
                continue;
            };
            let mut event = Event {
                description: description.trim().to_owned(),
                ..Event::default()
            };
            let mut numbered = false;
            for field in fields.split_whitespace() {
                match field.split_once(':') {
                    Some(("event", number)) => match parse_number(number) {
                        Some(number) => (event.number, numbered) = (number, true),
                        None => break,
                    },
                    Some(("name", name)) => event.name = name.to_owned(),
                    Some(("um", name)) => event.unit_mask = name.to_owned(),
                    _ => {}
                }
            }
            if numbered {
                self.events.push(event);
            }
        }
    }

    fn read_unit_masks(&mut self, directory: &Path, text_of: &str, includes: usize) {
        for line in text_of.lines() {
            let line = line.trim();
            if let Some(other) = include(line, includes) {
                if let Some(other) = text(&directory.join(other).join("unit_masks")) {
                    self.read_unit_masks(directory, &other, includes - 1);
                }
            } else if line.starts_with("name:") {
                let mut mask = UnitMask::default();
                for field in line.split_whitespace() {
                    match field.split_once(':') {
                        Some(("name", name)) => mask.name = name.to_owned(),
                        Some(("type", kind)) => mask.bits = kind == "bitmask",
                        _ => {}
                    }
                }
                self.unit_masks.push(mask);
            } else if let (Some(mask), Some((value, description))) = (
                self.unit_masks.last_mut(),
                line.split_once(char::is_whitespace),
            ) && let Some(value) = parse_number(value)
            {
                mask.values.push((value, description.trim().to_owned()));
            }
        }
    }

    /// What is known about an event. Of several with the number the one of that name is meant.
    pub fn describe(&self, number: u32, unit_mask: u32, name: &str) -> Option<Described> {
        let event = self
            .events
            .iter()
            .filter(|event| event.number == number)
            .max_by_key(|event| event.name == name)?;
        let mask = self
            .unit_masks
            .iter()
            .find(|mask| mask.name == event.unit_mask);
        let exact = mask.and_then(|mask| {
            mask.values
                .iter()
                .find(|(value, _)| *value == unit_mask)
                .map(|(_, description)| description.clone())
        });
        let unit_mask = exact.unwrap_or_else(|| match mask {
            Some(mask) if mask.bits => "multiple flags".to_owned(),
            _ => "No unit mask".to_owned(),
        });
        Some(Described {
            name: event.name.clone(),
            description: event.description.clone(),
            unit_mask,
        })
    }
}

/// The processor that an `include:` line names. It stays below the directory.
fn include(line: &str, includes: usize) -> Option<&str> {
    line.strip_prefix("include:")
        .map(str::trim)
        .filter(|other| {
            includes > 0 && !other.split('/').any(|part| part == "..") && !other.starts_with('/')
        })
}

fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn text(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return None;
    }
    fs::read(path)
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_described_by_number_and_unit_mask() {
        let mut table = EventTable::default();
        let none = Path::new("/nonexistent");
        table.read_events(
            none,
            "# comment\nevent:0x3c counters:0,1 um:zero minimum:2000 name:CYCLES : cycles : all\nevent:0x2e um:miss name:MISS : misses\nevent:x name:BAD : bad\n",
            1,
        );
        table.read_unit_masks(
            none,
            "name:zero type:mandatory default:0x0\n\t0x0 No unit mask\nname:miss type:bitmask default:0x3\n\t0x1 reads\n\t0x2 writes\n",
            1,
        );
        let of = |number, mask| {
            table
                .describe(number, mask, "")
                .map(|event| [event.name, event.description, event.unit_mask].join("|"))
        };
        assert_eq!(
            of(0x3c, 0).as_deref(),
            Some("CYCLES|cycles : all|No unit mask")
        );
        assert_eq!(of(0x2e, 2).as_deref(), Some("MISS|misses|writes"));
        assert_eq!(of(0x2e, 3).as_deref(), Some("MISS|misses|multiple flags"));
        assert_eq!(of(1, 0), None);
    }

    #[test]
    fn includes_stay_below_the_directory() {
        assert_eq!(
            include("include:i386/arch_perfmon", 1),
            Some("i386/arch_perfmon")
        );
        assert_eq!(include("include:../../etc", 1), None);
        assert_eq!(include("include:/etc", 1), None);
        assert_eq!(include("include:i386/core", 0), None);
    }
}
