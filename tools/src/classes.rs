//! The columns of a table: samples are in one class when nothing that is not merged tells them apart.

use std::collections::{BTreeSet, HashMap};

use oprofile_session::sample_path::SampleSpec;

use crate::error::ToolError;
use crate::session::SampleFileName;

/// Most columns; each row of a table has a count for each.
const MAX_CLASSES: usize = 4096;

/// What is summed over instead of being told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merge {
    /// All vCPUs together.
    pub cpu: bool,
    /// Libraries as images of their own instead of below each program.
    pub lib: bool,
    /// All threads together.
    pub tid: bool,
    /// All unit masks of an event together.
    pub unit_mask: bool,
    /// All processes together, and with them their threads.
    pub tgid: bool,
}

impl Merge {
    /// Reads the argument of `--merge`.
    pub fn parse(list: &[String]) -> Result<Self, ToolError> {
        let mut merge = Self::default();
        for word in list {
            match word.as_str() {
                "cpu" => merge.cpu = true,
                "lib" => merge.lib = true,
                "tid" => merge.tid = true,
                "unitmask" => merge.unit_mask = true,
                "tgid" => (merge.tgid, merge.tid) = (true, true),
                "all" => {
                    merge = Self {
                        cpu: true,
                        lib: true,
                        tid: true,
                        unit_mask: true,
                        tgid: true,
                    }
                }
                _ => return Err(ToolError::Usage(format!("unknown merge option: {word}"))),
            }
        }
        Ok(merge)
    }

    /// What tells samples apart once the merged parts are gone.
    fn apply(self, spec: &SampleSpec) -> SampleSpec {
        let all = || "all".to_owned();
        let mut spec = spec.clone();
        if self.cpu {
            spec.cpu = all();
        }
        if self.unit_mask {
            spec.unit_mask = all();
        }
        if self.tid {
            spec.tid = all();
        }
        if self.tgid {
            spec.tgid = all();
        }
        spec
    }
}

/// What the columns stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Event, count and unit mask. Also when there is one column only.
    Event,
    /// Thread groups.
    Tgid,
    /// Threads.
    Tid,
    /// vCPUs.
    Cpu,
}

/// The classes in their order, and of each file the number of its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    /// What tells them apart.
    pub axis: Axis,
    merge: Merge,
    specs: Vec<SampleSpec>,
    /// By the index of the file.
    pub of_file: Vec<usize>,
}

impl Classes {
    /// Sorts the files into classes.
    pub fn new(files: &[SampleFileName], merge: Merge) -> Result<Self, ToolError> {
        // There may be very many files, but there are few classes: their names are kept once.
        let mut found: HashMap<SampleSpec, usize> = HashMap::new();
        let mut of_file: Vec<usize> = Vec::with_capacity(files.len());
        for file in files {
            let next = found.len();
            of_file.push(*found.entry(merge.apply(&file.name.spec)).or_insert(next));
        }
        let axis = axis(found.keys())?;
        if found.len() > MAX_CLASSES {
            return Err(ToolError::TooManyClasses {
                found: found.len(),
                limit: MAX_CLASSES,
            });
        }
        let mut found: Vec<(SampleSpec, usize)> = found.into_iter().collect();
        found.sort_by_cached_key(|(spec, _)| {
            [
                &spec.event,
                &spec.count,
                &spec.unit_mask,
                &spec.tgid,
                &spec.tid,
                &spec.cpu,
            ]
            .map(|part| sort_key(part))
        });
        let mut places = vec![0; found.len()];
        for (place, (_, number)) in found.iter().enumerate() {
            places[*number] = place;
        }
        for class in &mut of_file {
            *class = places[*class];
        }
        let specs = found.into_iter().map(|(spec, _)| spec).collect();
        Ok(Self {
            axis,
            merge,
            specs,
            of_file,
        })
    }

    /// The class of a file that was not among those the classes were made of, as a call-graph file.
    pub fn class_of(&self, spec: &SampleSpec) -> Option<usize> {
        let merged = self.merge.apply(spec);
        self.specs.iter().position(|spec| *spec == merged)
    }

    /// Number of classes, at least one for at least one file.
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// Whether there is no class.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// The heading of each column.
    pub fn headings(&self) -> Vec<String> {
        self.specs
            .iter()
            .map(|spec| match self.axis {
                Axis::Event => format!("{}:{}", spec.event, spec.count),
                Axis::Tgid => format!("tgid:{}", spec.tgid),
                Axis::Tid => format!("tid:{}", spec.tid),
                Axis::Cpu => format!("cpu:{}", spec.cpu),
            })
            .collect()
    }

    /// Lines about the columns for the top of the report, none for events.
    pub fn banner(&self) -> Vec<String> {
        self.specs
            .iter()
            .filter_map(|spec| match self.axis {
                Axis::Event => None,
                Axis::Cpu => Some(format!("Samples on CPU {}", spec.cpu)),
                Axis::Tid => Some(format!("Processes with a thread ID of {}", spec.tid)),
                Axis::Tgid => Some(format!("Processes with a thread group ID of {}", spec.tgid)),
            })
            .collect()
    }

    /// What the files of each class have in common; what is merged is `all`.
    pub fn specs(&self) -> &[SampleSpec] {
        &self.specs
    }
}

/// Numbers by their value, before everything else.
fn sort_key(part: &str) -> (bool, u64, String) {
    match part.parse() {
        Ok(number) => (false, number, String::new()),
        Err(_) => (true, 0, part.to_owned()),
    }
}

fn axis<'a>(specs: impl Iterator<Item = &'a SampleSpec> + Clone) -> Result<Axis, ToolError> {
    let distinct =
        |part: fn(&SampleSpec) -> String| specs.clone().map(part).collect::<BTreeSet<_>>();
    let events = distinct(|spec| format!("{}:{}:{}", spec.event, spec.count, spec.unit_mask));
    let tgids = distinct(|spec| spec.tgid.clone());
    let tids = distinct(|spec| spec.tid.clone());
    let cpus = distinct(|spec| spec.cpu.clone());
    // Threads that are their processes are one axis, not two.
    let same = specs.clone().all(|spec| spec.tgid == spec.tid);
    let candidates = [
        ("event", Axis::Event, &events, false),
        ("tgid", Axis::Tgid, &tgids, same),
        ("tid", Axis::Tid, &tids, false),
        ("cpu", Axis::Cpu, &cpus, false),
    ];
    let mut shown: Option<(&'static str, Axis, &BTreeSet<String>)> = None;
    for (name, axis, values, skip) in candidates {
        if skip || values.len() < 2 {
            continue;
        }
        if let Some((shown, _, values)) = shown {
            let values = values
                .iter()
                .map(|value| format!("{shown}:{value}"))
                .collect::<Vec<_>>()
                .join(",");
            return Err(ToolError::Axes {
                shown,
                values,
                conflicting: name,
            });
        }
        shown = Some((name, axis, values));
    }
    Ok(shown.map_or(Axis::Event, |(_, axis, _)| axis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_session::sample_path::SamplePath;

    fn classes(specs: &[&str], merge: &[&str]) -> Result<Classes, ToolError> {
        let files: Vec<_> = specs
            .iter()
            .map(|spec| {
                let name =
                    SamplePath::parse(format!("{{root}}/a/{{dep}}/{{root}}/a/{spec}").as_bytes())
                        .unwrap();
                SampleFileName {
                    path: spec.into(),
                    name,
                }
            })
            .collect();
        let merge: Vec<String> = merge.iter().map(|word| (*word).to_owned()).collect();
        Classes::new(&files, Merge::parse(&merge).unwrap())
    }

    #[test]
    fn vcpus_are_columns_in_numeric_order() {
        let found = classes(
            &["T.0.0.all.all.10", "T.0.0.all.all.9", "T.0.0.all.all.10"],
            &[],
        )
        .unwrap();
        assert_eq!(found.headings(), ["cpu:9", "cpu:10"]);
        assert_eq!(found.of_file, [1, 0, 1]);
        assert_eq!(found.banner(), ["Samples on CPU 9", "Samples on CPU 10"]);
    }

    #[test]
    fn merged_parts_make_no_columns() {
        let found = classes(&["T.0.0.all.all.1", "T.0.0.all.all.0"], &["cpu"]).unwrap();
        assert_eq!(
            (found.headings(), found.of_file),
            (vec!["T:0".to_owned()], vec![0, 0])
        );
    }

    #[test]
    fn threads_that_are_processes_are_one_axis() {
        let specs = ["T.0.0.100.100.all", "T.0.0.200.200.all"];
        assert_eq!(
            classes(&specs, &[]).unwrap().headings(),
            ["tid:100", "tid:200"]
        );
        assert_eq!(
            classes(&specs, &["tid"]).unwrap().headings(),
            ["tgid:100", "tgid:200"]
        );
        assert_eq!(classes(&specs, &["tgid"]).unwrap().headings(), ["T:0"]);
    }

    #[test]
    fn more_columns_than_anybody_reads_are_refused() {
        let specs: Vec<_> = (0..=MAX_CLASSES)
            .map(|tid| format!("T.0.0.{tid}.{tid}.all"))
            .collect();
        let specs: Vec<_> = specs.iter().map(String::as_str).collect();
        assert!(matches!(
            classes(&specs, &[]),
            Err(ToolError::TooManyClasses { .. })
        ));
        assert_eq!(classes(&specs, &["tgid"]).unwrap().len(), 1);
    }

    #[test]
    fn two_axes_are_refused_with_a_way_out() {
        let error = classes(&["T.0.0.100.101.all", "T.0.0.300.301.all"], &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("parameter tgid with values:\ntgid:100,tgid:300,\n"),
            "{error}"
        );
        assert!(
            error.ends_with("Suggestion: specify tgid: or --merge tgid"),
            "{error}"
        );
    }
}
