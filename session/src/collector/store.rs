//! The counts of the session, by sample file and key.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::directory::SessionDirectory;
use super::images::{ImageId, Images};
use super::region_symbols::RegionSymbols;
use super::{CollectorError, CollectorOptions};
use crate::guest::GuestFiles;
use crate::sample_file::{self, Header};
use crate::sample_path::{SamplePath, SampleSpec};

/// Most sample files in one session: 64 programs of 64 images each on 16 vCPUs.
pub(super) const MAX_FILES: usize = 65_536;
/// Most addresses counted in one session, over all files. About 32 bytes each: 128 MiB.
pub(super) const MAX_KEYS: usize = 1 << 22;

/// What makes a sample file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    /// The program it is filed under.
    pub(super) app: ImageId,
    /// The image; in a call-graph file the caller.
    pub(super) image: ImageId,
    /// The callee, in a call-graph file.
    pub(super) callee: Option<ImageId>,
    /// vCPU, unless all are counted together.
    pub(super) cpu: Option<u64>,
}

#[derive(Debug, Default)]
struct Counts {
    by_key: HashMap<u64, u32>,
    changed: bool,
}

/// Why a count could not be raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// [`MAX_FILES`] or [`MAX_KEYS`] reached.
    Full,
    /// The count is at its maximum.
    Saturated,
}

/// The path of a sample file below the session.
fn path_of(file: FileKey, images: &Images, options: &CollectorOptions) -> SamplePath {
    let name = |id| images.get(id).name.clone();
    let all = || "all".to_owned();
    SamplePath {
        app: name(file.app),
        image: name(file.image),
        callee: file.callee.map(name),
        spec: SampleSpec {
            event: options.event.clone(),
            count: options.count.to_string(),
            unit_mask: options.unit_mask.to_string(),
            tgid: all(),
            tid: all(),
            cpu: file.cpu.map_or_else(all, |cpu| cpu.to_string()),
        },
    }
}

/// All counts.
#[derive(Debug, Default)]
pub(super) struct Store {
    files: HashMap<FileKey, Counts>,
    keys: usize,
    region_symbols: RegionSymbols,
}

impl Store {
    /// Whether nothing has been counted.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds one to the count of `key` in `file`.
    pub(super) fn count(&mut self, file: FileKey, key: u64) -> Result<(), Refused> {
        if !self.files.contains_key(&file) && self.files.len() >= MAX_FILES {
            return Err(Refused::Full);
        }
        let counts = self.files.entry(file).or_default();
        match counts.by_key.get_mut(&key) {
            Some(value) => *value = value.checked_add(1).ok_or(Refused::Saturated)?,
            None if self.keys >= MAX_KEYS => return Err(Refused::Full),
            None => {
                counts.by_key.insert(key, 1);
                self.keys += 1;
            }
        }
        counts.changed = true;
        Ok(())
    }

    /// Writes the files that changed.
    pub(super) fn write(
        &mut self,
        directory: &mut SessionDirectory,
        images: &Images,
        options: &CollectorOptions,
        files: &dyn GuestFiles,
    ) -> Result<(), CollectorError> {
        for (file, counts) in &mut self.files {
            if !counts.changed {
                continue;
            }
            let image = images.get(file.image);
            let callee = file.callee.map(|callee| images.get(callee));
            let mut header = Header::timer(options.count, options.unit_mask, image.mtime);
            header.anon_start = image.anon_start();
            header.cg_to_anon_start = callee.map_or(0, |callee| callee.anon_start());
            let path = path_of(*file, images, options);
            let bytes = sample_file::encode(
                &header,
                counts
                    .by_key
                    .iter()
                    .map(|(key, value)| (*key, u64::from(*value))),
            );
            directory.place_sample_file(Path::new(OsStr::from_bytes(&path.to_bytes())), &bytes)?;
            counts.changed = false;
        }
        let regions = self.files.keys().filter_map(|file| {
            let image = images.get(file.image);
            match (image.region(), file.callee) {
                (Some(region), None) => Some((*file, region, &image.name)),
                _ => None,
            }
        });
        let path = |file| {
            PathBuf::from(OsStr::from_bytes(
                &path_of(file, images, options).to_bytes(),
            ))
        };
        self.region_symbols.write(directory, regions, path, files)
    }
}

#[cfg(test)]
impl Store {
    /// Sets a count, to test its limit.
    pub(super) fn preset(&mut self, value: u32) {
        for counts in self.files.values_mut() {
            counts.by_key.values_mut().for_each(|count| *count = value);
        }
    }
}
