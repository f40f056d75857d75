//! The Firefox Profiler's processed-profile format, by Mozilla's own crate.
//!
//! A process of the guest is a process, a set of labels a thread. Sessions hold no times: a thread's samples follow each other
//! in the order of the file, each as long as its weight in milliseconds.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use fxprof_processed_profile::debugid::DebugId;
use fxprof_processed_profile::{
    CategoryColor, CategoryPairHandle, CpuDelta, Frame, FrameFlags, FrameInfo, LibraryHandle,
    LibraryInfo, Profile, ReferenceTimestamp, SamplingInterval, Symbol, SymbolTable, ThreadHandle,
    Timestamp,
};

use super::model::{self, Labels, index};

/// Largest weight of a sample in this format.
const MAX_WEIGHT: u64 = i32::MAX.unsigned_abs() as u64;

/// A frame as the crate wants it.
#[derive(Debug, Clone, Copy)]
enum Place {
    Library(LibraryHandle, u32),
    Label(u32),
}

/// Writes the profile. Its total is below 2⁵³, which the caller checks.
pub fn write(source: &model::Profile, title: &str, out: &mut dyn Write) -> serde_json::Result<()> {
    let mut profile = Profile::new(
        title,
        // The samples' times are not real ones; neither is this.
        ReferenceTimestamp::from_duration_since_unix_epoch(Duration::ZERO),
        SamplingInterval::from_millis(1),
    );
    profile.set_os_name("guest");
    let category = profile.add_category("Guest", CategoryColor::Orange).into();
    let places = places(source, &mut profile);
    let mut processes = HashMap::new();
    let mut threads: BTreeMap<(u32, u32), (ThreadHandle, f64)> = BTreeMap::new();
    let many_events = source.events.len() > 1;
    let start = Timestamp::from_millis_since_reference(0.0);
    for sample in &source.samples {
        let (Some(labels), Some(event)) = (source.labels(sample), source.event(sample)) else {
            continue;
        };
        let (thread, now) = threads
            .entry((sample.labels, sample.event))
            .or_insert_with(|| {
                let key = (labels.program.as_str(), labels.tgid.as_deref());
                let known = processes.len();
                let process = *processes.entry(key).or_insert_with(|| {
                    let pid = number(labels.tgid.as_deref())
                        // Made up, and out of the way of Linux's own, which end at 2²².
                        .unwrap_or_else(|| (1 << 30) + u32::try_from(known).unwrap_or(0));
                    profile.add_process(labels.program_name(), pid, start)
                });
                let tid = number(labels.tid.as_deref()).unwrap_or((1 << 30) + sample.labels);
                // Not the main thread: that one would be shown by its process's name.
                let thread = profile.add_thread(process, tid, start, false);
                profile.set_thread_name(thread, &thread_name(labels, many_events.then_some(event)));
                (thread, 0.0)
            });
        let frames: Vec<FrameInfo> = sample
            .stack
            .iter()
            .filter_map(|frame| places.get(index(*frame)))
            .map(|place| info(*place, category, source, &mut profile))
            .collect();
        let stack = profile.intern_stack_frames(*thread, frames.into_iter());
        let mut rest = sample.count;
        while rest > 0 {
            let weight = rest.min(MAX_WEIGHT);
            rest -= weight;
            // Exact: the total is below 2⁵³.
            #[expect(clippy::cast_precision_loss)]
            let millis = weight as f64;
            *now += millis;
            profile.add_sample(
                *thread,
                Timestamp::from_millis_since_reference(*now),
                stack,
                CpuDelta::from_millis(millis),
                i32::try_from(weight).unwrap_or(i32::MAX),
            );
        }
    }
    for (thread, end) in threads.values() {
        profile.set_thread_end_time(*thread, Timestamp::from_millis_since_reference(*end + 1.0));
    }
    profile.set_symbolicated(true);
    serde_json::to_writer(out, &profile)
}

fn thread_name(labels: &Labels, event: Option<&model::Event>) -> String {
    let title = labels.title();
    match event {
        Some(event) => format!("{title}, {}", event.title()),
        None => title,
    }
}

fn number(label: Option<&str>) -> Option<u32> {
    label?.parse().ok()
}

/// Where each frame of the model is. Addresses in libraries have 32 bits here; a function whose address has more becomes a
/// label with the image in its name.
fn places(source: &model::Profile, profile: &mut Profile) -> Vec<Place> {
    let mut symbols: Vec<BTreeMap<u32, &str>> = vec![BTreeMap::new(); source.images.len()];
    let addresses: Vec<Option<u32>> = source
        .frames
        .iter()
        .map(|frame| {
            let address = u32::try_from(frame.address).ok()?;
            let known = symbols
                .get_mut(index(frame.image))?
                .entry(address)
                .or_insert(&frame.function);
            // One name an address: a second function there must not lose its own.
            (*known == frame.function).then_some(address)
        })
        .collect();
    let libraries: Vec<LibraryHandle> = source
        .images
        .iter()
        .zip(symbols)
        .map(|(image, symbols)| {
            let table = symbols
                .into_iter()
                .map(|(address, name)| Symbol {
                    address,
                    size: None,
                    name: name.to_owned(),
                })
                .collect();
            profile.add_lib(LibraryInfo {
                name: image.name.clone(),
                debug_name: image.name.clone(),
                path: image.path.clone(),
                debug_path: image.path.clone(),
                debug_id: DebugId::nil(),
                code_id: None,
                arch: None,
                symbol_table: Some(Arc::new(SymbolTable::new(table))),
            })
        })
        .collect();
    (0..)
        .zip(addresses)
        .map(|(number, address)| {
            let image = source.frames.get(index(number)).map(|frame| frame.image);
            match address.zip(image.and_then(|image| libraries.get(index(image)))) {
                Some((address, library)) => Place::Library(*library, address),
                None => Place::Label(number),
            }
        })
        .collect()
}

fn info(
    place: Place,
    category: CategoryPairHandle,
    source: &model::Profile,
    profile: &mut Profile,
) -> FrameInfo {
    let frame = match place {
        Place::Library(library, address) => {
            Frame::RelativeAddressFromInstructionPointer(library, address)
        }
        Place::Label(number) => {
            let name = source.frames.get(index(number)).map(|frame| {
                let image = source.image(frame).map_or("", |image| &image.name);
                format!("{} [{image}]", frame.function)
            });
            Frame::Label(profile.intern_string(&name.unwrap_or_default()))
        }
    };
    FrameInfo {
        frame,
        category_pair: category,
        flags: FrameFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::example;
    use super::*;

    fn exported(profile: &model::Profile) -> serde_json::Value {
        let mut text = Vec::new();
        write(profile, "title", &mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    fn weight(thread: &serde_json::Value) -> u64 {
        let weights = thread["samples"]["weight"].as_array().unwrap();
        weights.iter().map(|weight| weight.as_u64().unwrap()).sum()
    }

    #[test]
    fn each_set_of_labels_is_a_thread_and_weights_add_up() {
        let value = exported(&example());
        let mut threads: Vec<_> = value["threads"]
            .as_array()
            .unwrap()
            .iter()
            .map(|thread| {
                (
                    thread["name"].as_str().unwrap().to_owned(),
                    thread["processName"].as_str().unwrap().to_owned(),
                    weight(thread),
                )
            })
            .collect();
        threads.sort();
        let wanted = [
            ("calc, process 12, vCPU 0", "calc", 700),
            ("calc, process 12, vCPU 1", "calc", 250),
            ("vmlinux, vCPU 1", "vmlinux", 50),
        ]
        .map(|(name, process, weight)| (name.to_owned(), process.to_owned(), weight));
        assert_eq!(threads, wanted);
        let text = value.to_string();
        for name in ["std::vector<int; 3>", "do idle [vmlinux]", "/srv/calc"] {
            assert!(text.contains(name), "{name} in {text}");
        }
    }

    #[test]
    fn count_beyond_a_weight_is_divided() {
        let mut profile = example();
        profile.samples[0].count = 3 * MAX_WEIGHT + 1;
        let value = exported(&profile);
        let total: u64 = value["threads"]
            .as_array()
            .unwrap()
            .iter()
            .map(weight)
            .sum();
        assert_eq!(u128::from(total), profile.total());
    }
}
