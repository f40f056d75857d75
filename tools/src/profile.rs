//! Which samples a report is about, and the samples of one image with its symbols.
//!
//! A [`Selection`] knows all files and images of the report but has read none of them. [`Selection::read_image`] reads
//! one image's symbols and samples; a caller that goes on to the next image drops them, so that memory does not grow with
//! the number of images.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oprofile_session::sample_path::ImageName;

use crate::builds::{Builds, Expected};
use crate::classes::{Classes, Merge};
use crate::error::ToolError;
use crate::image::{self, Found, ImageSearch};
use crate::lines::{Lines, SourceLine};
use crate::names::{long_name, printable, short_name};
use crate::progress::Progress;
use crate::samples::{SampleCounts, read_counts};
use crate::session::{Places, SampleFileName};
use crate::spec::{ImagePaths, Specification};
use crate::symbols::{CodeSymbol, Positions, SymbolTable};

/// One count for each class.
pub type Counts = Vec<u64>;

/// Number of an image in [`Selection::images`].
pub type ImageId = usize;

/// The images that a call-graph file is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArcImages {
    /// The program.
    pub app: ImageId,
    /// The image that calls.
    pub caller: ImageId,
    /// The image that is called.
    pub callee: ImageId,
}

/// An image or program and where its file is.
#[derive(Debug)]
pub struct Image {
    /// The name recorded; of a symbol file of a just-in-time compiler its path.
    pub name: ImageName,
    /// Whether it is a symbol file of a just-in-time compiler.
    pub jit: bool,
    found: OnceLock<Found>,
}

impl Image {
    fn new(name: ImageName) -> Self {
        Self {
            name,
            jit: false,
            found: OnceLock::new(),
        }
    }

    /// The full name as recorded.
    pub fn long_name(&self) -> Vec<u8> {
        long_name(&self.name)
    }

    /// The name without its directory.
    pub fn short_name(&self) -> Vec<u8> {
        short_name(&self.name)
    }
}

/// The sample files that a report is about, in classes.
#[derive(Debug)]
pub struct Selection {
    /// Sorted by name.
    pub files: Vec<SampleFileName>,
    /// Call-graph files of the same programs. Not in [`Classes::of_file`], see [`Classes::class_of`].
    pub arcs: Vec<SampleFileName>,
    /// The columns.
    pub classes: Classes,
    /// What is summed over.
    pub merge: Merge,
    /// All images and programs that `files` and `arcs` name.
    pub images: Vec<Image>,
    /// Program and image of each file.
    of_file: Vec<(ImageId, ImageId)>,
    /// The same of each call-graph file.
    of_arc: Vec<ArcImages>,
    /// Files by image.
    by_image: Vec<Vec<usize>>,
    search: ImageSearch,
    builds: Builds,
    /// Counts the files that were read.
    pub progress: Progress,
}

impl Selection {
    /// Chooses among the sample files of a session.
    ///
    /// With `exclude_dependent` only samples in the programs themselves are kept.
    pub fn new(
        places: &Places,
        spec: &Specification,
        merge: Merge,
        exclude_dependent: bool,
    ) -> Result<Self, ToolError> {
        let search = ImageSearch::new(
            places.image_prefix.clone(),
            places.debug_prefix.clone(),
            &places.image_paths,
        );
        let mut session = places.session_files()?;
        let mut known: HashMap<ImageName, ImagePaths> = HashMap::new();
        let mut selected = |file: &SampleFileName| {
            let name = &file.name;
            if (exclude_dependent && name.app != name.image) || !spec.selects(&name.spec) {
                return false;
            }
            if !spec.names_images() {
                return true;
            }
            let mut paths = |image: &ImageName| {
                if let Some(paths) = known.get(image) {
                    return paths.clone();
                }
                let recorded = long_name(image);
                let found = match search.find(image) {
                    Found::File(path) => path.as_os_str().as_bytes().to_vec(),
                    _ => recorded.clone(),
                };
                let paths = ImagePaths { recorded, found };
                known.insert(image.clone(), paths.clone());
                paths
            };
            let (app, image) = (paths(&name.app), paths(&name.image));
            spec.selects_images(&app, &image)
        };
        session.samples.retain(&mut selected);
        session.arcs.retain(&mut selected);
        if session.samples.is_empty() {
            return Err(ToolError::TooStrict);
        }
        let classes = Classes::new(&session.samples, merge)?;
        let mut selection = Self {
            files: session.samples,
            arcs: session.arcs,
            classes,
            merge,
            images: Vec::new(),
            of_file: Vec::new(),
            of_arc: Vec::new(),
            by_image: Vec::new(),
            search,
            builds: Builds::read(&places.sessions)?,
            progress: places.progress.clone(),
        };
        selection.number_images();
        Ok(selection)
    }

    fn number_images(&mut self) {
        let mut numbers: HashMap<ImageName, ImageId> = HashMap::new();
        let mut images: Vec<Image> = Vec::new();
        let mut number = |name: &ImageName, jit: bool| {
            if let Some(number) = numbers.get(name) {
                return *number;
            }
            numbers.insert(name.clone(), images.len());
            images.push(Image {
                jit,
                ..Image::new(name.clone())
            });
            images.len() - 1
        };
        for file in &self.files {
            let image = match file.jit_symbols() {
                Some(path) => number(&ImageName::Root(path.as_os_str().as_bytes().to_vec()), true),
                None => number(&file.name.image, false),
            };
            let app = if self.merge.lib {
                image
            } else {
                number(&file.name.app, false)
            };
            self.of_file.push((app, image));
        }
        // An anonymous region is what it is in the files with samples, a symbol file if there is one.
        let mut regions: HashMap<(&ImageName, &ImageName), ImageId> = HashMap::new();
        for (file, (_, image)) in self.files.iter().zip(&self.of_file) {
            if matches!(file.name.image, ImageName::Anon { .. }) {
                regions.insert((&file.name.app, &file.name.image), *image);
            }
        }
        for file in &self.arcs {
            let mut end = |image: &ImageName| match regions.get(&(&file.name.app, image)) {
                Some(image) => *image,
                None => number(image, false),
            };
            let caller = end(&file.name.image);
            let callee = file.name.callee.as_ref().map_or(caller, &mut end);
            let app = number(&file.name.app, false);
            self.of_arc.push(ArcImages {
                app,
                caller,
                callee,
            });
        }
        self.by_image = vec![Vec::new(); images.len()];
        for (file, (_, image)) in self.of_file.iter().enumerate() {
            self.by_image[*image].push(file);
        }
        self.images = images;
    }

    /// Where the images are looked for.
    pub fn search(&self) -> &ImageSearch {
        &self.search
    }

    /// Which build of an image the guest ran, as far as the session tells.
    pub fn expected_build(&self, image: &ImageName) -> Expected {
        self.builds.of(image)
    }

    /// Program and image of a file of [`Selection::files`]. With `--merge=lib` the program is the image.
    pub fn app_and_image(&self, file: usize) -> (ImageId, ImageId) {
        self.of_file[file]
    }

    /// Program and images of each of [`Selection::arcs`].
    pub fn arc_images(&self) -> &[ArcImages] {
        &self.of_arc
    }

    /// The files with samples of an image.
    pub fn files_of(&self, image: ImageId) -> &[usize] {
        &self.by_image[image]
    }

    /// Whether more than one program is shown.
    pub fn many_apps(&self) -> bool {
        self.of_file.windows(2).any(|pair| pair[0].0 != pair[1].0)
    }

    /// What became of the search for an image.
    pub fn found(&self, image: ImageId) -> &Found {
        let image = &self.images[image];
        image.found.get_or_init(|| {
            if image.jit {
                Found::File(PathBuf::from(std::ffi::OsStr::from_bytes(
                    &image.long_name(),
                )))
            } else {
                self.search.find(&image.name)
            }
        })
    }

    /// The path of an image, as found or else as recorded.
    pub fn path(&self, image: ImageId) -> PathBuf {
        match self.found(image) {
            Found::File(path) => path.clone(),
            _ => PathBuf::from(std::ffi::OsStr::from_bytes(&self.images[image].long_name())),
        }
    }

    /// Reads the symbols of an image, without samples: for a program's call-graph files name images that have none.
    pub fn read_symbols(&self, image: ImageId) -> ImageSymbols {
        let jit = self.images[image].jit;
        load_symbols(
            &self.images[image].name,
            self.found(image),
            self.search.debug_prefix(),
            jit,
            &self.expected_build(&self.images[image].name),
        )
    }

    /// Reads symbols and samples of an image.
    pub fn read_image(&self, image: ImageId) -> Result<ImageProfile, ToolError> {
        let mut symbols = self.read_symbols(image);
        let mut apps: Vec<AppSamples> = Vec::new();
        let files = self.files_of(image);
        let mut at = 0;
        while at < files.len() {
            let app = self.of_file[files[at]].0;
            // With --merge=lib all files have the same program, else files are sorted by it.
            let group = files[at..]
                .iter()
                .take_while(|file| self.of_file[**file].0 == app)
                .count();
            let files: Vec<(&Path, usize)> = files[at..at + group]
                .iter()
                .map(|file| (&*self.files[*file].path, self.classes.of_file[*file]))
                .collect();
            at += group;
            let counts = read_counts(&files, self.classes.len(), |header| {
                symbols.check_mtime(header.mtime);
                symbols.base(header.is_kernel, header.anon_start)
            })?;
            self.progress.advance(group);
            let mut by_symbol = Vec::new();
            symbols.split(&counts, &mut by_symbol);
            apps.push(AppSamples {
                app,
                counts,
                symbols: by_symbol,
            });
        }
        Ok(ImageProfile {
            image,
            symbols,
            apps,
        })
    }
}

/// The symbols of an image.
#[derive(Debug, Default)]
pub struct ImageSymbols {
    /// `None` when the image is one symbol as a whole.
    pub table: Option<SymbolTable>,
    /// Where the table is from.
    pub path: Option<PathBuf>,
    /// What the user ought to know about the binary.
    pub warning: Option<String>,
    jit: bool,
    /// Whether the binary is the one that ran, by its build-id.
    proven: bool,
    /// The name of the whole.
    name: Vec<u8>,
}

/// Reads the symbols of an image that was looked for. `prefix` is the root of the machine it is from. A binary of another build
/// than `expected` is not used.
pub fn load_symbols(
    name: &ImageName,
    found: &Found,
    prefix: Option<&Path>,
    jit: bool,
    expected: &Expected,
) -> ImageSymbols {
    let none = ImageSymbols {
        jit,
        name: long_name(name),
        ..ImageSymbols::default()
    };
    let Found::File(path) = found else {
        return ImageSymbols {
            warning: image::missing_warning(name, found),
            ..none
        };
    };
    let positions = if jit {
        Positions::Address
    } else {
        Positions::FileOffset
    };
    match SymbolTable::load(path, prefix, positions) {
        Ok(table) => match expected.check(path, table.build_id.as_deref()) {
            Ok(proven) => ImageSymbols {
                table: Some(table).filter(|table| !table.is_empty()),
                path: Some(path.clone()),
                proven,
                ..none
            },
            Err(warning) => ImageSymbols {
                warning: Some(warning),
                ..none
            },
        },
        Err(error) => ImageSymbols {
            warning: Some(format!(
                "warning: no symbols from {}: {error}.",
                printable(path.as_os_str().as_bytes())
            )),
            ..none
        },
    }
}

impl ImageSymbols {
    /// Compares the binary with the time that a sample file recorded for it; the first difference is reported. What its build-id
    /// proves needs no time.
    pub fn check_mtime(&mut self, recorded: u64) {
        if let (None, false, Some(path)) = (&self.warning, self.jit || self.proven, &self.path) {
            self.warning = image::mtime_warning(path, recorded);
        }
    }

    /// What is to be added to the keys of a sample file with these fields in its header, to have positions.
    pub fn base(&self, is_kernel: u32, anon_start: u64) -> u64 {
        match &self.table {
            Some(_) if self.jit => anon_start,
            Some(table) if is_kernel != 0 => table.text_offset,
            _ => 0,
        }
    }

    /// The name of a symbol as in the symbol table; `None` stands for the image as a whole.
    pub fn name(&self, symbol: Option<&CodeSymbol>) -> Cow<'_, [u8]> {
        match self.table.as_ref().zip(symbol) {
            Some((table, symbol)) => table.name(symbol),
            None => Cow::Borrowed(&self.name),
        }
    }

    /// The symbol of a number in [`SymbolSamples`].
    pub fn symbol(&self, number: Option<usize>) -> Option<&CodeSymbol> {
        self.table.as_ref()?.get(number?)
    }

    /// The address of a sample at `position` in `symbol`.
    pub fn address(&self, symbol: Option<&CodeSymbol>, position: u64) -> u64 {
        match self.table.as_ref().zip(symbol) {
            Some((table, symbol)) => table.address_in(symbol, position),
            None => position,
        }
    }

    /// The line table, read now. `None` when there is no debug information.
    pub fn load_lines(&self) -> Option<Lines> {
        let table = self.table.as_ref()?;
        Lines::load(table.debug_file.as_deref().or(self.path.as_deref())?)
    }

    /// The line of the instruction at `address` in `symbol`. A local symbol without lines, in a binary that has some, has
    /// its file's name and line 0.
    pub fn line(&self, lines: &Lines, symbol: &CodeSymbol, address: u64) -> Option<SourceLine> {
        lines.find(address).or_else(|| {
            let file = self.table.as_ref()?.source_file(symbol)?;
            Some(SourceLine {
                file: String::from_utf8_lossy(file).into(),
                line: 0,
            })
        })
    }

    /// Assigns sorted samples to the sorted symbols, one walk over both. Samples outside all symbols of an image that has
    /// some are in none.
    fn split(&self, counts: &SampleCounts, into: &mut Vec<SymbolSamples>) {
        let positions = &counts.positions;
        let Some(table) = &self.table else {
            if !positions.is_empty() {
                into.push(SymbolSamples {
                    symbol: None,
                    counts: counts.sum(0..positions.len()),
                    samples: 0..positions.len(),
                });
            }
            return;
        };
        let symbols = table.symbols();
        let (mut at, mut number) = (0, 0);
        while at < positions.len() && number < symbols.len() {
            let symbol = &symbols[number];
            if positions[at] < symbol.start {
                at += 1;
            } else if positions[at] >= symbol.end {
                number += 1;
            } else {
                let length = positions[at..]
                    .iter()
                    .take_while(|position| **position < symbol.end)
                    .count();
                let samples = at..at + length;
                into.push(SymbolSamples {
                    symbol: Some(number),
                    counts: counts.sum(samples.clone()),
                    samples,
                });
                at += length;
                number += 1;
            }
        }
    }
}

/// One image with its symbols and all its samples.
#[derive(Debug)]
pub struct ImageProfile {
    /// The image.
    pub image: ImageId,
    /// Its symbols.
    pub symbols: ImageSymbols,
    /// Its samples by program.
    pub apps: Vec<AppSamples>,
}

/// The samples of one image below one program.
#[derive(Debug)]
pub struct AppSamples {
    /// The program.
    pub app: ImageId,
    /// All samples, sorted by position.
    pub counts: SampleCounts,
    /// The symbols that have samples, sorted by position.
    pub symbols: Vec<SymbolSamples>,
}

/// The samples of one symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolSamples {
    /// Number of the symbol, for [`ImageSymbols::symbol`]; `None` is the image as a whole.
    pub symbol: Option<usize>,
    /// Sum by class.
    pub counts: Counts,
    /// The samples, as indices into [`AppSamples::counts`].
    pub samples: std::ops::Range<usize>,
}
