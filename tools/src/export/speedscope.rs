//! speedscope's file format, as its `file-format-schema.json` (1.25) has it: a sampled profile for each event and set of labels.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::model::{Profile, Sample, index};

const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    name: &'a str,
    exporter: String,
    active_profile_index: usize,
    shared: Shared<'a>,
    profiles: Vec<SampledProfile<'a>>,
}

#[derive(Serialize)]
struct Shared<'a> {
    frames: Vec<FileFrame<'a>>,
}

#[derive(Serialize)]
struct FileFrame<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SampledProfile<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    samples: Vec<&'a [u32]>,
    weights: Vec<u64>,
}

/// Writes the profile. Its total is below 2⁵³, which the caller checks: readers keep numbers as doubles.
pub fn write(profile: &Profile, title: &str, out: &mut dyn Write) -> serde_json::Result<()> {
    let mut groups: BTreeMap<(u32, u32), Vec<&Sample>> = BTreeMap::new();
    for sample in &profile.samples {
        groups
            .entry((sample.event, sample.labels))
            .or_default()
            .push(sample);
    }
    let many_events = profile.events.len() > 1;
    let mut profiles: Vec<SampledProfile<'_>> = groups
        .into_iter()
        .map(|((event, labels), samples)| {
            let labels = profile.labels.get(index(labels));
            let mut name = labels.map_or_else(String::new, |labels| labels.title());
            if many_events && let Some(event) = profile.events.get(index(event)) {
                name = format!("{}: {name}", event.title());
            }
            let weights: Vec<u64> = samples.iter().map(|sample| sample.count).collect();
            SampledProfile {
                kind: "sampled",
                name,
                // The format has no unit for samples.
                unit: "none",
                start_value: 0,
                end_value: weights
                    .iter()
                    .fold(0, |sum: u64, weight| sum.saturating_add(*weight)),
                samples: samples
                    .iter()
                    .map(|sample| sample.stack.as_slice())
                    .collect(),
                weights,
            }
        })
        .collect();
    // What took most is what a reader wants to see first.
    profiles.sort_by(|a, b| (b.end_value, &a.name).cmp(&(a.end_value, &b.name)));
    let file = File {
        schema: SCHEMA,
        name: title,
        exporter: format!("opexport {}", env!("CARGO_PKG_VERSION")),
        active_profile_index: 0,
        shared: Shared {
            frames: profile
                .frames
                .iter()
                .map(|frame| FileFrame {
                    name: frame.function.clone(),
                    // The only place for the image; the source where that is known.
                    file: match &frame.source {
                        Some(source) => Some(source.file.as_str()),
                        None => profile.image(frame).map(|image| image.path.as_str()),
                    },
                    line: frame
                        .source
                        .as_ref()
                        .map(|source| source.line)
                        .filter(|line| *line > 0),
                })
                .collect(),
        },
        profiles,
    };
    serde_json::to_writer(out, &file)
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::example;
    use super::*;

    #[test]
    fn each_set_of_labels_is_a_profile_whose_weights_add_up() {
        let mut text = Vec::new();
        write(&example(), "test", &mut text).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let profiles = file["profiles"].as_array().unwrap();
        let named: Vec<_> = profiles
            .iter()
            .map(|profile| {
                let weights = profile["weights"].as_array().unwrap();
                let sum: u64 = weights.iter().map(|w| w.as_u64().unwrap()).sum();
                assert_eq!(profile["endValue"], sum);
                assert_eq!(weights.len(), profile["samples"].as_array().unwrap().len());
                (profile["name"].as_str().unwrap(), sum)
            })
            .collect();
        assert_eq!(
            named,
            [
                ("calc, process 12, vCPU 0", 700),
                ("calc, process 12, vCPU 1", 250),
                ("vmlinux, vCPU 1", 50)
            ]
        );
    }
}
