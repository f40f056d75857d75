//! Copies of the guest's files in the guest tree: found by path, proven by build-id.
//!
//! A path alone does not say that a file is the one that was sampled: the guest may have mounted, replaced or written it. Where the
//! build-id in guest memory is known, only a file with the same one is copied. Where none is, a file at the right path is, and counts
//! as unproven.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use super::CollectorError;
use super::directory::{Placed, SessionDirectory};
use crate::build_id::{Build, BuildId};
use crate::file_list::FileIdentity;
use crate::guest::GuestFiles;

/// Largest guest file that is copied, in bytes. Larger ones are reported without symbols.
const MAX_COPY: u64 = 512 << 20;
/// Most guest files that are copied; a busy build machine runs some thousand.
const MAX_COPIES: u64 = 8_192;
/// Most bytes of all copies.
const MAX_COPIED_BYTES: u64 = 8 << 30;
/// Most cookies of one image that are remembered: a file that was replaced again and again.
const MAX_COOKIES_PER_FILE: usize = 16;
/// Most files that are named in [`Archive::missing`]; the rest is counted.
const MAX_NAMED: usize = 32;

/// Why a sampled file is not in the guest tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// There is none at its path, wherever the host can look.
    NotFound,
    /// What is at its path is another build.
    OtherBuild,
    /// Several builds ran under this name, and their samples are filed together.
    SeveralBuilds,
    /// It had no name any more.
    Deleted,
    /// It is too large, or there are too many.
    OverLimit,
    /// The guest has a directory of the same name.
    NameTaken,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::OtherBuild => "found with another build-id, so not copied",
            Self::SeveralBuilds => "several builds ran under this name",
            Self::Deleted => "deleted while it ran",
            Self::OverLimit => "too large, or too many files",
            Self::NameTaken => "its name is also that of a directory",
        })
    }
}

/// What of the sampled files is in the guest tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    /// Copied, with the build-id that guest memory has.
    pub proven: u64,
    /// Copied by their path alone: nothing else is known of them.
    pub unproven: u64,
    /// Not copied.
    pub not_copied: u64,
    /// Names of the first of those, as in the session, and why.
    pub missing: Vec<(Vec<u8>, Missing)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing(Missing),
    Copied { is_proven: bool, bytes: u64 },
}

/// The copy of one file.
#[derive(Debug)]
pub(super) struct GuestCopy {
    path: Vec<u8>,
    cookies: Vec<u64>,
    state: State,
    /// What was known at the last look, and whether there was more to look at later.
    looked: Option<(Result<Build, Missing>, bool)>,
}

/// What all copies together take.
#[derive(Debug, Default)]
pub(super) struct Room {
    files: u64,
    bytes: u64,
}

impl Room {
    fn fits(&self, bytes: u64) -> bool {
        bytes <= MAX_COPY
            && self.files < MAX_COPIES
            && self.bytes.saturating_add(bytes) <= MAX_COPIED_BYTES
    }
}

impl GuestCopy {
    /// The copy of the file at `path` in the guest, not made yet.
    pub(super) fn new(path: Vec<u8>, deleted: bool) -> Self {
        let why = match deleted {
            true => Missing::Deleted,
            false => Missing::NotFound,
        };
        Self {
            path,
            cookies: Vec::new(),
            state: State::Missing(why),
            looked: None,
        }
    }

    /// The path in the guest.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Another cookie stands for a file of this name.
    pub(super) fn add_cookie(&mut self, cookie: u64) {
        if self.cookies.len() < MAX_COOKIES_PER_FILE && !self.cookies.contains(&cookie) {
            self.cookies.push(cookie);
        }
    }

    /// All files that had the name, as far as anything is known of them.
    pub(super) fn identities(&self, files: &dyn GuestFiles) -> Vec<FileIdentity> {
        let mut known: Vec<FileIdentity> = Vec::new();
        for cookie in &self.cookies {
            let identity = files.identity(*cookie);
            if identity != FileIdentity::default() && !known.contains(&identity) {
                known.push(identity);
            }
        }
        known
    }

    /// Brings the copy up to date with what is known now. A file that is found at the first look sets `mtime`, its time in the
    /// session; later ones cannot, for sample files have been written by then.
    pub(super) fn update(
        &mut self,
        place: &Path,
        mtime: &mut u64,
        room: &mut Room,
        directory: &mut SessionDirectory,
        files: &dyn GuestFiles,
    ) -> Result<(), CollectorError> {
        if self.state == State::Missing(Missing::Deleted) {
            return Ok(());
        }
        let identities = self.identities(files);
        let builds: BTreeSet<&Build> = identities
            .iter()
            .map(|identity| &identity.build)
            .filter(|build| **build != Build::Unknown)
            .collect();
        let mut builds = builds.into_iter();
        let wanted = match (builds.next(), builds.next()) {
            (None, _) => Ok(Build::Unknown),
            (Some(one), None) => Ok(one.clone()),
            (Some(_), Some(_)) => Err(Missing::SeveralBuilds),
        };
        let look = (wanted, files.is_partial());
        if self.looked.as_ref() == Some(&look) || self.is_settled(&look.0) {
            return Ok(());
        }
        let before = self.state;
        let state = match &look.0 {
            Err(why) => State::Missing(*why),
            Ok(build) => {
                let of_build = |identity: &&FileIdentity| identity.build == *build;
                let identity = identities.iter().find(of_build);
                let identity = identity.cloned().unwrap_or_default();
                let mtime = self.looked.is_none().then_some(mtime);
                self.look(&identity, place, mtime, room, directory, files)?
            }
        };
        if let State::Copied { bytes, .. } = before {
            // Only counted once, and gone if it was not the right one.
            room.files = room.files.saturating_sub(1);
            room.bytes = room.bytes.saturating_sub(bytes);
            if matches!(state, State::Missing(_)) {
                directory.remove_from_tree(place)?;
            }
        }
        self.state = state;
        self.looked = Some(look);
        Ok(())
    }

    /// Whether no further look can change anything.
    fn is_settled(&self, wanted: &Result<Build, Missing>) -> bool {
        let is_copied = matches!(self.state, State::Copied { .. });
        let same = self.looked.as_ref().is_some_and(|(at, _)| at == wanted);
        is_copied && same
    }

    fn look(
        &self,
        wanted: &FileIdentity,
        place: &Path,
        mut mtime: Option<&mut u64>,
        room: &mut Room,
        directory: &mut SessionDirectory,
        files: &dyn GuestFiles,
    ) -> Result<State, CollectorError> {
        let mut result = Ok(State::Missing(Missing::NotFound));
        files.offer(&self.path, wanted, &mut |file| {
            let own = BuildId::of_elf(&file.contents).map_or(Build::WithoutId, Build::Id);
            let is_proven = match (&wanted.build, &own) {
                (Build::Id(wanted), Build::Id(own)) if wanted == own => true,
                (Build::Unknown, _) | (Build::WithoutId, Build::WithoutId) => false,
                _ => {
                    result = Ok(State::Missing(Missing::OtherBuild));
                    return false;
                }
            };
            let bytes = file.contents.len() as u64;
            if !room.fits(bytes) {
                result = Ok(State::Missing(Missing::OverLimit));
                return false;
            }
            if let Some(mtime) = mtime.as_deref_mut() {
                *mtime = file.mtime;
            }
            result = directory
                .place_in_tree(place, &file.contents, file.mtime)
                .map(|placed| match placed {
                    Placed::Yes => {
                        room.files += 1;
                        room.bytes = room.bytes.saturating_add(bytes);
                        State::Copied { is_proven, bytes }
                    }
                    Placed::NameTaken => State::Missing(Missing::NameTaken),
                });
            true
        });
        result
    }

    /// Adds this file, called `name` in the session, to what is told of all.
    pub(super) fn tell(&self, name: &[u8], archive: &mut Archive) {
        match self.state {
            State::Copied {
                is_proven: true, ..
            } => archive.proven += 1,
            State::Copied { .. } => archive.unproven += 1,
            State::Missing(why) => {
                archive.not_copied += 1;
                if archive.missing.len() < MAX_NAMED {
                    archive.missing.push((name.to_vec(), why));
                }
            }
        }
    }
}
