//! pprof's `profile.proto`, compressed with gzip.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message as _;

use super::model;
use super::proto::{Function, Label, Line, Location, Mapping, Profile, Sample, ValueType};

/// The text table.
#[derive(Debug)]
struct Strings {
    numbers: HashMap<String, i64>,
    table: Vec<String>,
}

impl Strings {
    fn new() -> Self {
        Self {
            numbers: HashMap::from([(String::new(), 0)]),
            table: vec![String::new()],
        }
    }

    fn number(&mut self, text: &str) -> i64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        // Memory ends long before.
        let number = i64::try_from(self.table.len()).unwrap_or(i64::MAX);
        self.table.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

/// Writes the profile. Its total fits an `i64`, which the caller checks.
pub fn write(profile: &model::Profile, title: &str, out: &mut dyn Write) -> io::Result<()> {
    let message = message(profile, title);
    let mut compressed = GzEncoder::new(out, Compression::default());
    compressed.write_all(&message.encode_to_vec())?;
    compressed.finish()?;
    Ok(())
}

fn message(profile: &model::Profile, title: &str) -> Profile {
    let mut strings = Strings::new();
    let unit = strings.number("count");
    let sample_type: Vec<ValueType> = profile
        .events
        .iter()
        .map(|event| ValueType {
            r#type: strings.number(&event.title()),
            unit,
        })
        .collect();
    let (location, function, mapping) = places(profile, &mut strings);
    let comment = vec![strings.number(title)];
    let default_sample_type = sample_type.first().map_or(0, |first| first.r#type);
    Profile {
        sample: samples(profile, &mut strings),
        sample_type,
        mapping,
        location,
        function,
        string_table: strings.table,
        comment,
        default_sample_type,
    }
}

/// Locations and functions are numbered as the model's frames, mappings as its images; all from 1.
fn places(
    profile: &model::Profile,
    strings: &mut Strings,
) -> (Vec<Location>, Vec<Function>, Vec<Mapping>) {
    let mut mappings: Vec<Mapping> = (1..)
        .zip(&profile.images)
        .map(|(id, image)| Mapping {
            id,
            filename: strings.number(&image.path),
            has_functions: true,
            ..Mapping::default()
        })
        .collect();
    // Lines of one function share it.
    let mut numbers: HashMap<(&str, u32, u64, Option<&str>), u64> = HashMap::new();
    let mut functions: Vec<Function> = Vec::new();
    let mut locations = Vec::with_capacity(profile.frames.len());
    for (id, frame) in (1..).zip(&profile.frames) {
        let file = frame.source.as_ref().map(|source| source.file.as_str());
        let key = (
            frame.linkage_name.as_str(),
            frame.image,
            frame.address,
            file,
        );
        let function_id = *numbers.entry(key).or_insert_with(|| {
            let id = functions.last().map_or(1, |last| last.id + 1);
            functions.push(Function {
                id,
                name: strings.number(&frame.function),
                system_name: strings.number(&frame.linkage_name),
                filename: strings.number(file.unwrap_or_default()),
            });
            id
        });
        if let Some(mapping) = mappings.get_mut(model::index(frame.image)) {
            if mapping.memory_limit == 0 {
                mapping.memory_start = frame.address;
            }
            mapping.memory_start = mapping.memory_start.min(frame.address);
            mapping.memory_limit = mapping.memory_limit.max(frame.address.saturating_add(1));
            mapping.has_filenames |= file.is_some();
            mapping.has_line_numbers |= file.is_some();
        }
        locations.push(Location {
            id,
            mapping_id: u64::from(frame.image) + 1,
            address: frame.address,
            line: vec![Line {
                function_id,
                line: frame
                    .source
                    .as_ref()
                    .map_or(0, |source| i64::from(source.line)),
            }],
        });
    }
    (locations, functions, mappings)
}

fn samples(profile: &model::Profile, strings: &mut Strings) -> Vec<Sample> {
    let mut values: BTreeMap<(u32, &[u32]), Vec<i64>> = BTreeMap::new();
    for sample in &profile.samples {
        let row = values
            .entry((sample.labels, &sample.stack))
            .or_insert_with(|| vec![0; profile.events.len()]);
        if let Some(value) = row.get_mut(model::index(sample.event)) {
            *value = value.saturating_add(i64::try_from(sample.count).unwrap_or(i64::MAX));
        }
    }
    values
        .into_iter()
        .map(|((labels, stack), value)| Sample {
            location_id: stack
                .iter()
                .rev()
                .map(|frame| u64::from(*frame) + 1)
                .collect(),
            value,
            label: profile
                .labels
                .get(model::index(labels))
                .map(|labels| self::labels(labels, strings))
                .unwrap_or_default(),
        })
        .collect()
}

fn labels(labels: &model::Labels, strings: &mut Strings) -> Vec<Label> {
    let known = [
        ("program", Some(&labels.program)),
        ("vcpu", labels.vcpu.as_ref()),
        ("tgid", labels.tgid.as_ref()),
        ("tid", labels.tid.as_ref()),
    ];
    known
        .into_iter()
        .filter_map(|(key, value)| {
            // Text throughout: a number 0 cannot be told from no value, and readers filter text by --tagfocus just as well.
            Some(Label {
                key: strings.number(key),
                str: strings.number(value?),
                num: 0,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::super::model::tests::example;
    use super::*;

    #[test]
    fn values_add_up_and_names_are_found_by_their_numbers() {
        let mut compressed = Vec::new();
        write(&example(), "title", &mut compressed).unwrap();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..])
            .read_to_end(&mut bytes)
            .unwrap();
        let profile = Profile::decode(&bytes[..]).unwrap();
        let text = |number: i64| profile.string_table[usize::try_from(number).unwrap()].as_str();
        assert_eq!(text(0), "");
        assert_eq!(text(profile.sample_type[0].r#type), "TIMER");
        assert_eq!(profile.sample.iter().map(|s| s.value[0]).sum::<i64>(), 1000);
        let hot = profile.sample.iter().find(|s| s.value[0] == 600).unwrap();
        let names: Vec<&str> = hot
            .location_id
            .iter()
            .map(|id| {
                let location = profile.location.iter().find(|l| l.id == *id).unwrap();
                let function = location.line[0].function_id;
                let function = profile.function.iter().find(|f| f.id == function).unwrap();
                text(function.name)
            })
            .collect();
        assert_eq!(names, ["std::vector<int; 3>::at(\"&\")", "main"]);
        let labels: Vec<_> = hot
            .label
            .iter()
            .map(|l| (text(l.key), text(l.str)))
            .collect();
        assert_eq!(
            labels,
            [("program", "/srv/calc"), ("vcpu", "0"), ("tgid", "12")]
        );
    }
}
