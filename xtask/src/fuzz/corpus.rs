//! The committed corpus: few small inputs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{FuzzError, Target};

/// Inputs that are kept whatever they reach: each made a target fail once.
const REGRESSION_PREFIX: &str = "regression-";

/// How much of libFuzzer's output an error shows.
const SHOWN_LINES: usize = 20;

/// Puts the smallest set of inputs into the committed corpus that reaches all code which that and the inputs found on
/// this machine reach together. Returns how many there are then, and their bytes.
pub fn merge(target: &Target) -> Result<(usize, u64), FuzzError> {
    target.make_directories()?;
    let seeds = target.seeds();
    let parent = target.found();
    let merged = tempfile::Builder::new()
        .prefix("merge-")
        .tempdir_in(&parent)
        .map_err(FuzzError::file(&parent))?;
    let program = target.program();
    let output = Command::new(&program)
        .args(["-set_cover_merge=1", "-use_counters=0"])
        .arg(format!("-max_len={}", target.max_len))
        .arg(merged.path())
        .args([&seeds, &target.corpus()])
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

fn entries(directory: &Path) -> Result<Vec<(std::path::PathBuf, String)>, FuzzError> {
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
