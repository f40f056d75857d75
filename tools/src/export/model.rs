//! A profile as the formats want it: interned frames, stacks, labels and counts.
//!
//! All text in a model has passed [`crate::names::printable`]: it holds no control characters, so no format needs to think of
//! newlines, escape sequences or characters that XML forbids.

use std::collections::{BTreeMap, HashMap};

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Event {
    /// Name, such as `TIMER`.
    pub name: String,
    /// Occurrences between two samples, as the session states it; `0` for a timer.
    pub period: String,
    /// Unit mask, as the session states it.
    pub unit_mask: String,
}

impl Event {
    /// Name with what tells the event from another of that name, for people.
    pub fn title(&self) -> String {
        match (self.period.as_str(), self.unit_mask.as_str()) {
            ("0", "0") => self.name.clone(),
            (period, "0") => format!("{}:{period}", self.name),
            (period, mask) => format!("{}:{period}:{mask}", self.name),
        }
    }
}

/// A binary, or a region of memory that has no file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Image {
    /// Full name.
    pub path: String,
    /// Name without the directory.
    pub name: String,
}

/// A place in the source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// File as the debug information names it.
    pub file: String,
    /// Line, from 1; 0 when only the file is known.
    pub line: u32,
}

/// A function, or a line of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame {
    /// Demangled name; the image's own name where nothing has one.
    pub function: String,
    /// Name in the symbol table.
    pub linkage_name: String,
    /// Index of the image.
    pub image: u32,
    /// Address of the function in its image; 0 when it is not known.
    pub address: u64,
    /// Where it is in the source, if that was asked for and is known.
    pub source: Option<Source>,
}

/// What samples have in common besides their stack. `None`: the session does not tell these apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels {
    /// The program, full name.
    pub program: String,
    /// The vCPU.
    pub vcpu: Option<String>,
    /// The process.
    pub tgid: Option<String>,
    /// The thread.
    pub tid: Option<String>,
}

impl Labels {
    /// The program without its directory.
    pub fn program_name(&self) -> &str {
        match self.program.rsplit('/').next() {
            Some(name) if !name.is_empty() => name,
            _ => &self.program,
        }
    }

    /// The labels from the widest to the narrowest, for formats whose only place for them is the stack itself.
    pub fn as_frames(&self) -> Vec<String> {
        let mut frames = vec![self.program_name().to_owned()];
        let rest = [
            ("process", &self.tgid),
            ("thread", &self.tid),
            ("vCPU", &self.vcpu),
        ];
        frames.extend(
            rest.into_iter()
                .filter_map(|(what, value)| Some(format!("{what} {}", value.as_ref()?))),
        );
        frames
    }

    /// All labels in a line.
    pub fn title(&self) -> String {
        self.as_frames().join(", ")
    }
}

/// How often one stack was seen with one set of labels and one event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// Index of the labels.
    pub labels: u32,
    /// Index of the event.
    pub event: u32,
    /// Indices of the frames, from the caller to the callee; never empty.
    pub stack: Vec<u32>,
    /// Samples, at least 1.
    pub count: u64,
}

/// A profile. Each sample of the session is in exactly one of `samples`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// The events.
    pub events: Vec<Event>,
    /// The images.
    pub images: Vec<Image>,
    /// The frames.
    pub frames: Vec<Frame>,
    /// The sets of labels.
    pub labels: Vec<Labels>,
    /// The counts, sorted; no two agree in labels, event and stack.
    pub samples: Vec<Sample>,
}

impl Profile {
    /// All samples of all events.
    pub fn total(&self) -> u128 {
        self.samples
            .iter()
            .map(|sample| u128::from(sample.count))
            .sum()
    }

    /// A frame's image, if the indices are good.
    pub fn image(&self, frame: &Frame) -> Option<&Image> {
        self.images.get(index(frame.image))
    }

    /// The frames of a sample, from the caller to the callee.
    pub fn stack<'a>(&'a self, sample: &'a Sample) -> impl DoubleEndedIterator<Item = &'a Frame> {
        sample
            .stack
            .iter()
            .filter_map(|frame| self.frames.get(index(*frame)))
    }

    /// The labels of a sample, if the indices are good.
    pub fn labels(&self, sample: &Sample) -> Option<&Labels> {
        self.labels.get(index(sample.labels))
    }

    /// The event of a sample, if the indices are good.
    pub fn event(&self, sample: &Sample) -> Option<&Event> {
        self.events.get(index(sample.event))
    }
}

/// An index of the model as one of a slice.
pub(super) fn index(index: u32) -> usize {
    // Lossless: Linux runs on nothing below 32 bits.
    index as usize
}

/// Values with a number each.
#[derive(Debug)]
struct Interned<T> {
    numbers: HashMap<T, u32>,
    values: Vec<T>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            values: Vec::new(),
        }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interned<T> {
    /// `None` when there are 2³² values already.
    fn number(&mut self, value: T) -> Option<u32> {
        if let Some(number) = self.numbers.get(&value) {
            return Some(*number);
        }
        let number = u32::try_from(self.values.len()).ok()?;
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        Some(number)
    }
}

/// The model has more distinct values than it can number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The profile has more than 4,294,967,296 different frames")]
pub struct ModelFull;

/// Makes a [`Profile`].
#[derive(Debug, Default)]
pub struct Builder {
    events: Interned<Event>,
    images: Interned<Image>,
    frames: Interned<Frame>,
    labels: Interned<Labels>,
    samples: BTreeMap<(u32, u32, Vec<u32>), u64>,
}

impl Builder {
    /// The number of an event.
    pub fn event(&mut self, event: Event) -> Result<u32, ModelFull> {
        self.events.number(event).ok_or(ModelFull)
    }

    /// The number of an image.
    pub fn image(&mut self, image: Image) -> Result<u32, ModelFull> {
        self.images.number(image).ok_or(ModelFull)
    }

    /// The number of a frame.
    pub fn frame(&mut self, frame: Frame) -> Result<u32, ModelFull> {
        self.frames.number(frame).ok_or(ModelFull)
    }

    /// The number of a set of labels.
    pub fn labels(&mut self, labels: Labels) -> Result<u32, ModelFull> {
        self.labels.number(labels).ok_or(ModelFull)
    }

    /// Adds samples; nothing happens when `count` is 0 or the stack is empty.
    pub fn add(&mut self, labels: u32, event: u32, stack: Vec<u32>, count: u64) {
        if count == 0 || stack.is_empty() {
            return;
        }
        let sum = self.samples.entry((labels, event, stack)).or_default();
        *sum = sum.saturating_add(count);
    }

    /// The finished profile.
    pub fn build(self) -> Profile {
        Profile {
            events: self.events.values,
            images: self.images.values,
            frames: self.frames.values,
            labels: self.labels.values,
            samples: self
                .samples
                .into_iter()
                .map(|((labels, event, stack), count)| Sample {
                    labels,
                    event,
                    stack,
                    count,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn frame(function: &str, image: u32, address: u64) -> Frame {
        Frame {
            function: function.to_owned(),
            linkage_name: function.to_owned(),
            image,
            address,
            source: None,
        }
    }

    pub(crate) fn image(path: &str) -> Image {
        Image {
            path: path.to_owned(),
            name: path.rsplit('/').next().unwrap_or(path).to_owned(),
        }
    }

    /// Two programs, two vCPUs, a call and names that formats may trip over. 1,000 samples.
    pub(crate) fn example() -> Profile {
        let mut builder = Builder::default();
        let event = Event {
            name: "TIMER".to_owned(),
            period: "0".to_owned(),
            unit_mask: "0".to_owned(),
        };
        let event = builder.event(event).unwrap();
        let calc = builder.image(image("/srv/calc")).unwrap();
        let kernel = builder.image(image("/boot/vmlinux")).unwrap();
        let main = builder.frame(frame("main", calc, 0x1100)).unwrap();
        let mut leaf = frame("std::vector<int; 3>::at(\"&\")", calc, 0x1200);
        leaf.source = Some(Source {
            file: "/src/<calc>.cc".to_owned(),
            line: 7,
        });
        let leaf = builder.frame(leaf).unwrap();
        let idle = builder
            .frame(frame("do idle", kernel, 0xffff_ffff_8100_0000))
            .unwrap();
        let mut labels = |program: &str, vcpu: &str, tgid: Option<&str>| {
            builder
                .labels(Labels {
                    program: program.to_owned(),
                    vcpu: Some(vcpu.to_owned()),
                    tgid: tgid.map(str::to_owned),
                    tid: None,
                })
                .unwrap()
        };
        let first = labels("/srv/calc", "0", Some("12"));
        let second = labels("/srv/calc", "1", Some("12"));
        let other = labels("/boot/vmlinux", "1", None);
        builder.add(first, event, vec![main, leaf], 600);
        builder.add(first, event, vec![main], 100);
        builder.add(second, event, vec![main, leaf], 250);
        builder.add(other, event, vec![idle], 50);
        builder.build()
    }

    #[test]
    fn equal_stacks_are_one_sample() {
        let mut builder = Builder::default();
        builder.add(0, 0, vec![1], 2);
        builder.add(0, 0, vec![1], 3);
        builder.add(0, 0, vec![2], 0);
        builder.add(0, 0, vec![], 9);
        let profile = builder.build();
        assert_eq!(profile.samples.len(), 1);
        assert_eq!(profile.total(), 5);
    }

    #[test]
    fn labels_are_frames_from_wide_to_narrow() {
        let labels = Labels {
            program: "/srv/a".to_owned(),
            vcpu: Some("1".to_owned()),
            tgid: Some("7".to_owned()),
            tid: None,
        };
        assert_eq!(labels.as_frames(), ["a", "process 7", "vCPU 1"]);
        assert_eq!(labels.title(), "a, process 7, vCPU 1");
    }
}
