//! Which build of a file the guest ran, and whether a binary is that one.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oprofile_session::file_list;
use oprofile_session::sample_path::ImageName;
use oprofile_session::{Build, BuildId};

use crate::error::ToolError;
use crate::names::printable;

/// What a session says of the build of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    #[default]
    Anything,
    /// One that has no build-id.
    WithoutId,
    /// The one with this build-id.
    Id(BuildId),
    /// Several builds ran under one name.
    Several,
}

/// The builds of the files of all sessions of a report.
#[derive(Debug, Default)]
pub struct Builds {
    by_name: HashMap<Vec<u8>, Expected>,
}

impl Builds {
    /// Reads the lists of the sessions whose samples are in `sessions`.
    ///
    /// # Errors
    /// When a list cannot be read.
    pub fn read(sessions: &[PathBuf]) -> Result<Self, ToolError> {
        let mut builds = Self::default();
        for session in sessions {
            let list = file_list::read(session).map_err(|source| ToolError::FileList {
                path: session.join(file_list::PLACE),
                source,
            })?;
            for record in list {
                builds.add(record.name, record.identity.build);
            }
        }
        Ok(builds)
    }

    fn add(&mut self, name: Vec<u8>, build: Build) {
        let new = match build {
            Build::Unknown => return,
            Build::WithoutId => Expected::WithoutId,
            Build::Id(id) => Expected::Id(id),
        };
        let known = self.by_name.entry(name).or_default();
        match known {
            Expected::Anything => *known = new,
            same if *same == new => {}
            _ => *known = Expected::Several,
        }
    }

    /// What is known of the build of an image.
    pub fn of(&self, image: &ImageName) -> Expected {
        match image {
            ImageName::Root(name) => self.by_name.get(name).cloned().unwrap_or_default(),
            ImageName::Kern(_) | ImageName::Anon { .. } => Expected::Anything,
        }
    }
}

impl Expected {
    /// Whether the binary at `path`, which has this build-id or none, is proven to be the one that ran.
    ///
    /// # Errors
    /// The warning for the user when it is another one.
    pub fn check(&self, path: &Path, found: Option<&[u8]>) -> Result<bool, String> {
        let shown = printable(path.as_os_str().as_bytes());
        let has = || match found.and_then(BuildId::new) {
            Some(id) => format!("has build-id {id}"),
            None => "has no build-id".to_owned(),
        };
        match self {
            Self::Anything => Ok(false),
            Self::WithoutId if found.is_none() => Ok(false),
            Self::Id(id) if found == Some(id.as_bytes()) => Ok(true),
            Self::WithoutId => Err(format!(
                "warning: {shown} {}, but the guest's file had none: its symbols are not used.",
                has()
            )),
            Self::Id(id) => Err(format!(
                "warning: {shown} {}, but the guest ran {id}: its symbols are not used.",
                has()
            )),
            Self::Several => Err(format!(
                "warning: the guest ran more than one build of {shown}: its symbols are not used."
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> BuildId {
        BuildId::new(&[byte; 20]).unwrap()
    }

    fn expected(builds: &[Build]) -> Expected {
        let mut all = Builds::default();
        for build in builds {
            all.add(b"/a".to_vec(), build.clone());
        }
        all.of(&ImageName::Root(b"/a".to_vec()))
    }

    #[test]
    fn a_name_stands_for_one_build_or_for_several() {
        let one = Build::Id(id(1));
        assert_eq!(expected(&[]), Expected::Anything);
        assert_eq!(expected(&[Build::Unknown]), Expected::Anything);
        let known = [Build::Unknown, one.clone(), one.clone()];
        assert_eq!(expected(&known), Expected::Id(id(1)));
        for other in [Build::Id(id(2)), Build::WithoutId] {
            assert_eq!(expected(&[one.clone(), other]), Expected::Several);
        }
    }

    #[test]
    fn another_build_is_refused_in_plain_words() {
        let path = Path::new("/bin/a");
        assert_eq!(Expected::Id(id(1)).check(path, Some(&[1; 20])), Ok(true));
        let told = Expected::Id(id(1)).check(path, Some(&[2; 20])).unwrap_err();
        assert!(
            told.starts_with("warning: /bin/a has build-id 0202")
                && told.contains("the guest ran 0101"),
            "{told}"
        );
        let told = Expected::Id(id(1)).check(path, None).unwrap_err();
        assert!(told.contains("has no build-id"), "{told}");
        assert_eq!(Expected::WithoutId.check(path, None), Ok(false));
        assert!(Expected::WithoutId.check(path, Some(&[2; 20])).is_err());
        assert!(Expected::Several.check(path, Some(&[2; 20])).is_err());
        assert_eq!(Expected::Anything.check(path, Some(&[2; 20])), Ok(false));
    }
}
