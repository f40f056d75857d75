//! What is said before the programs.

use oprofile_session::sample_path::SampleSpec;

use super::document::{Class, Document, Setup, Thread};
use crate::classes::Axis;
use crate::options::{Kind, Options};
use crate::profile::Selection;
use crate::report::Banner;

/// The document without programs and symbols.
pub(super) fn head(selection: &Selection, banner: &Banner, options: &Options) -> Document {
    let (setup, event_of_class) = setup(banner);
    let cpus = selection.classes.axis == Axis::Cpu;
    let classes = if divided(selection) || selection.classes.len() < 2 {
        Vec::new()
    } else {
        classes(selection, &event_of_class)
    };
    let details = options.kind == Kind::Details;
    let mut attributes = options.given.clone();
    if options.debug_info {
        attributes.push(("debuginfo", "true".to_owned()));
    }
    if details {
        attributes.push(("details", "true".to_owned()));
    }
    if options.exclude_dependent {
        attributes.push(("excludedependent", "true".to_owned()));
    }
    Document {
        cpu_type: banner.cpu.family.to_owned(),
        processor: Some(banner.cpu.model)
            .filter(|model| !model.is_empty())
            .map(str::to_owned),
        separated_cpus: cpus.then(|| selection.classes.len()),
        // A number that no clock has would not be one in XML.
        mhz: if banner.speed.is_finite() {
            banner.speed
        } else {
            0.0
        },
        title: options.command_line.clone().into_bytes(),
        options: attributes
            .into_iter()
            .map(|(name, value)| (name, value.into_bytes()))
            .collect(),
        setup,
        classes,
        details,
        ..Document::default()
    }
}

/// Whether each class is a process or thread, shown as an element instead of a class.
pub(super) fn divided(selection: &Selection) -> bool {
    matches!(selection.classes.axis, Axis::Tgid | Axis::Tid)
}

/// A part of the report: a thread, or all. With a class only the counts of that class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Division {
    pub thread: Option<Thread>,
    pub class: Option<usize>,
}

/// Whether threads were told apart when the samples were taken.
pub(in crate::report) fn by_threads(selection: &Selection) -> bool {
    selection
        .files
        .iter()
        .any(|file| file.name.spec.tgid != "all" || file.name.spec.tid != "all")
}

/// The parts of the report. In a profile by threads there are threads even if they are merged.
pub(super) fn divisions(selection: &Selection) -> Vec<Division> {
    if !by_threads(selection) {
        return vec![Division {
            thread: None,
            class: None,
        }];
    }
    let thread = |spec: &SampleSpec| {
        let part = |text: &str, merged: bool| {
            if merged || text == "all" {
                String::new()
            } else {
                text.to_owned()
            }
        };
        Some(Thread {
            tgid: part(&spec.tgid, selection.merge.tgid),
            tid: part(&spec.tid, selection.merge.tid),
        })
    };
    if !divided(selection) {
        let spec = selection.files.first().map(|file| &file.name.spec);
        return vec![Division {
            thread: spec.and_then(thread),
            class: None,
        }];
    }
    (0..selection.classes.len())
        .map(|class| {
            let file = selection.classes.of_file.iter().position(|of| *of == class);
            let spec = file
                .and_then(|file| selection.files.get(file))
                .map(|file| &file.name.spec);
            Division {
                thread: spec.and_then(thread),
                class: Some(class),
            }
        })
        .collect()
}

/// Each event once, and of each class the place of its event.
fn setup(banner: &Banner) -> (Vec<Setup>, Vec<Option<usize>>) {
    let mut setup = Vec::new();
    let mut places: Vec<((&str, u32), Option<usize>)> = Vec::new();
    let mut of_class = Vec::new();
    for event in &banner.events {
        let key = (event.name.as_str(), event.count);
        if let Some((_, place)) = places.iter().find(|(known, _)| *known == key) {
            of_class.push(*place);
            continue;
        }
        let count = event.count.to_string();
        let element = if banner.timer {
            Some(Setup::Timer { count })
        } else {
            // An unknown event has no element.
            event.described.as_ref().map(|described| Setup::Event {
                name: described.name.clone(),
                unit_mask: event.unit_mask.to_string(),
                count,
            })
        };
        let place = element.is_some().then_some(setup.len());
        setup.extend(element);
        places.push((key, place));
        of_class.push(place);
    }
    (setup, of_class)
}

/// Of each class what it does not share with all others.
fn classes(selection: &Selection, event_of_class: &[Option<usize>]) -> Vec<Class> {
    let specs: Vec<Option<&SampleSpec>> = (0..selection.classes.len())
        .map(|class| {
            let file = selection
                .classes
                .of_file
                .iter()
                .position(|of| *of == class)?;
            Some(&selection.files.get(file)?.name.spec)
        })
        .collect();
    let differ = |part: fn(&SampleSpec) -> (&str, &str)| {
        specs
            .windows(2)
            .any(|pair| pair[0].map(part) != pair[1].map(part))
    };
    let events = differ(|spec| (&spec.event, &spec.count));
    let masks = differ(|spec| (&spec.unit_mask, "")) && !selection.merge.unit_mask;
    let axis = selection.classes.axis;
    specs
        .iter()
        .enumerate()
        .map(|(class, spec)| Class {
            event: (axis == Axis::Event && events)
                .then(|| event_of_class.get(class).copied().flatten())
                .flatten(),
            mask: spec
                .filter(|_| axis == Axis::Event && masks)
                .map(|spec| spec.unit_mask.clone()),
            cpu: spec
                .filter(|_| axis == Axis::Cpu)
                .map(|spec| spec.cpu.clone()),
        })
        .collect()
}
