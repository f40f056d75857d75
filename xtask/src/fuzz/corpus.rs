//! The committed corpus: few small inputs.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{FuzzError, Target};

/// Inputs that are kept whatever they reach: each made a target fail once.
const REGRESSION_PREFIX: &str = "regression-";

/// How much of libFuzzer's output an error shows.
const SHOWN_LINES: usize = 20;

/// Puts the smallest set of inputs into the committed corpus that reaches all code which that and the inputs found on
/// this machine reach together. Returns how many there are then, and their bytes.
///
/// The target may be running meanwhile: what it has found until now is taken.
pub fn merge(target: &Target) -> Result<(usize, u64), FuzzError> {
    target.make_directories()?;
    let seeds = target.seeds();
    let parent = target.found();
    // Beside the corpus, so that inputs can be linked.
    let directory = |prefix| {
        tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(&parent)
            .map_err(FuzzError::file(&parent))
    };
    let merged = directory("merge-")?;
    let found = directory("found-")?;
    link_all(entries(&target.corpus())?, found.path())?;
    let program = target.program();
    let output = Command::new(&program)
        .args(["-set_cover_merge=1", "-use_counters=0"])
        .arg(format!("-max_len={}", target.max_len))
        .arg(merged.path())
        .arg(&seeds)
        .arg(found.path())
        .stdin(Stdio::null())
        .output()
        .map_err(FuzzError::file(&program))?;
    if !output.status.success() {
        return Err(FuzzError::Merge {
            target: target.name.clone(),
            output: crate::tail(&String::from_utf8_lossy(&output.stderr), SHOWN_LINES),
        });
    }
    for (path, name) in entries(&seeds)? {
        if !name.starts_with(REGRESSION_PREFIX) {
            fs::remove_file(&path).map_err(FuzzError::file(&path))?;
        }
    }
    for (path, name) in entries(merged.path())? {
        let to = seeds.join(name);
        fs::copy(&path, &to).map_err(FuzzError::file(&to))?;
    }
    let mut bytes = 0;
    let kept = entries(&seeds)?;
    for (path, _) in &kept {
        bytes += path.metadata().map_err(FuzzError::file(path))?.len();
    }
    Ok((kept.len(), bytes))
}

/// Links files into `directory`. A target that runs replaces its inputs by smaller ones, and libFuzzer ends a merge when an
/// input of its list is gone: such a file is left out.
fn link_all(files: Vec<(PathBuf, String)>, directory: &Path) -> Result<(), FuzzError> {
    for (path, name) in files {
        match fs::hard_link(&path, directory.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            linked => linked.map_err(FuzzError::file(&path))?,
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<(PathBuf, String)>, FuzzError> {
    fs::read_dir(directory)
        .and_then(|entries| {
            entries
                .map(|entry| {
                    let entry = entry?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    Ok((entry.path(), name))
                })
                .collect()
        })
        .map_err(FuzzError::file(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_is_gone_since_it_was_listed_is_left_out() {
        let corpus = tempfile::tempdir().unwrap();
        let into = tempfile::tempdir_in(corpus.path()).unwrap();
        for name in ["kept", "replaced"] {
            fs::write(corpus.path().join(name), name).unwrap();
        }
        let mut listed = entries(corpus.path()).unwrap();
        listed.retain(|(path, _)| path.is_file());
        fs::remove_file(corpus.path().join("replaced")).unwrap();
        link_all(listed, into.path()).unwrap();
        let linked = entries(into.path()).unwrap();
        assert_eq!(linked.len(), 1);
        assert_eq!(fs::read(&linked[0].0).unwrap(), b"kept");
    }
}
