//! From a session to the model.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use oprofile_session::sample_file::read_sorted;
use oprofile_session::sample_path::{ImageName, SampleSpec};

use super::arcs::{Callers, divide};
use super::model::{Builder, Event, Frame, Image, Labels, ModelFull, Profile, Source};
use crate::builds::Expected;
use crate::classes::Merge;
use crate::demangle::{Demangle, demangle};
use crate::error::ToolError;
use crate::image::Found;
use crate::lines::Lines;
use crate::names::{long_name, printable, short_name};
use crate::profile::{ImageSymbols, Selection, load_symbols};
use crate::progress::Progress;
use crate::session::{Places, SampleFileName};
use crate::spec::Specification;

/// What a sample file may leave open.
const ALL: &str = "all";

/// What goes into the model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What is summed over; `lib` makes each image its own program.
    pub merge: Merge,
    /// Only the programs' own samples.
    pub exclude_dependent: bool,
    /// How names are shown.
    pub demangle: Demangle,
    /// No callers, even where they were sampled.
    pub flat: bool,
    /// A frame for each source line; debug information is read.
    pub lines: bool,
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The session.
    #[error(transparent)]
    Session(#[from] ToolError),
    /// Its size.
    #[error(transparent)]
    Full(#[from] ModelFull),
}

/// A model and what the user ought to be told beside it, one or more lines each.
#[derive(Debug)]
pub struct Read {
    /// The model.
    pub profile: Profile,
    /// The warnings.
    pub warnings: Vec<String>,
}

/// A caller: image, key and how the key is to be read.
type Caller = (ImageName, u32, u32, u64);

/// Reads the samples of a session.
///
/// All samples that the specification selects are in the result, also those outside all functions: they are in a frame named as
/// the image, in brackets. So the total is that of `opreport` without `--symbols`.
pub fn read(places: &Places, spec: &Specification, options: &Options) -> Result<Read, ReadError> {
    // Axes are no matter here: everything is told apart by labels.
    let everything = Merge {
        cpu: true,
        lib: options.merge.lib,
        tid: true,
        unit_mask: true,
        tgid: true,
    };
    let selection = Selection::new(places, spec, everything, options.exclude_dependent)?;
    let progress = &selection.progress;
    progress.expect(selection.files.len());
    let arcs = if options.flat {
        HashMap::new()
    } else if spec.names_images() {
        // A caller need not be selected to be named.
        read_arcs(&places.session_files()?.arcs, progress)?
    } else {
        read_arcs(&selection.arcs, progress)?
    };
    let mut reader = Reader {
        selection: &selection,
        options,
        jit: jit_files(&selection.files),
        images: HashMap::new(),
        frames: HashMap::new(),
        builder: Builder::default(),
    };
    for file in &selection.files {
        let name = &file.name;
        let callers = arcs.get(&(name.app.clone(), name.image.clone(), spec_key(&name.spec)));
        reader.add(file, callers)?;
        progress.advance(1);
    }
    let mut warnings = places.warnings();
    let by_name: BTreeMap<&ImageName, &ImageSymbols> = reader
        .images
        .iter()
        .map(|(name, known)| (name, &known.symbols))
        .collect();
    warnings.extend(
        by_name
            .values()
            .filter_map(|symbols| symbols.warning.clone()),
    );
    Ok(Read {
        profile: reader.builder.build(),
        warnings,
    })
}

/// Program and image of the callee, and the rest of the file's name: what samples and arcs must agree in.
type ArcKey = (ImageName, ImageName, [String; 6]);

fn spec_key(spec: &SampleSpec) -> [String; 6] {
    [
        &spec.event,
        &spec.count,
        &spec.unit_mask,
        &spec.tgid,
        &spec.tid,
        &spec.cpu,
    ]
    .map(Clone::clone)
}

fn read_arcs(
    files: &[SampleFileName],
    progress: &Progress,
) -> Result<HashMap<ArcKey, Callers<Caller>>, ToolError> {
    progress.expect(files.len());
    let mut arcs: HashMap<ArcKey, Callers<Caller>> = HashMap::new();
    for file in files {
        progress.advance(1);
        let name = &file.name;
        let Some(callee) = &name.callee else {
            continue;
        };
        let (header, counts) =
            read_sorted(&file.path).map_err(|source| ToolError::sample_file(&file.path, source))?;
        let key = (name.app.clone(), callee.clone(), spec_key(&name.spec));
        let callers = arcs.entry(key).or_default();
        for (key, count) in counts {
            let caller = (
                name.image.clone(),
                high(key),
                header.is_kernel,
                header.anon_start,
            );
            let sum = callers
                .entry(low(key))
                .or_default()
                .entry(caller)
                .or_default();
            *sum = sum.saturating_add(count);
        }
    }
    Ok(arcs)
}

/// The callee's half of an arc; all that an arc knows of an offset.
#[expect(clippy::cast_possible_truncation)]
fn low(key: u64) -> u32 {
    key as u32
}

/// The caller's half of an arc.
fn high(key: u64) -> u32 {
    low(key >> u32::BITS)
}

fn jit_files(files: &[SampleFileName]) -> HashMap<ImageName, PathBuf> {
    files
        .iter()
        .filter_map(|file| Some((file.name.image.clone(), file.jit_symbols()?)))
        .collect()
}

/// An image that has been read.
struct Known {
    /// The model's number.
    number: u32,
    symbols: ImageSymbols,
    /// If they are wanted and there are any.
    lines: Option<Lines>,
}

/// How a key is to be read.
#[derive(Clone, Copy)]
struct Place {
    key: u64,
    is_kernel: u32,
    anon_start: u64,
    /// It is a return address: the call is before it, maybe on another line.
    is_return: bool,
}

/// Fills the model.
struct Reader<'a> {
    selection: &'a Selection,
    options: &'a Options,
    /// Symbol files of just-in-time compilers.
    jit: HashMap<ImageName, PathBuf>,
    /// Each image seen.
    images: HashMap<ImageName, Known>,
    /// The model's number of each frame, by image, symbol and line.
    frames: HashMap<(u32, Option<usize>, Option<Source>), u32>,
    builder: Builder,
}

impl Reader<'_> {
    fn add(
        &mut self,
        file: &SampleFileName,
        callers: Option<&Callers<Caller>>,
    ) -> Result<(), ReadError> {
        let (header, counts) =
            read_sorted(&file.path).map_err(|source| ToolError::sample_file(&file.path, source))?;
        let image = &file.name.image;
        self.image(image)?.symbols.check_mtime(header.mtime);
        let labels = self.labels(file)?;
        let event = self.event(&file.name.spec)?;
        for (key, count) in counts {
            let place = Place {
                key,
                is_kernel: header.is_kernel,
                anon_start: header.anon_start,
                is_return: false,
            };
            let leaf = self.frame(image, place)?;
            let (parts, rest) = match callers.and_then(|callers| callers.get(&low(key))) {
                Some(callers) => divide(count, callers),
                None => (Vec::new(), count),
            };
            self.builder.add(labels, event, vec![leaf], rest);
            for ((image, key, is_kernel, anon_start), part) in parts {
                let place = Place {
                    key: key.into(),
                    is_kernel,
                    anon_start,
                    is_return: true,
                };
                let caller = self.frame(&image, place)?;
                self.builder.add(labels, event, vec![caller, leaf], part);
            }
        }
        Ok(())
    }

    fn image(&mut self, name: &ImageName) -> Result<&mut Known, ReadError> {
        if !self.images.contains_key(name) {
            let search = self.selection.search();
            let symbols = match self.jit.get(name) {
                Some(path) => load_symbols(
                    &ImageName::Root(path.as_os_str().as_bytes().to_vec()),
                    &Found::File(path.clone()),
                    search.prefix(),
                    true,
                    &Expected::Anything,
                ),
                None => load_symbols(
                    name,
                    &search.find(name),
                    search.prefix(),
                    false,
                    &self.selection.expected_build(name),
                ),
            };
            let number = self.builder.image(Image {
                path: printable(&long_name(name)),
                name: printable(&short_name(name)),
            })?;
            let lines = self.options.lines.then(|| symbols.load_lines()).flatten();
            let known = Known {
                number,
                symbols,
                lines,
            };
            self.images.insert(name.clone(), known);
        }
        // It is there now; the error cannot happen, and is no panic if it does.
        Ok(self.images.get_mut(name).ok_or(ModelFull)?)
    }

    fn frame(&mut self, image: &ImageName, place: Place) -> Result<u32, ReadError> {
        let how = self.options.demangle;
        self.image(image)?;
        let Known {
            number,
            symbols,
            lines,
        } = self.images.get(image).ok_or(ModelFull)?;
        let number = *number;
        let base = symbols.base(place.is_kernel, place.anon_start);
        let position = place.key.wrapping_add(base);
        let found = symbols
            .table
            .as_ref()
            .and_then(|table| table.find(position));
        let index = found.map(|(index, _)| index);
        let symbol = found.map(|(_, symbol)| symbol);
        let source = lines.as_ref().zip(symbol).and_then(|(lines, symbol)| {
            let address = symbols.address(Some(symbol), position);
            let address = address.saturating_sub(u64::from(place.is_return));
            let line = symbols.line(lines, symbol, address)?;
            Some(Source {
                file: printable(line.file.as_bytes()),
                line: line.line,
            })
        });
        if let Some(frame) = self.frames.get(&(number, index, source.clone())) {
            return Ok(*frame);
        }
        let (function, linkage_name, address) = match symbol {
            Some(symbol) => {
                let name = symbols.name(Some(symbol));
                let shown = match std::str::from_utf8(&name) {
                    Ok(name) => printable(demangle(name, how).as_bytes()),
                    Err(_) => printable(&name),
                };
                (shown, printable(&name), symbol.address)
            }
            None => {
                let name = format!("[{}]", printable(&short_name(image)));
                (name.clone(), name, 0)
            }
        };
        let frame = self.builder.frame(Frame {
            function,
            linkage_name,
            image: number,
            address,
            source: source.clone(),
        })?;
        self.frames.insert((number, index, source), frame);
        Ok(frame)
    }

    fn labels(&mut self, file: &SampleFileName) -> Result<u32, ReadError> {
        let merge = self.options.merge;
        let program = if merge.lib {
            &file.name.image
        } else {
            &file.name.app
        };
        let label =
            |text: &str, merged: bool| (!merged && text != ALL).then(|| printable(text.as_bytes()));
        let spec = &file.name.spec;
        Ok(self.builder.labels(Labels {
            program: printable(&long_name(program)),
            vcpu: label(&spec.cpu, merge.cpu),
            tgid: label(&spec.tgid, merge.tgid),
            tid: label(&spec.tid, merge.tid),
        })?)
    }

    fn event(&mut self, spec: &SampleSpec) -> Result<u32, ReadError> {
        let unit_mask = if self.options.merge.unit_mask {
            "0"
        } else {
            &spec.unit_mask
        };
        Ok(self.builder.event(Event {
            name: printable(spec.event.as_bytes()),
            period: printable(spec.count.as_bytes()),
            unit_mask: printable(unit_mask.as_bytes()),
        })?)
    }
}
