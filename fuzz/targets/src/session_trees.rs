//! Trees of sessions, and every report that can be made of them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use arbitrary::{Arbitrary, Unstructured};
use oprofile_session::sample_file::{Header, encode, read_sorted};
use oprofile_session::sample_path::{ImageName, SamplePath, SampleSpec};
use oprofile_tools::archive::{self, Request};
use oprofile_tools::classes::Merge;
use oprofile_tools::demangle::Demangle;
use oprofile_tools::export::{self, Format};
use oprofile_tools::options::{Kind, Options, SortKey, SymbolFilter};
use oprofile_tools::report::{Sink, report};
use oprofile_tools::session::{Places, SampleFileName};
use oprofile_tools::spec::Specification;
use quick_xml::events::Event;
use tempfile::TempDir;

use crate::names::Name;
use crate::specifications::Word;

/// Where trees are made: in memory, where there is such a place.
const MEMORY: &str = "/dev/shm";
/// Most files of a kind: each costs some system calls.
const MAX_ENTRIES: usize = 16;
/// First byte of an input that is a tree as it is: files, one after the other.
const FILES: u8 = b'T';
/// The images that sample files name, and what is there.
const IMAGES: [(&str, &[u8]); 6] = [
    (
        "/srv/demo/bin/calc",
        include_bytes!("../../../tests/golden/data/root/srv/demo/bin/calc"),
    ),
    (
        "/srv/demo/bin/odd",
        include_bytes!("../../../tests/golden/data/root/srv/demo/bin/odd"),
    ),
    (
        "/srv/demo/bin/names",
        include_bytes!("../../../tests/golden/data/root/srv/demo/bin/names"),
    ),
    (
        "/srv/demo/bin/prog32",
        include_bytes!("../../../tests/golden/data/root/srv/demo/bin/prog32"),
    ),
    (
        "/srv/demo/lib/libshape.so.1",
        include_bytes!("../../../tests/golden/data/root/srv/demo/lib/libshape.so.1"),
    ),
    (
        "/boot/vmlinux-6.1.0-demo",
        include_bytes!("../../../tests/golden/data/root/boot/vmlinux-6.1.0-demo"),
    ),
];
/// Symbols of compiled code.
const JIT: &[u8] = include_bytes!("../../../tests/golden/data/root/srv/demo/jit/4711.jo");
/// Files beside the samples that mean something.
const BESIDE: [&str; 8] = [
    "samples/current/stats/total_samples",
    "samples/current/stats/lost_samples",
    "samples/current/stats/cpu0/lost_x",
    "samples/current/stats/throttled/TIMER",
    "samples/operf.log",
    "samples/oprofiled.log",
    "abi",
    "samples/current/{root}/srv/demo/bin/calc/{dep}/{anon:anon}/7.jo",
];

#[derive(Arbitrary, Debug)]
struct Tree {
    wanted: Wanted,
    samples: Vec<Samples>,
    binaries: Vec<Binary>,
    beside: Vec<(u8, Vec<u8>)>,
    others: Vec<(Name, Other)>,
}

/// What is asked.
#[derive(Arbitrary, Debug)]
struct Wanted {
    kind: u8,
    flags: u16,
    merge: u8,
    sort: Vec<u8>,
    threshold: u8,
    words: Vec<Word>,
    filter: Vec<u8>,
}

/// A sample file, at its place.
#[derive(Arbitrary, Debug)]
struct Samples {
    app: Image,
    image: Image,
    /// In a call-graph file.
    callee: Option<Image>,
    spec: u8,
    header: Option<[u32; 5]>,
    counts: Vec<(Key, u32)>,
    patches: Vec<(u16, u8)>,
    cut: u8,
}

#[derive(Arbitrary, Debug)]
enum Image {
    Known(u8),
    Named(Name),
}

#[derive(Arbitrary, Debug)]
enum Key {
    /// In the file, most likely in its code.
    Near(u16),
    /// From a caller to a callee.
    Arc(u16, u16),
    Any(u64),
}

/// One of the images, changed.
#[derive(Arbitrary, Debug)]
struct Binary {
    image: u8,
    patches: Vec<(u16, Patch)>,
    cut: u16,
}

#[derive(Arbitrary, Debug)]
enum Patch {
    Byte(u8),
    Word(u32),
    Long(u64),
}

/// A file or directory that has no business there.
#[derive(Arbitrary, Debug)]
enum Other {
    File(Vec<u8>),
    Directory,
    /// To the name, from the same place.
    Link(Name),
}

/// Runs the target `session_tree`: what is found is a file below the session, once, and in order; whatever is in the
/// files, each report is text or a message, and no sample that was read is missing in what is exported.
///
/// # Panics
/// When it finds something, or the tree cannot be made.
pub fn run(data: &[u8]) {
    let place = Path::new(MEMORY);
    let folder = match place.is_dir() {
        true => TempDir::new_in(place),
        false => TempDir::new(),
    };
    let folder = folder.expect("a temporary folder");
    let folder = folder.path();
    fs::create_dir_all(folder.join("samples/current")).expect("a session");
    let wanted = match data.split_first() {
        Some((&FILES, files)) => unpack(folder, files),
        _ => {
            let Ok(tree) = Tree::arbitrary_take_rest(Unstructured::new(data)) else {
                return;
            };
            tree.write(folder);
            tree.wanted
        }
    };
    check(folder, &wanted);
}

impl Tree {
    fn write(&self, folder: &Path) {
        let current = folder.join("samples/current");
        for samples in self.samples.iter().take(MAX_ENTRIES) {
            let path = below(&samples.path().to_bytes());
            write_new(&current, &path, &samples.bytes());
        }
        for binary in self.binaries.iter().take(IMAGES.len()) {
            let (name, bytes) = binary.changed();
            write_new(&folder.join("root"), &below(name.as_bytes()), &bytes);
        }
        for (file, bytes) in self.beside.iter().take(MAX_ENTRIES) {
            let path = BESIDE[usize::from(*file) % BESIDE.len()];
            let bytes = match path.ends_with(".jo") && bytes.is_empty() {
                true => JIT,
                false => bytes,
            };
            write_new(folder, Path::new(path), bytes);
        }
        for (name, other) in self.others.iter().take(MAX_ENTRIES) {
            let path = below(&name.bytes());
            match other {
                Other::File(bytes) => write_new(&current, &path, bytes),
                Other::Directory => {
                    // Not made is as good as made: the tree is arbitrary anyway.
                    let _ = fs::create_dir_all(current.join(path));
                }
                Other::Link(target) => {
                    let _ = symlink(current.join(below(&target.bytes())), current.join(path));
                }
            }
        }
    }
}

impl Image {
    fn name(&self) -> ImageName {
        match self {
            Self::Known(number) => match usize::from(*number) % (IMAGES.len() + 4) {
                6 => ImageName::Kern(b"demo_net".to_vec()),
                7 => ImageName::anon(b"anon", 7, 0x7f00_0000_1000, 0x7f00_0000_2000),
                8 => ImageName::anon(b"[vdso]", 8, 0x7000, 0x8000),
                9 => ImageName::Root(b"/srv/gone".to_vec()),
                image => ImageName::Root(IMAGES[image].0.as_bytes().to_vec()),
            },
            Self::Named(name) => ImageName::Root([b"/", &name.bytes()[..]].concat()),
        }
    }
}

impl Samples {
    fn path(&self) -> SamplePath {
        // Mostly what differs by vCPU only, which every report can show.
        let spec = match self.spec % 16 {
            cpu @ 0..=9 => format!("TIMER.0.0.all.all.{}", cpu % 3),
            10 => "TIMER.0.0.all.all.all".to_owned(),
            11 => "TIMER.0.0.7.7.0".to_owned(),
            12 => "TIMER.0.0.7.8.0".to_owned(),
            13 => "DEMO_MISS.5000.0.all.all.0".to_owned(),
            14 => "DEMO_MISS.5000.1.all.all.0".to_owned(),
            _ => "TIMER.0.0.x.-1.18446744073709551616".to_owned(),
        };
        SamplePath {
            app: self.app.name(),
            image: self.image.name(),
            callee: self.callee.as_ref().map(Image::name),
            spec: SampleSpec::parse(spec.as_bytes()).expect("one of the above"),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut header = Header::timer(0, 0, 0);
        if let Some([mtime, is_kernel, start, cpu_type, count]) = self.header {
            header = Header::timer(count, 0, mtime.into());
            header.is_kernel = is_kernel;
            header.anon_start = start.into();
            header.cpu_type = cpu_type % 128;
        }
        let counts: BTreeMap<u64, u64> = self
            .counts
            .iter()
            .map(|(key, count)| (key.value(), (*count).into()))
            .collect();
        let mut bytes = encode(&header, counts.into_iter());
        for (at, byte) in &self.patches {
            let at = usize::from(*at) % bytes.len();
            bytes[at] = *byte;
        }
        bytes.truncate(bytes.len() - usize::from(self.cut));
        bytes
    }
}

impl Key {
    fn value(&self) -> u64 {
        match *self {
            Self::Near(offset) => offset.into(),
            Self::Arc(from, to) => u64::from(from) << 32 | u64::from(to),
            Self::Any(key) => key,
        }
    }
}

impl Binary {
    fn changed(&self) -> (&'static str, Vec<u8>) {
        let (name, bytes) = IMAGES[usize::from(self.image) % IMAGES.len()];
        let mut bytes = bytes.to_vec();
        for (at, patch) in &self.patches {
            let patch = match patch {
                Patch::Byte(byte) => vec![*byte],
                Patch::Word(word) => word.to_le_bytes().to_vec(),
                Patch::Long(long) => long.to_le_bytes().to_vec(),
            };
            let at = usize::from(*at) % bytes.len();
            let length = patch.len().min(bytes.len() - at);
            bytes[at..at + length].copy_from_slice(&patch[..length]);
        }
        bytes.truncate(bytes.len().saturating_sub(self.cut.into()));
        (name, bytes)
    }
}

/// Writes files that are there as they are: length and bytes of the path, two bytes of length, and the contents; first
/// what is asked, in eight bytes.
fn unpack(folder: &Path, files: &[u8]) -> Wanted {
    let (asked, mut left) = files.split_at(files.len().min(8));
    let asked = |at: usize| asked.get(at).copied().unwrap_or_default();
    for _ in 0..MAX_ENTRIES {
        let Some((&length, rest)) = left.split_first() else {
            break;
        };
        let (path, rest) = rest.split_at(rest.len().min(length.into()));
        let Some((length, rest)) = rest.split_first_chunk() else {
            break;
        };
        let length = usize::from(u16::from_le_bytes(*length));
        let (bytes, rest) = rest.split_at(rest.len().min(length));
        write_new(folder, &below(path), bytes);
        left = rest;
    }
    Wanted {
        kind: asked(0),
        flags: u16::from_le_bytes([asked(1), asked(2)]),
        merge: asked(3),
        sort: vec![asked(4)],
        threshold: asked(5),
        words: Vec::new(),
        filter: Vec::new(),
    }
}

/// Through no link: what it leads to is written by its own name. What a file system refuses, such as a file where another is,
/// is not made.
fn write_new(folder: &Path, below: &Path, bytes: &[u8]) {
    let path = folder.join(below);
    let made = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::File::create_new(&path));
    if let Ok(mut file) = made {
        file.write_all(bytes).expect("memory for a small file");
    }
}

/// The name as a relative path that stays where it is.
fn below(name: &[u8]) -> PathBuf {
    let name: Vec<u8> = name.iter().copied().filter(|&byte| byte != 0).collect();
    let path = Path::new(OsStr::from_bytes(&name));
    let parts = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)));
    parts.collect()
}

/// Where the images lie that no tree has changed.
fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data/root")
}

fn check(folder: &Path, wanted: &Wanted) {
    // The words say what is wanted, and not where to look: the machine's own sessions are no input.
    let words: Vec<String> = wanted
        .words
        .iter()
        .map(Word::text)
        .filter(|word| !word.starts_with("archive:") && !word.starts_with("session"))
        .collect();
    let Ok(specification) = Specification::parse(&words) else {
        return;
    };
    let root = folder.join("root");
    let root = if root.is_dir() { root } else { images() };
    let places = Places::find(Some(folder), Some(&root), &specification);
    let places = match wanted.flag(0) {
        true => places
            .with_image_paths(&[images().join("lib/modules")])
            .expect("it is there"),
        false => places,
    };
    assert!(places.warnings().iter().all(|warning| !warning.is_empty()));
    let Ok(found) = places.session_files() else {
        return;
    };
    assert!(!found.samples.is_empty());
    check_files(&found.samples, folder, false);
    check_files(&found.arcs, folder, true);
    check_report(&places, &specification, wanted);
    check_export(
        &places,
        &specification,
        wanted,
        words.is_empty(),
        &found.samples,
    );
    check_archive(&places, &specification);
}

fn check_files(files: &[SampleFileName], folder: &Path, are_arcs: bool) {
    let current = folder.join("samples/current");
    for file in files {
        assert!(file.path.is_file(), "{:?}", file.path);
        assert_eq!(file.name.callee.is_some(), are_arcs);
        let below = file.path.strip_prefix(&current).expect("it is there");
        let name = SamplePath::parse(below.as_os_str().as_bytes());
        assert_eq!(name.as_ref(), Ok(&file.name));
    }
    assert!(
        files.windows(2).all(|pair| pair[0].name < pair[1].name),
        "not in order, or twice"
    );
}

impl Wanted {
    fn flag(&self, number: u32) -> bool {
        self.flags >> number & 1 != 0
    }

    fn merge(&self) -> Merge {
        let bit = |number: u32| self.merge >> number & 1 != 0;
        Merge {
            cpu: bit(0),
            lib: bit(1),
            tid: bit(2),
            unit_mask: bit(3),
            tgid: bit(4),
        }
    }

    fn options(&self) -> Options {
        let kinds = [Kind::Summary, Kind::Symbols, Kind::Details, Kind::CallGraph];
        let keys = [
            SortKey::Vma,
            SortKey::Sample,
            SortKey::Image,
            SortKey::AppName,
            SortKey::Symbol,
            SortKey::Debug,
        ];
        let symbols = ["main", "helper", "odd_tail", "_start"];
        let name = |number: &u8| symbols[usize::from(*number) % symbols.len()].into();
        let (include, exclude) = self.filter.split_at(self.filter.len() / 2);
        let kind = kinds[usize::from(self.kind) % kinds.len()];
        let xml = self.flag(1);
        let accumulated = self.flag(7) && kind != Kind::Summary && !xml;
        Options {
            kind,
            xml,
            command_line: "opreport \"<&\x01>\"".to_owned(),
            given: vec![("session", "<&\u{1}>\"'".to_owned())],
            merge: self.merge(),
            exclude_dependent: self.flag(2),
            threshold: f64::from(self.threshold % 101),
            no_header: self.flag(3),
            long_filenames: self.flag(4),
            // Half of what does not go together is not asked, for it is refused at once.
            show_address: self.flag(5) && kind != Kind::Summary,
            debug_info: self.flag(6) && kind != Kind::Summary,
            accumulated,
            json: self.flag(15) && kind != Kind::CallGraph && !xml && !accumulated,
            global_percent: self.flag(8) && matches!(kind, Kind::Details | Kind::CallGraph) && !xml,
            sort: self
                .sort
                .iter()
                .take(keys.len())
                .map(|key| keys[usize::from(*key) % keys.len()])
                .collect(),
            reverse: self.flag(9),
            demangle: self.demangle(),
            filter: SymbolFilter {
                include: include.iter().map(name).collect(),
                exclude: exclude.iter().map(name).collect(),
            },
        }
    }

    fn demangle(&self) -> Demangle {
        let kinds = [Demangle::Normal, Demangle::Smart, Demangle::None];
        kinds[usize::from(self.flags >> 10) % kinds.len()]
    }
}

/// A report as text, or the message that there is none.
fn make(places: &Places, specification: &Specification, options: &Options) -> Option<String> {
    let mut out = Vec::new();
    let mut warnings = Vec::new();
    let mut sink = Sink {
        out: &mut out,
        tell: &mut |warning| warnings.push(warning.to_owned()),
    };
    let made = report(places, specification, options, &mut sink);
    assert!(warnings.iter().all(|warning| !warning.is_empty()));
    if let Err(error) = made {
        assert!(!error.chain().is_empty());
        return None;
    }
    Some(checked_text(out))
}

/// Text that does nothing to a terminal.
fn checked_text(bytes: Vec<u8>) -> String {
    let text = String::from_utf8(bytes).expect("reports are UTF-8");
    let control = text
        .chars()
        .find(|character| character.is_control() && !"\n\t".contains(*character));
    assert_eq!(control, None, "in {text:?}");
    text
}

fn check_report(places: &Places, specification: &Specification, wanted: &Wanted) {
    let options = wanted.options();
    let Some(text) = make(places, specification, &options) else {
        return;
    };
    if options.xml {
        check_xml(&text);
    }
    if options.json {
        serde_json::from_str::<serde_json::Value>(&text).expect("a report is JSON");
    }
    assert_eq!(
        make(places, specification, &options),
        Some(text),
        "another report of the same"
    );
}

/// Elements end as they began, and whatever has an id has another.
fn check_xml(text: &str) {
    let mut reader = quick_xml::Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut depth = 0usize;
    loop {
        match reader.read_event().expect("well-formed XML") {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0, "{text}");
}

fn check_export(
    places: &Places,
    specification: &Specification,
    wanted: &Wanted,
    is_all: bool,
    files: &[SampleFileName],
) {
    let options = export::read::Options {
        merge: wanted.merge(),
        exclude_dependent: wanted.flag(2),
        demangle: wanted.demangle(),
        flat: wanted.flag(12),
        lines: wanted.flag(6),
    };
    let Ok(read) = export::read::read(places, specification, &options) else {
        return;
    };
    let profile = read.profile;
    if is_all {
        let counted = files
            .iter()
            .filter(|file| !options.exclude_dependent || file.name.app == file.name.image)
            .flat_map(|file| read_sorted(&file.path).expect("it was read before").1)
            .map(|(_, count)| u128::from(count))
            .sum();
        assert_eq!(profile.total(), counted, "samples that vanished");
    }
    let write = |format| {
        let mut out = Vec::new();
        let written = export::write(&profile, format, "title", &mut out);
        written.is_ok().then_some(out)
    };
    let folded = write(Format::Folded).map(checked_text);
    if let Some(folded) = folded {
        let counts = folded.lines().map(|line| {
            let (_, count) = line.rsplit_once(' ').expect("a stack and a count");
            count.parse::<u128>().expect("a number")
        });
        assert_eq!(counts.sum::<u128>(), profile.total());
    }
    if let Some(json) = write(Format::Json) {
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(
            json["total"].as_u64().map(u128::from),
            Some(profile.total())
        );
    }
    // The others are made of the same model; each reads as what it is.
    match wanted.flags >> 13 {
        1 | 2 => {
            let format = [Format::Firefox, Format::Speedscope][usize::from(wanted.flags >> 13) - 1];
            if let Some(json) = write(format) {
                serde_json::from_slice::<serde::de::IgnoredAny>(&json).expect("JSON");
            }
        }
        3 => {
            if let Some(svg) = write(Format::Flamegraph) {
                check_xml(&checked_text(svg));
            }
        }
        4 => {
            let compressed = write(Format::Pprof);
            assert!(compressed.is_none_or(|bytes| bytes.starts_with(&[0x1f, 0x8b])));
        }
        5 if profile.total() < 1_000 => {
            write(Format::PerfScript).map(checked_text);
        }
        _ => {}
    }
}

/// What goes into an archive stays in it, and nothing is there twice.
fn check_archive(places: &Places, specification: &Specification) {
    let request = Request {
        places,
        spec: specification,
        exclude_dependent: false,
        may_take_from_host: false,
    };
    let Ok(plan) = archive::plan(&request) else {
        return;
    };
    let mut places = Vec::new();
    for entry in &plan.entries {
        for part in entry.place.components() {
            assert!(
                matches!(part, Component::Normal(_) | Component::RootDir),
                "{:?}",
                entry.place
            );
        }
        places.push(&entry.place);
    }
    places.sort();
    assert!(places.windows(2).all(|pair| pair[0] != pair[1]), "twice");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An input that is a sample file of one golden session, and asks for `kind` with `flags`.
    fn packed(kind: u8, flags: u16) -> Vec<u8> {
        const PATH: &str = "samples/current/{root}/srv/demo/bin/calc/{dep}/{root}/srv/demo/bin/calc/TIMER.0.0.all.all.all";
        let file = images().join("../sessions/cg").join(PATH);
        let bytes = fs::read(file).unwrap();
        let [low, high] = flags.to_le_bytes();
        let length = u16::try_from(bytes.len()).unwrap().to_le_bytes();
        [
            &[kind, low, high, 0, 1, 0, 0, 0][..],
            &[u8::try_from(PATH.len()).unwrap()],
            PATH.as_bytes(),
            &length,
            &bytes,
        ]
        .concat()
    }

    #[test]
    fn sound_tree_has_every_report() {
        for kind in 0..4 {
            for flags in [0, 1 << 1, 1 << 6] {
                let folder = TempDir::new().unwrap();
                let wanted = unpack(folder.path(), &packed(kind, flags));
                let specification = Specification::parse(&[]).unwrap();
                let places = Places::find(Some(folder.path()), Some(&images()), &specification);
                let text = make(&places, &specification, &wanted.options()).expect("a report");
                let name = if kind == 0 && flags != 1 << 1 {
                    "calc"
                } else {
                    "step_one"
                };
                assert!(text.contains(name), "{text}");
                check(folder.path(), &wanted);
            }
        }
    }

    #[test]
    fn structured_samples_are_read_as_they_were_meant() {
        let samples = Samples {
            app: Image::Known(0),
            image: Image::Known(4),
            callee: None,
            spec: 0,
            header: None,
            counts: vec![(Key::Near(0x1100), 7), (Key::Any(0x1200), 8)],
            patches: Vec::new(),
            cut: 0,
        };
        let tree = Tree {
            wanted: unpack(Path::new("/nonexistent"), &[0, 0, 0, 0, 1, 0, 0, 0]),
            samples: vec![samples],
            binaries: Vec::new(),
            beside: Vec::new(),
            others: Vec::new(),
        };
        let folder = TempDir::new().unwrap();
        fs::create_dir_all(folder.path().join("samples/current")).unwrap();
        tree.write(folder.path());
        let specification = Specification::parse(&[]).unwrap();
        let places = Places::find(Some(folder.path()), Some(&images()), &specification);
        let text = make(&places, &specification, &tree.wanted.options()).expect("a report");
        assert!(text.contains("15 100.000 libshape.so.1"), "{text}");
    }
}
