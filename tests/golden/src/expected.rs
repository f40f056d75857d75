//! The cases that are known to fail today. The list may only become shorter.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use crate::Error;

/// Name of the list, beside the cases' folder.
pub const FILE: &str = "expected-failures.txt";

/// Reads the list at `path`: a case's id in a line, `#` before remarks. There is none when there is no such file.
///
/// # Errors
/// When the file cannot be read.
pub fn load(path: &Path) -> Result<BTreeSet<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(ids(&text).map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// Takes the lines of the cases `solved` out of the list at `path`; everything else stays.
///
/// # Errors
/// When the file cannot be read or written.
pub fn shrink(path: &Path, solved: &BTreeSet<&str>) -> Result<(), Error> {
    if solved.is_empty() {
        return Ok(());
    }
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    fs::write(path, without(&text, solved)).map_err(Error::io(path))
}

fn without(text: &str, solved: &BTreeSet<&str>) -> String {
    let lines = text.lines().filter(|line| !solved.contains(line.trim()));
    lines.map(|line| format!("{line}\n")).collect()
}

fn ids(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_solved_cases_leave_the_list() {
        let text = "# why\na-1\nb-1\n";
        assert_eq!(ids(text).collect::<Vec<_>>(), ["a-1", "b-1"]);
        assert_eq!(
            without(text, &BTreeSet::from(["a-1", "c-1"])),
            "# why\nb-1\n"
        );
    }
}
