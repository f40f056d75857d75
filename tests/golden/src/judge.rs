//! Compares what a tool did with what the original did.

use crate::case::{Case, Compare, Expect, Expected, Warnings};
use crate::files::{Content, gmon_records, sha256};
use crate::run::{Actual, End};
use crate::text::{complains, diff, equal_but_ties, normal};
use crate::xml::{Canon, canon};

/// What differs; nothing when the case passed.
#[must_use]
pub fn differences(case: &Case, actual: &Actual) -> Vec<String> {
    if case.expect == Some(Expect::ClearError) {
        return unclear(actual);
    }
    let expected = &case.result;
    let mut found = Vec::new();
    if actual.end != End::Code(expected.rc) {
        found.push(format!(
            "exit code: expected {}, got {}",
            expected.rc, actual.end
        ));
    }
    found.extend(match &expected.stdout_sha256 {
        Some(digest) => long_output(expected, digest, &actual.stdout),
        None => output(case, actual),
    });
    let warned = expected.stderr.trim();
    if case.warnings == Warnings::Wanted && complains(warned) && actual.stderr.trim().is_empty() {
        found.push(format!(
            "stderr is empty; expected something like: {warned}"
        ));
    }
    found.extend(files(expected, actual));
    found
}

/// How it is not an orderly failure.
fn unclear(actual: &Actual) -> Vec<String> {
    let mut found = Vec::new();
    // 101 is what a panic makes.
    if !matches!(actual.end, End::Code(1..=100 | 102..=125)) {
        found.push(format!(
            "exit code {}: expected an orderly failure (1..125, no signal, no panic)",
            actual.end
        ));
    }
    if actual.stderr.trim().is_empty() {
        found.push("stderr is empty: expected a message".to_owned());
    }
    if actual.stderr.contains("panicked at") || actual.stderr.contains("Assertion") {
        found.push(format!("stderr shows a crash: {}", actual.stderr));
    }
    found
}

/// Of long output the first lines, the number of lines and a digest are stored.
fn long_output(expected: &Expected, digest: &str, stdout: &str) -> Vec<String> {
    let lines = normal(stdout);
    let head = &lines[..lines.len().min(expected.stdout_head.len())];
    let mut found = diff(&expected.stdout_head, head, "stdout (first lines)");
    if lines.len() != expected.stdout_lines {
        found.push(format!(
            "stdout: expected {} lines, got {}",
            expected.stdout_lines,
            lines.len()
        ));
    } else if sha256(lines.join("\n").as_bytes()) != digest {
        found.push(format!(
            "stdout differs somewhere in its {} lines",
            lines.len()
        ));
    }
    found
}

fn output(case: &Case, actual: &Actual) -> Vec<String> {
    let expected = &case.result.stdout;
    let plain = || (normal(expected), normal(&actual.stdout));
    match case.compare {
        Compare::Ignore => Vec::new(),
        Compare::Nonempty => match (actual.stdout.trim(), actual.stderr.trim()) {
            ("", "") => vec!["output is empty".to_owned()],
            _ => Vec::new(),
        },
        Compare::Xml => match canon(expected) {
            Ok(expected) => xml(&expected, &actual.stdout, "stdout", true),
            // The original printed something else.
            Err(_) => diff(&normal(expected), &normal(&actual.stdout), "stdout"),
        },
        Compare::Lines => {
            let (mut expected, mut actual) = plain();
            expected.sort_unstable();
            actual.sort_unstable();
            diff(&expected, &actual, "stdout (sorted)")
        }
        Compare::Text => {
            let (expected, actual) = plain();
            match case.ties {
                true if equal_but_ties(&expected, &actual) => Vec::new(),
                true => diff(&expected, &actual, "stdout (order of equal rows is free)"),
                false => diff(&expected, &actual, "stdout"),
            }
        }
    }
}

fn xml(expected: &Canon, text: &str, what: &str, with_symbols: bool) -> Vec<String> {
    let actual = match canon(text) {
        Ok(actual) => actual,
        Err(error) => return vec![format!("{what} is not well-formed XML: {error}")],
    };
    let mut found = diff(&expected.lines, &actual.lines, &format!("{what} (XML)"));
    if with_symbols {
        let missing = expected.symbols.difference(&actual.symbols);
        found.extend(
            missing
                .map(|(name, address)| format!("{what}: no symboldata of {name} at {address:x}")),
        );
    }
    found
}

fn files(expected: &Expected, actual: &Actual) -> Vec<String> {
    let mut found = Vec::new();
    for name in expected.files.keys() {
        if !actual.files.contains_key(name) {
            found.push(format!("file not written: {name}"));
        }
    }
    for (name, content) in &actual.files {
        match expected.files.get(name) {
            None => found.push(format!("file not expected: {name}")),
            Some(expected) => found.extend(file(name, expected, content)),
        }
    }
    found
}

fn file(name: &str, expected: &Content, actual: &Content) -> Vec<String> {
    match (expected, actual) {
        _ if expected == actual => Vec::new(),
        (Content::Text { text: expected }, Content::Text { text: actual }) => {
            diff(&normal(expected), &normal(actual), name)
        }
        (Content::Xml { text: expected }, Content::Xml { text: actual }) => match canon(expected) {
            Ok(expected) => xml(&expected, actual, name, false),
            Err(error) => vec![format!("{name}: expected no well-formed XML: {error}")],
        },
        (Content::Gmon { bytes: expected }, Content::Gmon { bytes: actual }) => {
            match (gmon_records(expected), gmon_records(actual)) {
                (Some(expected), Some(actual)) => diff(&expected, &actual, name),
                _ => vec![format!("{name}: not a complete gmon.out")],
            }
        }
        (Content::Odb(expected), Content::Odb(actual)) => {
            diff(&expected.lines(), &actual.lines(), name)
        }
        _ => vec![format!("file differs: {name}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn case(rest: &str) -> Case {
        let text = format!(r#"{{"id":"x-1","group":"x","argv":["opreport"],{rest}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn actual(code: i32, stdout: &str, stderr: &str) -> Actual {
        Actual {
            end: End::Code(code),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            files: BTreeMap::new(),
        }
    }

    fn passes(case: &Case, actual: &Actual) -> bool {
        differences(case, actual).is_empty()
    }

    #[test]
    fn output_and_exit_code_must_be_equal() {
        let case = case(r#""result":{"rc":0,"stdout":"a\n","stderr":""}"#);
        assert!(passes(&case, &actual(0, "a", "")));
        assert!(!passes(&case, &actual(1, "a", "")));
        assert!(!passes(&case, &actual(0, "b", "")));
        let never_ran = Actual {
            end: End::NotStarted("no such file".to_owned()),
            ..actual(0, "a", "")
        };
        assert!(!passes(&case, &never_ran));
    }

    #[test]
    fn a_warning_needs_a_counterpart_of_any_wording() {
        let warned = r#""result":{"rc":0,"stdout":"","stderr":"warning: x"}"#;
        assert!(!passes(&case(warned), &actual(0, "", "")));
        assert!(passes(&case(warned), &actual(0, "", "Note: x")));
        let ignored = case(&format!(r#""stderr":"ignore",{warned}"#));
        assert!(passes(&ignored, &actual(0, "", "")));
    }

    #[test]
    fn a_clear_error_is_orderly_and_says_something() {
        let case = case(r#""expect":"clear-error","result":{"rc":-11,"stdout":"","stderr":""}"#);
        assert!(passes(&case, &actual(1, "", "bad file")));
        for (code, stderr) in [
            (0, "x"),
            (-11, "x"),
            (101, "x"),
            (126, "x"),
            (1, " "),
            (1, "panicked at"),
        ] {
            assert!(!passes(&case, &actual(code, "", stderr)), "{code} {stderr}");
        }
    }

    #[test]
    fn long_output_is_known_by_its_digest() {
        let digest = sha256(b"a\nb");
        let case = case(&format!(
            r#""result":{{"rc":0,"stderr":"","stdout_sha256":"{digest}","stdout_lines":2,"stdout_head":["a"]}}"#
        ));
        assert!(passes(&case, &actual(0, "a\nb \n", "")));
        assert!(!passes(&case, &actual(0, "a\nc\n", "")));
        assert!(!passes(&case, &actual(0, "a\nb\nc\n", "")));
    }

    #[test]
    fn files_must_be_there_with_their_content_and_no_others() {
        let case = case(
            r#""result":{"rc":0,"stdout":"","stderr":"","files":{"f":{"kind":"text","text":"a\n"}}}"#,
        );
        let with = |names: &[(&str, &str)]| Actual {
            files: names
                .iter()
                .map(|&(name, text)| {
                    let text = text.to_owned();
                    (name.to_owned(), Content::Text { text })
                })
                .collect(),
            ..actual(0, "", "")
        };
        assert!(passes(&case, &with(&[("f", "a")])));
        assert!(!passes(&case, &with(&[("f", "b")])));
        assert!(!passes(&case, &with(&[])));
        assert!(!passes(&case, &with(&[("f", "a"), ("g", "a")])));
    }
}
