//! The shell script that runs a job inside the lab.

use std::ffi::{OsStr, OsString};

use crate::machine::Job;
use crate::shell::{join, quote};

/// Variables of the caller that a job gets.
const PASSED: [&str; 8] = [
    "CARGO_TARGET_DIR",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "NO_COLOR",
    "PATH",
    "TERM",
];
/// Prefixes of further variables that it gets.
const PASSED_PREFIXES: [&str; 4] = ["NEXTEST_", "OPROFILE_", "PROPTEST_", "RUST_"];

/// Renders the script: variables, working directory, command.
pub fn render(job: &Job, caller: impl Iterator<Item = (OsString, OsString)>) -> Vec<u8> {
    let mut script = Vec::new();
    let own = [(OsString::from("OPROFILE_SHARE"), OsString::from("/mnt"))];
    let variables = caller
        .filter(|(name, _)| passes(name))
        .chain(own)
        .chain(job.environment.iter().cloned());
    for (name, value) in variables {
        script.extend_from_slice(b"export ");
        script.extend_from_slice(name.as_encoded_bytes());
        script.push(b'=');
        script.extend(quote(&value));
        script.push(b'\n');
    }
    script.extend_from_slice(b"cd ");
    script.extend(quote(job.directory.as_os_str()));
    script.extend_from_slice(b" || exit 126\nexec ");
    script.extend(join(&job.command));
    script.push(b'\n');
    script
}

fn passes(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        let word = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let listed = PASSED.contains(&name)
            || PASSED_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix));
        word && listed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_variables_pass_and_all_is_quoted() {
        let mut job = Job::new(["echo", "it's"]);
        job.directory = "/a b".into();
        job.environment = vec![("MINE".into(), "1".into())];
        let caller = [("RUST_LOG", "debug"), ("SECRET", "x"), ("RUST_BAD;", "x")];
        let script = render(
            &job,
            caller
                .into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        assert_eq!(
            String::from_utf8(script).expect("text"),
            "export RUST_LOG='debug'\nexport OPROFILE_SHARE='/mnt'\nexport MINE='1'\n\
             cd '/a b' || exit 126\nexec 'echo' 'it'\\''s'\n"
        );
    }
}
