//! Profile specifications: the words with which a person chooses samples.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_session::sample_path::SampleSpec;
use oprofile_tools::spec::{ImagePaths, Profiles, Specification};

use crate::names::Name;

/// What words begin with; the last three are no tags.
const TAGS: [&str; 15] = [
    "archive:",
    "session:",
    "session-exclude:",
    "image:",
    "image-exclude:",
    "lib-image:",
    "event:",
    "count:",
    "unit-mask:",
    "tgid:",
    "tid:",
    "cpu:",
    "{",
    "",
    "no-tag:",
];
/// What values are made of.
const VALUES: [&str; 16] = [
    ",", "all", "*", "?", "[", "]", "[!a-", "-z]", "\\", "/bin/a", "0", "1", "TIMER", ":", "a", "}",
];
/// Longest word and name of an image compared with each other: globs may take time that is their product.
const MAX_LENGTH: usize = 4_096;
/// First byte of an input that is words as a person writes them, one a line.
const TEXT: u8 = b'T';
/// Image with which those are compared.
const TEXT_IMAGE: &[u8] = b"/srv/demo/bin/calc";
/// Sample file with which those are compared.
const TEXT_SAMPLE: &str = "TIMER.0.0.all.all.0";

/// A word of a specification, most likely one that means something.
#[derive(Arbitrary, Debug)]
pub struct Word {
    tag: u8,
    values: Vec<Value>,
}

#[derive(Arbitrary, Debug)]
enum Value {
    Known(u8),
    Text(String),
    /// A wildcard and a letter, so many times.
    Many(u8),
}

impl Word {
    /// As it would be on a command line.
    pub fn text(&self) -> String {
        let mut word = TAGS[usize::from(self.tag) % TAGS.len()].to_owned();
        for value in &self.values {
            match value {
                Value::Known(index) => word.push_str(VALUES[usize::from(*index) % VALUES.len()]),
                Value::Text(text) => word.push_str(text),
                Value::Many(count) => word.extend((0..*count).map(|_| "*a")),
            }
        }
        shorten(&mut word);
        word
    }
}

fn shorten(word: &mut String) {
    let end = (0..=word.len().min(MAX_LENGTH)).rfind(|&at| word.is_char_boundary(at));
    word.truncate(end.unwrap_or(0));
}

#[derive(Arbitrary, Debug)]
struct Input {
    words: Vec<Word>,
    sample: [u8; 6],
    app: (Name, Name),
    image: (Name, Name),
}

/// Runs the target `profile_specification`.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    if let Some((&TEXT, text)) = data.split_first() {
        let mut words: Vec<String> = String::from_utf8_lossy(text)
            .lines()
            .map(str::to_owned)
            .collect();
        words.iter_mut().for_each(shorten);
        let paths = ImagePaths {
            recorded: TEXT_IMAGE.to_vec(),
            found: [b"/root", TEXT_IMAGE].concat(),
        };
        check(&words, TEXT_SAMPLE, &paths, &paths);
        return;
    }
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let words: Vec<String> = input.words.iter().map(Word::text).collect();
    let defaults = ["TIMER", "0", "0", "all", "all", "all"];
    let fields = input.sample.iter().zip(defaults).map(|(value, default)| {
        let value = VALUES[usize::from(*value) % VALUES.len()].replace(['.', '/'], "");
        match value.as_str() {
            "" => default.to_owned(),
            _ => value,
        }
    });
    let sample = fields.collect::<Vec<_>>().join(".");
    let paths = |(recorded, found): (Name, Name)| ImagePaths {
        recorded: shortened(recorded.bytes()),
        found: shortened(found.bytes()),
    };
    check(&words, &sample, &paths(input.app), &paths(input.image));
}

fn shortened(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(MAX_LENGTH);
    bytes
}

fn check(words: &[String], sample: &str, app: &ImagePaths, image: &ImagePaths) {
    let sample = SampleSpec::parse(sample.as_bytes()).expect("six parts, none empty");
    check_braces(words);
    let Ok(specification) = Specification::parse(words) else {
        return;
    };
    let selected = specification.selects(&sample);
    let images = specification.selects_images(app, image);
    if !specification.names_images() {
        assert!(images, "no word is about images");
    }
    // Words that only say where to look leave nothing out.
    let places = ["archive:", "session:", "session-exclude:"];
    let is_place = |word: &String| places.iter().any(|tag| word.starts_with(tag));
    if words.iter().all(is_place) {
        assert!(images && selected, "{words:?}");
    }
    // A part selects the samples that have it, whatever the other words say.
    for (tag, part) in [
        ("event:", &sample.event),
        ("count:", &sample.count),
        ("unit-mask:", &sample.unit_mask),
        ("tgid:", &sample.tgid),
        ("tid:", &sample.tid),
        ("cpu:", &sample.cpu),
    ] {
        let any = with(words, tag, "").selects(&sample);
        if !part.contains(',') {
            assert_eq!(with(words, tag, part).selects(&sample), any);
            assert!(!with(words, tag, &format!("{part}x")).selects(&sample));
        }
    }
    // What is named for exclusion is never there.
    assert!(!with(words, "image-exclude:", "*").selects_images(app, image));
}

/// Words that were read, with this value of `tag` instead of theirs.
fn with(words: &[String], tag: &str, value: &str) -> Specification {
    let others = words.iter().filter(|word| !word.starts_with(tag)).cloned();
    let words: Vec<String> = others.chain([format!("{tag}{value}")]).collect();
    Specification::parse(&words).expect("a tag is there once, as before")
}

/// Two specifications in braces are what each is alone; whatever else has braces is refused or says nothing.
fn check_braces(words: &[String]) {
    let alone = Specification::parse(words);
    let parsed = Profiles::parse(words);
    if !words.iter().any(|word| word == "{" || word == "}") {
        match (&parsed, &alone) {
            (Ok(Profiles::One(parsed)), Ok(alone)) => assert_eq!(**parsed, *alone),
            (Err(_), Err(_)) => {}
            other => panic!("{other:?}"),
        }
        let group = [&["{".to_owned()], words, &["}".to_owned()]].concat();
        let two = [&group[..], &group[..]].concat();
        match (Profiles::parse(&two), alone) {
            (Ok(Profiles::Two(both)), Ok(alone)) => assert_eq!(*both, [alone.clone(), alone]),
            (Ok(Profiles::One(_)), Ok(_)) => assert!(words.is_empty()),
            (Err(_), Err(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
