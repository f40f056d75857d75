//! The images of a session: each has one name and one modification time for as long as the session lasts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::CollectorError;
use super::copies::{Archive, GuestCopy, Room};
use super::directory::{Placed, SessionDirectory};
use super::kernel_images::{self, Comparison, KernelImages, Relation};
use crate::file_list::FileRecord;
use crate::guest::{CookieTarget, GuestFiles, KernelImage};
use crate::guest_path;
use crate::sample_path::ImageName;
use crate::symbol_elf;

/// Most images in one session. A storm of short-lived processes with anonymous code makes one each; this many are a
/// few MiB here and as many directories on the host.
pub(super) const MAX_IMAGES: usize = 16_384;
/// Most cookies remembered; further ones are asked for each time.
const MAX_COOKIES: usize = 65_536;
/// Most names that are escaped alike. A guest makes them with doubled slashes; real ones are two, a file and another that is
/// called like it with the mark of a deleted one.
const MAX_NAMESAKES: u32 = 64;
/// Most kernel images that share a name and differ in content.
const MAX_INCARNATIONS: u32 = 64;

/// Number of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ImageId(usize);

/// One image.
#[derive(Debug)]
pub(super) struct Image {
    /// Its name in the session.
    pub(super) name: ImageName,
    /// Modification time, written into each header that names this image. Set before the first of them is written.
    pub(super) mtime: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File(GuestCopy),
    Anonymous(Region),
    Kernel {
        image: Arc<KernelImage>,
        written: bool,
    },
}

/// An anonymous region.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) cookie: u64,
}

impl Image {
    /// Start address of an anonymous region, 0 for everything else.
    pub(super) fn anon_start(&self) -> u64 {
        self.region().map_or(0, |region| region.start)
    }

    /// The anonymous region, if it is one.
    pub(super) fn region(&self) -> Option<&Region> {
        match &self.source {
            Source::Anonymous(region) => Some(region),
            _ => None,
        }
    }
}

/// What a cookie was found to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) id: ImageId,
    /// Of an anonymous region the first address, else `None`.
    pub(super) region_start: Option<u64>,
}

/// No further image can be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// All images of the session.
#[derive(Debug)]
pub(super) struct Images {
    images: Vec<Image>,
    by_name: HashMap<ImageName, ImageId>,
    cookies: HashMap<u64, Target>,
    kernel: KernelImages,
    /// What the copies of guest files take.
    copied: Room,
    /// Modification time of the files made here, seconds since 1970.
    started: u64,
}

impl Images {
    pub(super) fn new(started: u64) -> Self {
        Self {
            images: Vec::new(),
            by_name: HashMap::new(),
            cookies: HashMap::new(),
            kernel: KernelImages::default(),
            copied: Room::default(),
            started,
        }
    }

    pub(super) fn get(&self, id: ImageId) -> &Image {
        &self.images[id.0]
    }

    /// The image of a cookie that has been seen before.
    pub(super) fn known_cookie(&self, cookie: u64) -> Option<Target> {
        self.cookies.get(&cookie).copied()
    }

    /// Takes in what `cookie` stands for.
    pub(super) fn add_cookie(&mut self, cookie: u64, target: CookieTarget) -> Result<Target, Full> {
        let target = match target {
            CookieTarget::File { path, deleted } => {
                let id = self.file(path, deleted)?;
                if let Source::File(copy) = &mut self.images[id.0].source {
                    copy.add_cookie(cookie);
                }
                Target {
                    id,
                    region_start: None,
                }
            }
            CookieTarget::Anonymous {
                tgid,
                start,
                end,
                name,
            } => {
                let name = guest_path::escape_region_name(name.as_bytes());
                let name = ImageName::anon(&name, tgid, start, end);
                let id = match self.by_name.get(&name) {
                    Some(id) => *id,
                    None => {
                        let region = Region { start, end, cookie };
                        self.add(name, 0, Source::Anonymous(region))?
                    }
                };
                Target {
                    id,
                    region_start: Some(start),
                }
            }
        };
        if self.cookies.len() < MAX_COOKIES {
            self.cookies.insert(cookie, target);
        }
        Ok(target)
    }

    fn file(&mut self, guest_path: Vec<u8>, deleted: bool) -> Result<ImageId, Full> {
        // The mark OProfile users know keeps the file apart from a newer one of the same name.
        let shown = if deleted {
            [&guest_path[..], b" (deleted)"].concat()
        } else {
            guest_path.clone()
        };
        let mut path = guest_path::escape_path(&shown);
        for _ in 0..MAX_NAMESAKES {
            let name = ImageName::Root(path);
            let Some(&id) = self.by_name.get(&name) else {
                let copy = GuestCopy::new(guest_path, deleted);
                return self.add(name, 0, Source::File(copy));
            };
            if let Source::File(copy) = &self.images[id.0].source
                && copy.path() == guest_path
            {
                return Ok(id);
            }
            // Taken by a kernel image, or by another name that is escaped alike: one with more slashes, or of equal hash.
            let ImageName::Root(taken) = name else {
                return Err(Full);
            };
            path = guest_path::escape_again(&taken);
            if path.len() > guest_path::MAX_PATH {
                return Err(Full);
            }
        }
        Err(Full)
    }

    /// Takes in a kernel image as it is now.
    pub(super) fn kernel(&mut self, found: &Arc<KernelImage>) -> Result<ImageId, Full> {
        if let Some(known) = self.kernel.resolved(found) {
            return known;
        }
        let resolved = self.resolve_kernel(found);
        self.kernel.resolve(found, resolved);
        resolved
    }

    fn resolve_kernel(&mut self, found: &Arc<KernelImage>) -> Result<ImageId, Full> {
        let mut comparison = Comparison::new(found);
        for &id in self.kernel.namesakes(found) {
            let Source::Kernel { image, written } = &mut self.images[id.0].source else {
                continue;
            };
            match comparison.with(image) {
                Relation::Different => {}
                Relation::Same => return Ok(id),
                Relation::MoreSymbols => {
                    if self.kernel.replace_symbols(image, found) {
                        *image = Arc::clone(found);
                        *written = false;
                    }
                    return Ok(id);
                }
            }
        }
        for incarnation in 1..=MAX_INCARNATIONS {
            let name = kernel_images::name(found, incarnation);
            if !self.by_name.contains_key(&name) {
                let source = Source::Kernel {
                    image: self.kernel.take_symbols(found),
                    written: false,
                };
                let id = self.add(name, self.started, source)?;
                self.kernel.add(found, id);
                return Ok(id);
            }
        }
        Err(Full)
    }

    /// Kernel images that were taken in without their symbols, for there were too many.
    pub(super) fn without_symbols(&self) -> u64 {
        self.kernel.without_symbols()
    }

    fn add(&mut self, name: ImageName, mtime: u64, source: Source) -> Result<ImageId, Full> {
        if self.images.len() >= MAX_IMAGES {
            return Err(Full);
        }
        let id = ImageId(self.images.len());
        match self.by_name.entry(name.clone()) {
            Entry::Occupied(entry) => return Ok(*entry.get()),
            Entry::Vacant(entry) => entry.insert(id),
        };
        self.images.push(Image {
            name,
            mtime,
            source,
        });
        Ok(id)
    }

    /// Brings the guest tree up to date: copies of sampled files, symbol files of kernel images.
    pub(super) fn write_guest_tree(
        &mut self,
        directory: &mut SessionDirectory,
        files: &dyn GuestFiles,
    ) -> Result<(), CollectorError> {
        for image in &mut self.images {
            let ImageName::Root(name) = &image.name else {
                continue;
            };
            let path = tree_path(name);
            match &mut image.source {
                Source::File(copy) => {
                    let room = &mut self.copied;
                    copy.update(&path, &mut image.mtime, room, directory, files)?;
                }
                Source::Kernel {
                    image: kernel,
                    written: written @ false,
                } => {
                    let elf =
                        symbol_elf::encode(kernel).map_err(|source| CollectorError::Symbols {
                            image: path.display().to_string(),
                            source,
                        })?;
                    if directory.place_in_tree(&path, &elf, image.mtime)? == Placed::NameTaken {
                        tracing::warn!(path = %path.display(), "symbol file not written: its name is taken in the guest tree");
                    }
                    *written = true;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The copies of guest files, each with its name in the session.
    fn copies(&self) -> impl Iterator<Item = (&[u8], &GuestCopy)> {
        self.images
            .iter()
            .filter_map(|image| match (&image.name, &image.source) {
                (ImageName::Root(name), Source::File(copy)) => Some((&name[..], copy)),
                _ => None,
            })
    }

    /// Every file of which more is known than its name.
    pub(super) fn file_records(&self, files: &dyn GuestFiles) -> Vec<FileRecord> {
        let records = self.copies().flat_map(|(name, copy)| {
            let record = |identity| FileRecord {
                name: name.to_vec(),
                identity,
            };
            copy.identities(files).into_iter().map(record)
        });
        records.collect()
    }

    /// Which of the sampled files are in the guest tree.
    pub(super) fn archive(&self) -> Archive {
        let mut archive = Archive::default();
        for (name, copy) in self.copies() {
            copy.tell(name, &mut archive);
        }
        archive
    }
}

fn tree_path(name: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(name.strip_prefix(b"/").unwrap_or(name))).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{ImageKind, Symbol, SymbolKind};

    fn image(start: u64, symbols: &[(u64, &str)]) -> Arc<KernelImage> {
        let symbol = |(offset, name): &(u64, &str)| Symbol {
            address: start + offset,
            size: 8,
            kind: SymbolKind::Function,
            name: name.as_bytes().to_vec(),
        };
        Arc::new(KernelImage {
            name: b"crunch".to_vec(),
            kind: ImageKind::Module,
            start,
            end: start + 0x1000,
            symbols: symbols.iter().map(symbol).collect(),
        })
    }

    #[test]
    fn image_is_known_by_its_content_and_not_by_its_address() {
        let mut images = Images::new(0);
        let first = images
            .kernel(&image(0x1000, &[(0, "a"), (8, "b")]))
            .unwrap();
        assert_eq!(
            images.kernel(&image(0x5000, &[(0, "a"), (8, "b")])),
            Ok(first)
        );
        assert_eq!(
            images.kernel(&image(0x1000, &[(8, "b"), (0, "a")])),
            Ok(first)
        );
        let rebuilt = images
            .kernel(&image(0x1000, &[(0, "a"), (8, "c")]))
            .unwrap();
        assert_ne!(rebuilt, first);
        assert_eq!(
            images.get(rebuilt).name,
            ImageName::Root(b"/lib/modules/crunch~2.ko".to_vec())
        );
    }

    #[test]
    fn symbols_that_come_late_are_taken_over() {
        let mut images = Images::new(0);
        let id = images.kernel(&image(0x1000, &[])).unwrap();
        let full = image(0x1000, &[(0, "a")]);
        assert_eq!(images.kernel(&full), Ok(id));
        assert_eq!(images.kernel(&image(0x1000, &[])), Ok(id));
        let Source::Kernel { image, .. } = &images.get(id).source else {
            panic!("no kernel image")
        };
        assert_eq!(*image, full);
    }

    /// `count` symbols of which none is in an image of another `seed`.
    fn image_of(name: &[u8], count: usize, seed: u64) -> Arc<KernelImage> {
        let symbol = |index: u64| Symbol {
            address: 0x1000 + index,
            size: seed,
            kind: SymbolKind::Function,
            name: Vec::new(),
        };
        Arc::new(KernelImage {
            name: name.to_vec(),
            kind: ImageKind::Kernel,
            start: 0x1000,
            end: u64::MAX,
            symbols: (0..count as u64).map(symbol).collect(),
        })
    }

    fn symbols_of(images: &Images, id: ImageId) -> usize {
        match &images.get(id).source {
            Source::Kernel { image, .. } => image.symbols.len(),
            other => panic!("{other:?} is no kernel image"),
        }
    }

    #[test]
    fn beyond_the_limit_images_are_taken_in_without_symbols() {
        const HALF: usize = 50;
        let mut images = Images::new(0);
        images.kernel.limit_symbols(2 * HALF);
        let first = images.kernel(&image_of(b"a", HALF, 1)).unwrap();
        let second = images.kernel(&image_of(b"a", HALF, 2)).unwrap();
        let third = images.kernel(&image_of(b"b", 1, 3)).unwrap();
        assert_eq!(images.without_symbols(), 1);
        let kept = [first, second, third].map(|id| symbols_of(&images, id));
        assert_eq!(kept, [HALF, HALF, 0]);
        // It stays one image, whatever is told of its symbols later.
        assert_eq!(images.kernel(&image_of(b"b", 2, 4)), Ok(third));
        assert_eq!(symbols_of(&images, third), 0);
        // None are needed for this one.
        assert!(images.kernel(&image_of(b"c", 0, 0)).is_ok());
        assert_eq!(images.without_symbols(), 1);
    }

    #[test]
    fn symbols_that_replace_fewer_take_only_the_room_of_the_rest() {
        const MOST: usize = 100;
        let mut images = Images::new(0);
        images.kernel.limit_symbols(MOST);
        let id = images.kernel(&image_of(b"a", MOST - 1, 1)).unwrap();
        assert_eq!(images.kernel(&image_of(b"a", MOST, 1)), Ok(id));
        assert_eq!(symbols_of(&images, id), MOST);
        assert_eq!(images.kernel(&image_of(b"a", MOST + 1, 1)), Ok(id));
        assert_eq!(symbols_of(&images, id), MOST);
    }

    #[test]
    fn an_image_beyond_the_incarnations_is_refused_at_once_the_next_time() {
        let mut images = Images::new(0);
        for seed in 1..=u64::from(MAX_INCARNATIONS) {
            assert!(images.kernel(&image_of(b"a", 1, seed)).is_ok());
        }
        let late = image_of(b"a", 1, 0);
        assert_eq!(images.kernel.resolved(&late), None);
        assert_eq!(images.kernel(&late), Err(Full));
        assert_eq!(images.kernel.resolved(&late), Some(Err(Full)));
        assert_eq!(images.kernel(&late), Err(Full));
    }

    #[test]
    fn names_that_are_escaped_alike_stay_apart_and_are_bounded() {
        for name in [&b"/bin/work"[..], &[&b"/"[..], &[b'n'; 300]].concat()] {
            let mut images = Images::new(0);
            let mut file = |slashes| {
                let path = [&vec![b'/'; slashes], name].concat();
                let target = CookieTarget::File {
                    path,
                    deleted: false,
                };
                images.add_cookie(slashes as u64, target)
            };
            let made: Vec<_> = (0..MAX_NAMESAKES as usize).map(&mut file).collect();
            assert!(made.iter().all(Result::is_ok));
            assert_eq!(file(MAX_NAMESAKES as usize).unwrap_err(), Full);
            assert_eq!(images.images.len(), MAX_NAMESAKES as usize);
            for image in &images.images {
                let ImageName::Root(path) = &image.name else {
                    panic!("{image:?}")
                };
                let component = path.rsplit(|byte| *byte == b'/').next().unwrap();
                assert!(component.len() <= guest_path::MAX_COMPONENT);
            }
        }
    }

    #[test]
    fn file_and_kernel_image_of_one_name_stay_apart() {
        let mut images = Images::new(0);
        let module = images.kernel(&image(0x1000, &[])).unwrap();
        let path = b"/lib/modules/crunch.ko".to_vec();
        let file = images
            .add_cookie(
                1,
                CookieTarget::File {
                    path: path.clone(),
                    deleted: false,
                },
            )
            .unwrap();
        let again = images
            .add_cookie(
                2,
                CookieTarget::File {
                    path,
                    deleted: false,
                },
            )
            .unwrap();
        assert_ne!(file.id, module);
        assert_eq!(file.id, again.id);
    }
}
