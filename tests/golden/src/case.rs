//! The cases: what is run, and what the original printed (`README.md` describes the format).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Error;

/// A command line and what the original made of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name, unique among all cases.
    pub id: String,
    /// The file it is in.
    pub group: String,
    /// Tool and arguments.
    pub argv: Vec<String>,
    /// Working directory.
    #[serde(default = "out_directory")]
    pub cwd: String,
    /// Further environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files copied before the run: where from below the data, and where to below the case's folder.
    #[serde(default)]
    pub setup: Vec<(String, String)>,
    /// What the machine must have.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Seed of the big session, if the case reads it.
    pub big: Option<u64>,
    /// How stdout is compared.
    #[serde(default)]
    pub compare: Compare,
    /// Rows of equal count may come in any order.
    #[serde(default)]
    pub ties: bool,
    /// Whether warnings are looked at.
    #[serde(default, rename = "stderr")]
    pub warnings: Warnings,
    /// What is wanted whatever the original did.
    pub expect: Option<Expect>,
    /// How the original is wrong here.
    pub defect: Option<String>,
    /// How often the original may be tried; ours is tried once.
    #[serde(default, rename = "retry")]
    _retry: Option<u32>,
    /// A remark.
    pub note: Option<String>,
    /// What came of it.
    pub result: Expected,
}

fn out_directory() -> String {
    crate::run::OUT.to_owned()
}

impl Case {
    /// Tool and arguments in one line.
    #[must_use]
    pub fn command(&self) -> String {
        self.argv.join(" ")
    }

    /// Whether the case says only what the original does wrong, and nothing that could be expected instead.
    #[must_use]
    pub fn is_mere_defect(&self) -> bool {
        self.defect.is_some() && self.expect.is_none()
    }
}

/// How stdout is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compare {
    /// Line by line.
    #[default]
    Text,
    /// As a tree.
    Xml,
    /// As a set of lines.
    Lines,
    /// Something must be printed.
    Nonempty,
    /// Not at all.
    Ignore,
}

/// Whether a warning of the original must have a counterpart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Warnings {
    /// Something must be said where the original warned.
    #[default]
    Wanted,
    /// The original warns without reason.
    Ignore,
}

/// What is wanted instead of the original's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// Exit code 1..125, a message, neither signal nor panic.
    ClearError,
}

/// What the original did.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Exit code, or the negative number of a signal.
    pub rc: i32,
    /// What it printed, unless that is long.
    #[serde(default)]
    pub stdout: String,
    /// Its messages, at most 1,400 characters.
    pub stderr: String,
    /// SHA-256 of long output, normalised, in hexadecimal digits.
    pub stdout_sha256: Option<String>,
    /// Lines of long output.
    #[serde(default)]
    pub stdout_lines: usize,
    /// The first lines of long output.
    #[serde(default)]
    pub stdout_head: Vec<String>,
    /// Files it wrote.
    #[serde(default)]
    pub files: BTreeMap<String, crate::files::Content>,
}

/// Reads all cases of `folder` (`*.jsonl`, one a line), in order of file name and line.
///
/// # Errors
/// When the folder or a file cannot be read, a line is no case, or there is none.
pub fn load(folder: &Path) -> Result<Vec<Case>, Error> {
    let listed = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<PathBuf>, _>>()
    });
    let mut paths = listed.map_err(Error::io(folder))?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        for (index, line) in text.lines().enumerate() {
            if !line.trim().is_empty() {
                cases.push(serde_json::from_str(line).map_err(|source| Error::Case {
                    path: path.clone(),
                    line: index + 1,
                    source,
                })?);
            }
        }
    }
    match cases.is_empty() {
        true => Err(Error::NoCases(folder.to_owned())),
        false => Ok(cases),
    }
}
