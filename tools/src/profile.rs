//! Counts by program, image and symbol.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oprofile_session::sample_file::{CPU_TYPE_TIMER, SampleFile};
use oprofile_session::sample_path::ImageName;

use crate::classes::{Classes, Merge};
use crate::error::ToolError;
use crate::image;
use crate::names::long_name;
use crate::session::{Places, SampleFileName};
use crate::spec::{ImagePaths, Specification};
use crate::symbols::SymbolTable;

/// One count for each class.
pub type Counts = Vec<u64>;

/// The sample files that a report is about, in classes.
#[derive(Debug)]
pub struct Selection {
    files: Vec<SampleFileName>,
    /// The columns.
    pub classes: Classes,
    merge: Merge,
    prefix: Option<PathBuf>,
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
        let prefix = places.image_prefix.clone();
        let paths = |image: &ImageName| {
            let recorded = long_name(image);
            let found = match image::locate(image, prefix.as_deref()) {
                Some(path) => path.as_os_str().as_bytes().to_vec(),
                None => recorded.clone(),
            };
            ImagePaths { recorded, found }
        };
        let mut files = places.sample_files()?;
        files.retain(|file| {
            let name = &file.name;
            (!exclude_dependent || name.app == name.image)
                && spec.selects(&name.spec)
                && spec.selects_images(&paths(&name.app), &paths(&name.image))
        });
        if files.is_empty() {
            return Err(ToolError::TooStrict);
        }
        let classes = Classes::new(&files, merge)?;
        Ok(Self {
            files,
            classes,
            merge,
            prefix,
        })
    }

    /// The program a file is shown under.
    fn app<'a>(&self, file: &'a SampleFileName) -> &'a ImageName {
        if self.merge.lib {
            &file.name.image
        } else {
            &file.name.app
        }
    }

    /// Whether more than one program is shown.
    pub fn many_apps(&self) -> bool {
        self.files
            .windows(2)
            .any(|pair| self.app(&pair[0]) != self.app(&pair[1]))
    }

    fn read(file: &SampleFileName) -> Result<SampleFile, ToolError> {
        let samples = SampleFile::read(&file.path).map_err(|source| ToolError::SampleFile {
            path: file.path.clone(),
            source,
        })?;
        match samples.header.cpu_type {
            CPU_TYPE_TIMER => Ok(samples),
            cpu_type => Err(ToolError::CpuType {
                path: file.path.clone(),
                cpu_type,
            }),
        }
    }

    /// Counts by program and image.
    pub fn by_image(&self) -> Result<BTreeMap<ImageName, BTreeMap<ImageName, Counts>>, ToolError> {
        let mut apps: BTreeMap<ImageName, BTreeMap<ImageName, Counts>> = BTreeMap::new();
        for (file, class) in self.files.iter().zip(&self.classes.of_file) {
            let total = Self::read(file)?.total();
            let images = apps.entry(self.app(file).clone()).or_default();
            let counts = images
                .entry(file.name.image.clone())
                .or_insert_with(|| vec![0; self.classes.len()]);
            counts[*class] = counts[*class].saturating_add(total);
        }
        Ok(apps)
    }

    /// Counts by program and symbol. Samples outside all symbols of an image that has some are left out.
    pub fn by_symbol(&self) -> Result<SymbolProfile, ToolError> {
        let mut profile = SymbolProfile::default();
        let mut rows: BTreeMap<(ImageName, ImageName, Option<usize>), Counts> = BTreeMap::new();
        for (file, class) in self.files.iter().zip(&self.classes.of_file) {
            let samples = Self::read(file)?;
            let image = &file.name.image;
            let loaded = profile
                .images
                .entry(image.clone())
                .or_insert_with(|| LoadedImage::load(image, self.prefix.as_deref()));
            loaded.check_mtime(samples.header.mtime);
            let table = loaded.table.as_ref();
            for (key, count) in &samples.counts {
                let symbol = match table {
                    None => None,
                    Some(table) => {
                        let base = if samples.header.is_kernel == 0 {
                            0
                        } else {
                            table.text_offset
                        };
                        match table.find(key.wrapping_add(base)) {
                            Some((index, _)) => Some(index),
                            None => continue,
                        }
                    }
                };
                let counts = rows
                    .entry((self.app(file).clone(), image.clone(), symbol))
                    .or_insert_with(|| vec![0; self.classes.len()]);
                counts[*class] = counts[*class].saturating_add(*count);
            }
        }
        profile.rows = rows
            .into_iter()
            .map(|((app, image, symbol), counts)| SymbolRow {
                app,
                image,
                symbol,
                counts,
            })
            .collect();
        Ok(profile)
    }

    /// The path of an image, as found or else as recorded.
    pub fn path(&self, image: &ImageName) -> PathBuf {
        image::locate(image, self.prefix.as_deref())
            .unwrap_or_else(|| PathBuf::from(OsStr::from_bytes(&long_name(image))))
    }
}

/// The counts of one symbol of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolRow {
    /// The program.
    pub app: ImageName,
    /// The binary the symbol is in.
    pub image: ImageName,
    symbol: Option<usize>,
    /// The counts.
    pub counts: Counts,
}

/// A binary that has been looked for.
#[derive(Debug, Default)]
struct LoadedImage {
    /// `None` when the image is one symbol as a whole.
    table: Option<SymbolTable>,
    warning: Option<String>,
    /// Where the table is from.
    path: Option<PathBuf>,
}

impl LoadedImage {
    fn load(image: &ImageName, prefix: Option<&Path>) -> Self {
        let Some(path) = image::locate(image, prefix) else {
            return Self {
                warning: image::missing_warning(image, prefix),
                ..Self::default()
            };
        };
        match SymbolTable::load(&path) {
            Ok(table) => Self {
                table: Some(table).filter(|table| !table.is_empty()),
                warning: None,
                path: Some(path),
            },
            Err(error) => Self {
                table: None,
                path: None,
                warning: Some(format!(
                    "warning: no symbols from {}: {error}.",
                    crate::names::printable(path.as_os_str().as_bytes())
                )),
            },
        }
    }

    /// Compares the binary with the time that a sample file recorded for it; the first difference is reported.
    fn check_mtime(&mut self, recorded: u64) {
        if let (None, Some(path)) = (&self.warning, &self.path) {
            self.warning = image::mtime_warning(path, recorded);
        }
    }
}

/// Counts by symbol, with the binaries they come from.
#[derive(Debug, Default)]
pub struct SymbolProfile {
    /// The rows, not sorted.
    pub rows: Vec<SymbolRow>,
    images: BTreeMap<ImageName, LoadedImage>,
}

impl SymbolProfile {
    /// Name and address of a row's symbol. An image without symbols is one symbol of its own name at 0.
    pub fn symbol(&self, row: &SymbolRow) -> (Vec<u8>, u64) {
        let table = self
            .images
            .get(&row.image)
            .and_then(|image| image.table.as_ref());
        match table
            .zip(row.symbol)
            .and_then(|(table, index)| table.get(index))
        {
            Some(symbol) => (symbol.name.clone(), symbol.address),
            None => (long_name(&row.image), 0),
        }
    }

    /// What the user ought to know about the binaries, by name.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.images
            .values()
            .filter_map(|image| image.warning.as_deref())
    }
}
