//! The guest's files as far as the host has them: those of the initrd, and with `archive=on` those on the disks.
//!
//! | module | what it does |
//! |---|---|
//! | `initrd` | files of a cpio archive |
//! | `unpack` | compressed archives |
//! | `disks` | file systems on disk images |
//! | `ext4` | files of an ext4 file system that nobody trusts |
//!
//! Nothing is mounted, and images are only read. The session proves a file by its build-id; here it is only found.

mod disks;
mod ext4;
mod initrd;
mod unpack;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use oprofile_device::perf_map::{self, Piece};
use oprofile_device::{CookieTarget, Device, FileBuild, PerfMap};
use oprofile_session::{
    Build, BuildId, FileIdentity, GuestFile, GuestFiles, Symbol, SymbolKind, vdso,
};
use vm_memory::GuestMemoryMmap;

use disks::Disks;
pub use initrd::{InitrdFiles, archive_bytes};
pub use unpack::{UnpackError, unpack};

/// First block device major number that Linux gives out as drivers ask for one; virtio-blk has no other.
const FIRST_DYNAMIC_MAJOR: u32 = 234;

/// Bits of a virtio disk's minor number that say which partition it is, 0 for the whole disk.
const PARTITION_BITS: u32 = 4;

/// Most functions of all perf maps that one write of the session looks at; further maps wait for the next. A little more than the device
/// keeps at a time, with names of one byte: sorted they take some 130 MiB, and some seconds.
const MAX_FUNCTIONS: usize = 11 * perf_map::MAX_FUNCTIONS;

/// Most bytes of functions' names in one region; code behind them has none. A name counts for each piece of its function: one that others
/// are written into has many. Otherwise names are shorter than the text that they were in.
const MAX_NAME_BYTES: u64 = 2 * perf_map::MAX_TEXT_BYTES;

/// What is known of a vDSO does not change. No perf map has this version.
const VDSO_VERSION: u64 = 1;

/// Where the host has files of the guest.
#[derive(Debug, Default)]
pub struct Sources {
    /// Those of the initrd.
    pub initrd: InitrdFiles,
    /// Images of the guest's disks, in its order.
    pub disks: Vec<PathBuf>,
    /// Whether files are looked for on the disks when the guest has ended.
    pub archive: bool,
}

/// A disk, and a partition of it or all of it (0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    disk: usize,
    partition: u32,
}

/// The guest's files while it runs: those of the initrd.
pub struct HostedFiles {
    device: Arc<Device<GuestMemoryMmap>>,
    sources: Sources,
    maps: RefCell<Maps>,
}

/// The perf maps that a write of the session has looked at, by their ids, each as it was then: a guest that adds to them meanwhile
/// has none of them sorted twice.
#[derive(Default)]
struct Maps {
    sorted: HashMap<u32, Arc<Sorted>>,
    functions: usize,
}

/// A perf map and, once they are asked for, its functions by their addresses.
struct Sorted {
    map: Arc<PerfMap>,
    pieces: OnceLock<Vec<Piece>>,
}

/// The guest's files when nobody writes to its disks any more.
pub struct SettledFiles {
    hosted: HostedFiles,
    disks: Disks,
}

impl fmt::Debug for HostedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostedFiles")
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SettledFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettledFiles")
            .field("hosted", &self.hosted)
            .finish_non_exhaustive()
    }
}

impl Sorted {
    /// The functions in `range`.
    fn symbols(&self, range: &Range<u64>) -> Vec<Symbol> {
        let pieces = self.pieces.get_or_init(|| self.map.pieces());
        let first = pieces.partition_point(|piece| piece.end <= range.start);
        let mut name_bytes = 0;
        pieces[first..]
            .iter()
            .take_while(|piece| piece.start < range.end)
            .map(|piece| (piece, self.map.name(*piece)))
            .take_while(|(_, name)| {
                name_bytes += name.len() as u64;
                name_bytes <= MAX_NAME_BYTES
            })
            .map(|(piece, name)| Symbol {
                address: piece.start,
                size: piece.end - piece.start,
                kind: SymbolKind::Function,
                name: name.to_vec(),
            })
            .collect()
    }
}

impl HostedFiles {
    /// The files of the guest whose cookies `device` gives out.
    pub fn new(device: Arc<Device<GuestMemoryMmap>>, sources: Sources) -> Self {
        Self {
            device,
            sources,
            maps: RefCell::default(),
        }
    }

    /// A write of the session has ended: the next one looks at perf maps anew.
    pub fn forget_maps(&self) {
        self.maps.take();
    }

    /// Opens the disks, if they are wanted. Nobody may write to them any more.
    pub fn settle(self) -> SettledFiles {
        let disks = match self.sources.archive {
            true => Disks::open(&self.sources.disks),
            false => Disks::default(),
        };
        SettledFiles {
            hosted: self,
            disks,
        }
    }

    /// The perf map with the functions in an anonymous region. `None` as well when this write has looked at too many.
    fn map(&self, cookie: u64) -> Option<Arc<Sorted>> {
        let map = self.device.perf_map(cookie)?;
        let mut maps = self.maps.borrow_mut();
        if let Some(known) = maps.sorted.get(&map.id()) {
            return Some(Arc::clone(known));
        }
        maps.functions = maps
            .functions
            .checked_add(map.len())
            .filter(|functions| *functions <= MAX_FUNCTIONS)?;
        let sorted = Arc::new(Sorted {
            map,
            pieces: OnceLock::new(),
        });
        maps.sorted.insert(sorted.map.id(), Arc::clone(&sorted));
        Some(sorted)
    }

    /// The functions in an anonymous region as a just-in-time compiler told them.
    fn compiled(&self, cookie: u64, range: Range<u64>) -> Vec<Symbol> {
        self.map(cookie)
            .map(|sorted| sorted.symbols(&range))
            .unwrap_or_default()
    }

    /// The disk that a file lies on by its device number, if it is one of this machine's.
    fn place(&self, identity: &FileIdentity) -> Option<Place> {
        let (major, minor) = identity.major_minor();
        let place = Place {
            disk: usize::try_from(minor >> PARTITION_BITS).ok()?,
            partition: minor & ((1 << PARTITION_BITS) - 1),
        };
        (major >= FIRST_DYNAMIC_MAJOR && place.disk < self.sources.disks.len()).then_some(place)
    }
}

impl HostedFiles {
    /// Offers the file of the initrd; whether it was taken. The path of a file on a disk may be another one's in the initrd, which
    /// only a build-id tells apart.
    fn offer_initrd(
        &self,
        path: &[u8],
        identity: &FileIdentity,
        take: &mut dyn FnMut(GuestFile<'_>) -> bool,
    ) -> bool {
        let is_provable = matches!(identity.build, Build::Id(_));
        (is_provable || self.place(identity).is_none()) && self.open(path).is_some_and(take)
    }
}

impl GuestFiles for HostedFiles {
    fn open(&self, path: &[u8]) -> Option<GuestFile<'_>> {
        self.sources.initrd.open(path)
    }

    fn identity(&self, cookie: u64) -> FileIdentity {
        let Some(CookieTarget::File {
            device,
            inode,
            build,
            ..
        }) = self.device.cookie(cookie)
        else {
            return FileIdentity::default();
        };
        let build = match build {
            FileBuild::Unknown => Build::Unknown,
            FileBuild::WithoutId => Build::WithoutId,
            FileBuild::Id(id) => BuildId::new(id.as_bytes()).map_or(Build::Unknown, Build::Id),
        };
        FileIdentity {
            device,
            inode,
            build,
        }
    }

    fn offer(
        &self,
        path: &[u8],
        identity: &FileIdentity,
        take: &mut dyn FnMut(GuestFile<'_>) -> bool,
    ) {
        self.offer_initrd(path, identity, take);
    }

    fn region_version(&self, cookie: u64) -> u64 {
        match self.device.vdso(cookie) {
            Some(_) => VDSO_VERSION,
            None => self.map(cookie).map_or(0, |sorted| sorted.map.version()),
        }
    }

    fn region_symbols(&self, cookie: u64, range: Range<u64>) -> Vec<Symbol> {
        match (self.device.cookie(cookie), self.device.vdso(cookie)) {
            (Some(CookieTarget::Anonymous { start, .. }), Some(image)) => {
                vdso::symbols(&image, start)
            }
            _ => self.compiled(cookie, range),
        }
    }

    fn is_partial(&self) -> bool {
        self.sources.archive
    }
}

impl GuestFiles for SettledFiles {
    fn open(&self, path: &[u8]) -> Option<GuestFile<'_>> {
        self.hosted.open(path)
    }

    fn identity(&self, cookie: u64) -> FileIdentity {
        self.hosted.identity(cookie)
    }

    fn offer(
        &self,
        path: &[u8],
        identity: &FileIdentity,
        take: &mut dyn FnMut(GuestFile<'_>) -> bool,
    ) {
        if self.hosted.offer_initrd(path, identity, take) {
            return;
        }
        match (self.hosted.place(identity), &identity.build) {
            (place, Build::Id(_)) => self.disks.offer_all(place, path, take),
            (Some(place), _) => self.disks.offer_first(place, path, take),
            // Nothing says on which disk it is.
            (None, _) => {}
        }
    }

    fn region_version(&self, cookie: u64) -> u64 {
        self.hosted.region_version(cookie)
    }

    fn region_symbols(&self, cookie: u64, range: Range<u64>) -> Vec<Symbol> {
        self.hosted.region_symbols(cookie, range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_device::Settings;
    use oprofile_device::guest::build_id;
    use oprofile_device::test_utils::{Driver, SyntheticGuest, VmaSpec, elf_with_build_id};
    use oprofile_wire::control::{flag, kind};
    use proptest::prelude::*;

    fn hosted(disks: usize) -> HostedFiles {
        let device = Arc::new(Device::new(Settings::default()).unwrap());
        let sources = Sources {
            disks: vec![PathBuf::new(); disks],
            ..Sources::default()
        };
        HostedFiles::new(device, sources)
    }

    /// A file that is mapped as a whole.
    struct Whole<'a>(&'a [u8]);

    impl build_id::Image for Whole<'_> {
        type Error = std::convert::Infallible;

        fn bytes(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Self::Error> {
            let start = usize::try_from(offset).unwrap();
            into.copy_from_slice(&self.0[start..start + into.len()]);
            Ok(())
        }
    }

    proptest! {
        /// A file is proven by what two readers say of it: the device's, in guest memory, and the session's, in the file.
        #[test]
        fn both_readers_of_build_ids_find_the_same(
            is_wide in any::<bool>(),
            is_aligned_to_8 in any::<bool>(),
            id in prop::collection::vec(any::<u8>(), 1..=64),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            behind in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut file = elf_with_build_id(is_wide, if is_aligned_to_8 { 8 } else { 4 }, &id);
            file.extend(behind);
            for (index, byte) in &damage {
                let at = index.index(file.len());
                file[at] = *byte;
            }
            let Ok(in_memory) = build_id::find(&mut Whole(&file));
            let in_file = BuildId::of_elf(&file);
            if damage.is_empty() {
                prop_assert_eq!(in_file.as_ref().map(BuildId::as_bytes), Some(&id[..]));
            }
            // The session's looks further: more program headers than there are, longer notes.
            if let Some(in_memory) = in_memory {
                let found = in_file.as_ref().map(BuildId::as_bytes);
                prop_assert_eq!(found, Some(in_memory.as_bytes()));
            } else {
                prop_assert!(!damage.is_empty());
            }
        }
    }

    const START: u64 = 0x7f00_0000_0000;

    /// Process 7 with memory of its own making at each of `starts`; its task.
    fn process(guest: &mut SyntheticGuest, starts: &[u64]) -> u64 {
        let program = guest.file_named(b"prog");
        let memory = |&start: &u64| VmaSpec {
            start,
            end: start + 0x1000,
            page_offset: 0,
            file: 0,
        };
        let memory: Vec<_> = starts.iter().map(memory).collect();
        let space = guest.mm(program, &memory);
        guest.task(7, 7, space)
    }

    /// Takes a sample; the cookie of its region.
    fn sample(driver: &mut Driver, task: u64, address: u64) -> u64 {
        let sample = driver.buffer(0).user(task).sample(address);
        driver.post(0, &sample);
        driver.device.tick();
        let words = driver.words();
        let switch = words.windows(3).rfind(|words| words[..2] == [u64::MAX, 3]);
        switch.unwrap()[2]
    }

    /// Sends a part of the perf map of process 7.
    fn send(driver: &mut Driver, offset: usize, text: &str) {
        driver.request(&SyntheticGuest::request(kind::WANTED_MAP, flag::LAST, &[]));
        let map = [
            [7u64, offset as u64].map(u64::to_le_bytes).concat(),
            text.into(),
        ]
        .concat();
        driver.request(&SyntheticGuest::request(kind::PERF_MAP, flag::LAST, &map));
    }

    fn names(files: &HostedFiles, cookie: u64, range: Range<u64>) -> Vec<String> {
        let symbols = files.region_symbols(cookie, range);
        let name = |symbol: Symbol| String::from_utf8(symbol.name).unwrap();
        symbols.into_iter().map(name).collect()
    }

    #[test]
    fn a_region_has_the_functions_of_its_processs_perf_map() {
        let mut guest = SyntheticGuest::default();
        let task = process(&mut guest, &[START]);
        let mut driver = Driver::new(guest, 1).hello();
        let cookie = sample(&mut driver, task, START + 0x10);
        let files = HostedFiles::new(Arc::clone(&driver.device), Sources::default());
        assert_eq!(files.region_version(cookie), 0);
        let names = |range| names(&files, cookie, range);
        let first = "1000 10 below\n7f0000000000 40 first\n7f0000000040 40 second\n";
        send(&mut driver, 0, first);
        let version = files.region_version(cookie);
        assert!(version > VDSO_VERSION);
        assert_eq!(names(START..START + 0x1000), ["first", "second"]);
        assert_eq!(names(START + 0x3f..START + 0x40), ["first"]);
        assert_eq!(names(START + 0x40..START + 0x41), ["second"]);
        assert!(names(START + 0x80..START + 0x1000).is_empty());
        // What is told later is found by the next write, too.
        sample(&mut driver, task, START + 0x10);
        // What was read last is read again.
        send(&mut driver, 0, &[first, "7f0000000080 40 third\n"].concat());
        assert_eq!(files.region_version(cookie), version);
        assert_eq!(names(START..START + 0x1000), ["first", "second"]);
        files.forget_maps();
        assert_ne!(files.region_version(cookie), version);
        assert_eq!(names(START..START + 0x1000), ["first", "second", "third"]);
    }

    #[test]
    fn each_map_is_sorted_once_for_a_write_however_regions_take_turns() {
        let mut guest = SyntheticGuest::default();
        let at = |slot: u64| START + slot * 0x1000;
        let before = process(&mut guest, &[at(0), at(2), at(4)]);
        let after = process(&mut guest, &[at(1), at(3), at(5)]);
        let mut driver = Driver::new(guest, 1).hello();
        let mut cookies = [0; 6];
        for (first, task, name) in [(0, before, "before"), (1, after, "after")] {
            for slot in [first, first + 2, first + 4] {
                cookies[slot] = sample(&mut driver, task, at(slot as u64));
            }
            send(&mut driver, 0, &format!("{START:x} 6000 {name}\n"));
        }
        let files = HostedFiles::new(Arc::clone(&driver.device), Sources::default());
        let mut sorted = Vec::new();
        for (slot, cookie) in (0..).zip(cookies) {
            let expected = ["before", "after"][slot % 2];
            let range = at(slot as u64)..at(slot as u64 + 1);
            assert_eq!(names(&files, cookie, range), [expected], "{slot}");
            sorted.push(files.map(cookie).unwrap());
        }
        for (slot, map) in sorted.iter().enumerate() {
            assert!(Arc::ptr_eq(map, &sorted[slot % 2]), "{slot}");
            assert!(map.pieces.get().is_some());
        }
        // Nothing is held when the write has ended.
        files.forget_maps();
        assert!(sorted.iter().all(|map| Arc::strong_count(map) == 3));
    }

    #[test]
    fn a_write_looks_at_so_many_functions_and_the_next_at_the_others() {
        let mut guest = SyntheticGuest::default();
        let task = process(&mut guest, &[START]);
        let mut driver = Driver::new(guest, 1).hello();
        let cookie = sample(&mut driver, task, START);
        send(&mut driver, 0, "1000 10 f\n1010 10 g\n");
        let files = HostedFiles::new(Arc::clone(&driver.device), Sources::default());
        files.maps.borrow_mut().functions = MAX_FUNCTIONS - 1;
        assert_eq!(files.region_version(cookie), 0);
        files.forget_maps();
        assert_ne!(files.region_version(cookie), 0);
    }

    #[test]
    fn a_function_in_many_pieces_does_not_have_its_name_in_memory_for_each() {
        const INSIDE: u64 = 50_000;
        let mut text = format!("0 {:x} {}\n", 2 * INSIDE, "n".repeat(1_024));
        for inside in 0..INSIDE {
            text += &format!("{:x} 1 i\n", 2 * inside + 1);
        }
        let mut map = PerfMap::new(1);
        perf_map::Reader::default().read(text.as_bytes(), &mut map, usize::MAX);
        let sorted = Sorted {
            map: Arc::new(map),
            pieces: OnceLock::new(),
        };
        let bytes = |range| {
            let symbols = sorted.symbols(&range);
            symbols
                .iter()
                .map(|symbol| symbol.name.len() as u64)
                .sum::<u64>()
        };
        let all = bytes(0..2 * INSIDE);
        assert!(
            (MAX_NAME_BYTES - 1_024..=MAX_NAME_BYTES).contains(&all),
            "{all}"
        );
        // Another region has its own.
        assert_eq!(bytes(2 * INSIDE - 10..2 * INSIDE), 5 * 1_025);
    }

    #[test]
    fn a_device_number_names_a_disk_of_this_machine_or_none() {
        let files = hosted(2);
        let place = |major: u32, minor: u32| {
            files.place(&FileIdentity {
                device: major << 20 | minor,
                ..FileIdentity::default()
            })
        };
        let at = |disk, partition| Some(Place { disk, partition });
        assert_eq!(place(254, 0), at(0, 0));
        assert_eq!(place(254, 3), at(0, 3));
        assert_eq!(place(253, 17), at(1, 1));
        // No such disk; a loop device; memory.
        assert_eq!(place(254, 32), None);
        assert_eq!(place(7, 0), None);
        assert_eq!(place(0, 2), None);
    }
}
