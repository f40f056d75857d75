//! The project's own JSON: everything the model holds, for scripts. docs/opexport.md states the schema.

use std::io::Write;

use serde::Serialize;

use super::model::Profile;

/// Name and version of the schema; a change that breaks readers counts it up.
const SCHEMA: &str = "virtio-oprofile-profile/1";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    /// Samples of all events.
    total: u64,
    events: Vec<JsonEvent<'a>>,
    images: Vec<&'a str>,
    frames: Vec<JsonFrame<'a>>,
    samples: Vec<JsonSample<'a>>,
}

#[derive(Serialize)]
struct JsonEvent<'a> {
    name: &'a str,
    count: &'a str,
    unit_mask: &'a str,
}

#[derive(Serialize)]
struct JsonFrame<'a> {
    function: &'a str,
    linkage_name: &'a str,
    image: u32,
    address: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
struct JsonSample<'a> {
    program: Option<&'a str>,
    vcpu: Option<&'a str>,
    tgid: Option<&'a str>,
    tid: Option<&'a str>,
    event: u32,
    /// Indices of frames, caller first.
    stack: &'a [u32],
    count: u64,
}

/// Writes the profile. `total` is at most 2⁶⁴ − 1, which the caller checks.
pub fn write(profile: &Profile, out: &mut dyn Write) -> serde_json::Result<()> {
    let document = Document {
        schema: SCHEMA,
        total: u64::try_from(profile.total()).unwrap_or(u64::MAX),
        events: profile
            .events
            .iter()
            .map(|event| JsonEvent {
                name: &event.name,
                count: &event.period,
                unit_mask: &event.unit_mask,
            })
            .collect(),
        images: profile
            .images
            .iter()
            .map(|image| image.path.as_str())
            .collect(),
        frames: profile
            .frames
            .iter()
            .map(|frame| JsonFrame {
                function: &frame.function,
                linkage_name: &frame.linkage_name,
                image: frame.image,
                address: frame.address,
                file: frame.source.as_ref().map(|source| source.file.as_str()),
                line: frame
                    .source
                    .as_ref()
                    .map(|source| source.line)
                    .filter(|line| *line > 0),
            })
            .collect(),
        samples: profile
            .samples
            .iter()
            .map(|sample| {
                let labels = profile.labels(sample);
                JsonSample {
                    program: labels.map(|labels| labels.program.as_str()),
                    vcpu: labels.and_then(|labels| labels.vcpu.as_deref()),
                    tgid: labels.and_then(|labels| labels.tgid.as_deref()),
                    tid: labels.and_then(|labels| labels.tid.as_deref()),
                    event: sample.event,
                    stack: &sample.stack,
                    count: sample.count,
                }
            })
            .collect(),
    };
    serde_json::to_writer(out, &document)
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::example;
    use super::*;

    #[test]
    fn counts_and_labels_are_all_there() {
        let mut text = Vec::new();
        write(&example(), &mut text).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        assert_eq!(value["total"], 1000);
        let samples = value["samples"].as_array().unwrap();
        let sum: u64 = samples.iter().map(|s| s["count"].as_u64().unwrap()).sum();
        assert_eq!(sum, 1000);
        assert!(samples.iter().any(|s| s["vcpu"] == "1"
            && s["tgid"] == "12"
            && s["program"] == "/srv/calc"
            && s["count"] == 250));
        assert!(
            value["frames"]
                .as_array()
                .unwrap()
                .iter()
                .any(|f| f["file"] == "/src/<calc>.cc" && f["line"] == 7)
        );
    }
}
