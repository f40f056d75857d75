//! Cookies: 64-bit ids that stand for files and anonymous regions in the event buffer.
//!
//! OProfile's cookie was the address of a dentry, unique because a reference pinned it. From outside nothing is pinned: a
//! freed dentry's address can come back for another file. So a cookie is an id of our own, interned by everything that
//! tells one file from another; the same address with other values gets another id.

use std::collections::HashMap;
use std::sync::Arc;

use crate::guest::build_id::BuildId;

/// Most cookies of one device. A busy build machine maps some 10,000 files in a day; the bound keeps a guest that
/// invents files from filling the host's memory (4 KiB of path and 66 bytes of build-id at most each, 260 MiB in all).
pub const MAX_COOKIES: usize = 65_536;

/// Stands for every file and region beyond [`MAX_COOKIES`].
pub const OVERFLOW_COOKIE: u64 = 1;

/// First cookie that is given out: 0 is "no cookie" in the event buffer, all ones (unreachable) "no mapping".
const FIRST_COOKIE: u64 = 2;

/// Most bytes of a vDSO; Linux's have two pages of 4 KiB.
pub(crate) const MAX_VDSO_BYTES: u64 = 64 * 1024;

/// Most vDSOs that are kept. A kernel has one for each kind of process: 64 bits, 32 bits, x32. What is not in memory differs from
/// process to process, so there may be some more.
const MAX_VDSOS: usize = 16;

/// What a region with a vDSO is called, and other anonymous regions.
const VDSO_NAME: &[u8] = b"[vdso]";
const ANONYMOUS_NAME: &[u8] = b"anon";

/// How often a file's build-id is looked for while the page that holds it is not in memory, each time in another sync: a page
/// that is not there after that is not used, or the guest is short of memory.
const MAX_BUILD_ID_TRIES: u8 = 8;

/// What is known of the build of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileBuild {
    /// Nothing: it has not been read yet, or could not be.
    #[default]
    Unknown,
    /// The file has been read, and has no build-id.
    WithoutId,
    /// Its build-id.
    Id(BuildId),
}

/// How many files are of each [`FileBuild`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BuildCounts {
    pub with_id: u64,
    pub without_id: u64,
    /// Those that were given up; others of unknown build may still be read.
    pub unreadable: u64,
}

/// What a cookie stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CookieTarget {
    /// A file of the guest.
    File {
        /// Path in the guest, any bytes; not absolute when the file is in no directory (memfd and its like).
        path: Vec<u8>,
        /// It had been unlinked when it was seen last.
        deleted: bool,
        /// Inode number, 0 when the guest does not tell.
        inode: u64,
        /// Inode generation, 0 when the guest does not tell.
        generation: u32,
        /// Device number of its file system, 0 when the guest does not tell: as Linux keeps it, minor number in the low 20 bits.
        device: u32,
        /// Which build it is.
        build: FileBuild,
    },
    /// Memory of a process without a file.
    Anonymous {
        /// Process id.
        tgid: u32,
        /// First address.
        start: u64,
        /// Address behind the last.
        end: u64,
        /// What it is called in a report.
        name: Vec<u8>,
    },
}

/// Everything that tells one file from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileKey {
    pub mount: u64,
    pub dentry: u64,
    pub inode_pointer: u64,
    pub inode: u64,
    pub generation: u32,
    pub device: u32,
    pub path: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    File(FileKey),
    Anonymous { tgid: u32, start: u64, end: u64 },
}

/// What a cookie was given out for.
#[derive(Debug)]
struct Target {
    key: Arc<Key>,
    /// Of a file: it had been unlinked when it was seen last.
    deleted: bool,
    /// Of a file.
    build: FileBuild,
    /// Of a region: the vDSO that lies there.
    vdso: Option<Arc<[u8]>>,
    /// Tries to read the build-id or vDSO that are left.
    tries: u8,
    /// Number of the sync that tried last.
    tried: u32,
}

/// The cookies that have been given out.
#[derive(Debug, Default)]
pub(crate) struct Cookies {
    ids: HashMap<Arc<Key>, u64>,
    /// Index is the cookie less [`FIRST_COOKIE`].
    targets: Vec<Target>,
    builds: BuildCounts,
    /// All different ones.
    vdsos: Vec<Arc<[u8]>>,
}

/// What all files beyond the cap are called: not absolute, so no file of the guest has this path.
const OVERFLOW_NAME: &[u8] = b"[too many files]";

impl Cookies {
    /// The cookie of a file. Whether it is deleted is remembered but makes no other file of it.
    pub fn file(&mut self, key: FileKey, deleted: bool) -> u64 {
        let cookie = self.intern(Key::File(key));
        let target = Self::index(cookie).and_then(|index| self.targets.get_mut(index));
        if let Some(target) = target {
            target.deleted = deleted;
        }
        cookie
    }

    /// The cookie of an anonymous region.
    pub fn anonymous(&mut self, tgid: u32, start: u64, end: u64) -> u64 {
        self.intern(Key::Anonymous { tgid, start, end })
    }

    fn intern(&mut self, key: Key) -> u64 {
        if let Some(&known) = self.ids.get(&key) {
            return known;
        }
        if self.targets.len() >= MAX_COOKIES {
            return OVERFLOW_COOKIE;
        }
        let cookie = FIRST_COOKIE + self.targets.len() as u64;
        let key = Arc::new(key);
        self.ids.insert(Arc::clone(&key), cookie);
        self.targets.push(Target {
            key,
            deleted: false,
            build: FileBuild::Unknown,
            vdso: None,
            tries: MAX_BUILD_ID_TRIES,
            tried: 0,
        });
        cookie
    }

    fn file_target(&mut self, cookie: u64) -> Option<&mut Target> {
        let target = self.targets.get_mut(Self::index(cookie)?)?;
        matches!(*target.key, Key::File(_)).then_some(target)
    }

    /// Whether the build-id of a file may still be found.
    pub fn wants_build(&self, cookie: u64) -> bool {
        let target = Self::index(cookie).and_then(|index| self.targets.get(index));
        target.is_some_and(|target| {
            target.tries > 0
                && target.build == FileBuild::Unknown
                && matches!(*target.key, Key::File(_))
        })
    }

    /// Takes one of a file's tries for sync number `sync`; false when there is none left, or that sync has had one.
    pub fn try_build(&mut self, cookie: u64, sync: u32) -> bool {
        if !self.wants_build(cookie) || !self.take_try(cookie, sync) {
            return false;
        }
        if !self.wants_build(cookie) {
            self.builds.unreadable += 1;
        }
        true
    }

    fn take_try(&mut self, cookie: u64, sync: u32) -> bool {
        let target = Self::index(cookie).and_then(|index| self.targets.get_mut(index));
        match target.filter(|target| target.tried != sync && target.tries > 0) {
            Some(target) => {
                target.tried = sync;
                target.tries -= 1;
                true
            }
            None => false,
        }
    }

    /// Whether an anonymous region may still turn out to hold a vDSO.
    pub fn wants_vdso(&self, cookie: u64) -> bool {
        let target = Self::index(cookie).and_then(|index| self.targets.get(index));
        target.is_some_and(|target| match *target.key {
            Key::Anonymous { start, end, .. } => {
                target.tries > 0
                    && target.vdso.is_none()
                    && end.saturating_sub(start) <= MAX_VDSO_BYTES
            }
            Key::File(_) => false,
        })
    }

    /// As [`Cookies::try_build`], of a region.
    pub fn try_vdso(&mut self, cookie: u64, sync: u32) -> bool {
        self.wants_vdso(cookie) && self.take_try(cookie, sync)
    }

    /// Remembers the vDSO that a region holds, or that it holds none.
    pub fn set_vdso(&mut self, cookie: u64, image: Option<&[u8]>) {
        let vdso = image.and_then(|image| {
            if let Some(known) = self.vdsos.iter().find(|known| ***known == *image) {
                return Some(Arc::clone(known));
            }
            // A guest that has more of them than any has makes them up.
            let vdso: Arc<[u8]> = (self.vdsos.len() < MAX_VDSOS).then(|| image.into())?;
            self.vdsos.push(Arc::clone(&vdso));
            Some(vdso)
        });
        let target = Self::index(cookie).and_then(|index| self.targets.get_mut(index));
        if let Some(target) = target {
            target.vdso = vdso;
            target.tries = 0;
        }
    }

    /// The vDSO that a region holds, if it is known to hold one: all its pages that were in memory, zeros for others.
    pub fn vdso(&self, cookie: u64) -> Option<Arc<[u8]>> {
        self.targets.get(Self::index(cookie)?)?.vdso.clone()
    }

    /// Remembers which build a file is. [`FileBuild::Unknown`] says that it will not become known.
    pub fn set_build(&mut self, cookie: u64, build: FileBuild) {
        let Some(target) = self.file_target(cookie) else {
            return;
        };
        if target.build != FileBuild::Unknown {
            return;
        }
        target.build = build;
        let had_tries = std::mem::take(&mut target.tries) > 0;
        match build {
            FileBuild::Unknown => self.builds.unreadable += u64::from(had_tries),
            FileBuild::WithoutId => self.builds.without_id += 1,
            FileBuild::Id(_) => self.builds.with_id += 1,
        }
        if build != FileBuild::Unknown && !had_tries {
            // The last try found it.
            self.builds.unreadable -= 1;
        }
    }

    /// How many files are of which build.
    pub const fn builds(&self) -> BuildCounts {
        self.builds
    }

    fn index(cookie: u64) -> Option<usize> {
        usize::try_from(cookie.checked_sub(FIRST_COOKIE)?).ok()
    }

    /// What `cookie` stands for.
    pub fn target(&self, cookie: u64) -> Option<CookieTarget> {
        if cookie == OVERFLOW_COOKIE {
            return Some(CookieTarget::File {
                path: OVERFLOW_NAME.to_vec(),
                deleted: false,
                inode: 0,
                generation: 0,
                device: 0,
                build: FileBuild::Unknown,
            });
        }
        let target = self.targets.get(Self::index(cookie)?)?;
        Some(match &*target.key {
            Key::File(key) => CookieTarget::File {
                path: key.path.clone(),
                deleted: target.deleted,
                inode: key.inode,
                generation: key.generation,
                device: key.device,
                build: target.build,
            },
            &Key::Anonymous { tgid, start, end } => CookieTarget::Anonymous {
                tgid,
                start,
                end,
                name: match target.vdso {
                    Some(_) => VDSO_NAME.to_vec(),
                    None => ANONYMOUS_NAME.to_vec(),
                },
            },
        })
    }

    /// Cookies given out.
    pub fn len(&self) -> usize {
        self.targets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(dentry: u64, path: &[u8]) -> FileKey {
        FileKey {
            mount: 1,
            dentry,
            inode_pointer: 3,
            inode: 4,
            generation: 5,
            device: 6,
            path: path.to_vec(),
        }
    }

    #[test]
    fn the_same_file_keeps_its_cookie_and_the_latest_deleted_mark() {
        let mut cookies = Cookies::default();
        let cookie = cookies.file(key(2, b"/bin/a"), false);
        assert_eq!(cookies.file(key(2, b"/bin/a"), true), cookie);
        let Some(CookieTarget::File { path, deleted, .. }) = cookies.target(cookie) else {
            panic!("no file");
        };
        assert_eq!(path, b"/bin/a");
        assert!(deleted);
    }

    #[test]
    fn a_reused_dentry_address_is_another_file() {
        let mut cookies = Cookies::default();
        let first = cookies.file(key(2, b"/bin/a"), false);
        let renamed = cookies.file(key(2, b"/bin/b"), false);
        let mut other_inode = key(2, b"/bin/a");
        other_inode.inode = 40;
        let replaced = cookies.file(other_inode, false);
        assert!(first != renamed && first != replaced && renamed != replaced);
    }

    #[test]
    fn everything_in_a_key_tells_files_apart() {
        type Change = fn(&mut FileKey);
        let changes: [Change; 7] = [
            |key| key.mount += 1,
            |key| key.dentry += 1,
            |key| key.inode_pointer += 1,
            |key| key.inode += 1,
            |key| key.generation += 1,
            |key| key.device += 1,
            |key| key.path.push(b'/'),
        ];
        let mut cookies = Cookies::default();
        let mut given = vec![cookies.file(key(2, b"/bin/a"), false)];
        for change in changes {
            let mut other = key(2, b"/bin/a");
            change(&mut other);
            given.push(cookies.file(other, false));
        }
        assert_eq!(given, (FIRST_COOKIE..).take(8).collect::<Vec<_>>());
    }

    #[test]
    fn regions_are_told_apart_by_process_and_range() {
        let mut cookies = Cookies::default();
        let first = cookies.anonymous(1, 0x1000, 0x2000);
        assert_eq!(cookies.anonymous(1, 0x1000, 0x2000), first);
        assert_ne!(cookies.anonymous(2, 0x1000, 0x2000), first);
        assert_ne!(cookies.anonymous(1, 0x1000, 0x3000), first);
    }

    #[test]
    fn beyond_the_cap_every_file_shares_one_cookie_and_known_ones_keep_theirs() {
        let mut cookies = Cookies::default();
        let first = cookies.anonymous(0, 0, 1);
        for tgid in 1.. {
            if cookies.len() == MAX_COOKIES {
                break;
            }
            cookies.anonymous(tgid, 0, 1);
        }
        assert_eq!(cookies.file(key(2, b"/late"), false), OVERFLOW_COOKIE);
        assert_eq!(cookies.anonymous(0, 0, 1), first);
        assert!(cookies.target(OVERFLOW_COOKIE).is_some());
        assert_eq!(cookies.len(), MAX_COOKIES);
    }

    #[test]
    fn a_build_is_tried_once_a_sync_and_a_bounded_number_of_times() {
        let mut cookies = Cookies::default();
        let cookie = cookies.file(key(2, b"/bin/a"), false);
        assert!(cookies.try_build(cookie, 1) && !cookies.try_build(cookie, 1));
        let more = (2..100).filter(|&sync| cookies.try_build(cookie, sync));
        assert_eq!(more.count(), usize::from(MAX_BUILD_ID_TRIES) - 1);
        assert!(!cookies.wants_build(cookie));
        let builds = |with_id, without_id, unreadable| BuildCounts {
            with_id,
            without_id,
            unreadable,
        };
        assert_eq!(cookies.builds(), builds(0, 0, 1));
        // Had the last try found it.
        let id = BuildId::new(&[1, 2]).map(FileBuild::Id).unwrap();
        cookies.set_build(cookie, id);
        assert_eq!(cookies.builds(), builds(1, 0, 0));
        // What is known stays.
        cookies.set_build(cookie, FileBuild::WithoutId);
        assert!(matches!(
            cookies.target(cookie),
            Some(CookieTarget::File { build, .. }) if build == id
        ));
        let other = cookies.file(key(2, b"/bin/b"), false);
        assert!(cookies.wants_build(other));
        cookies.set_build(other, FileBuild::Unknown);
        assert!(!cookies.wants_build(other));
        assert_eq!(cookies.builds(), builds(1, 0, 1));
        let anonymous = cookies.anonymous(1, 0, 1);
        assert!(!cookies.wants_build(anonymous) && !cookies.wants_build(OVERFLOW_COOKIE));
    }

    #[test]
    fn vdsos_are_kept_once_and_a_bounded_number_of_them() {
        let mut cookies = Cookies::default();
        for tgid in 0..100 {
            let cookie = cookies.anonymous(tgid, 0x1000, 0x3000);
            assert!(cookies.try_vdso(cookie, 1));
            let image = [u8::try_from(tgid / 2).unwrap(); 64];
            cookies.set_vdso(cookie, Some(&image));
            assert!(!cookies.wants_vdso(cookie));
            let name = match cookies.target(cookie) {
                Some(CookieTarget::Anonymous { name, .. }) => name,
                other => panic!("{other:?}"),
            };
            let is_kept = tgid < 2 * 16;
            assert_eq!(cookies.vdso(cookie).is_some(), is_kept);
            assert_eq!(name == VDSO_NAME, is_kept);
        }
        assert_eq!(cookies.vdsos.len(), MAX_VDSOS);
        let large = cookies.anonymous(1, 0, MAX_VDSO_BYTES + 1);
        let file = cookies.file(key(2, b"/bin/a"), false);
        assert!(!cookies.wants_vdso(large) && !cookies.wants_vdso(file));
    }

    #[test]
    fn reserved_cookies_stand_for_nothing() {
        let cookies = Cookies::default();
        for cookie in [0, u64::MAX, FIRST_COOKIE] {
            assert_eq!(cookies.target(cookie), None);
        }
    }
}
