//! What all tools have in common: help with examples, version, usage, wrong options, colours.

use std::path::Path;
use std::process::{Command, Output};

/// Every tool whose command line the library holds.
fn tools() -> Vec<String> {
    oprofile_tools::cli::commands()
        .iter()
        .map(|command| command.get_name().to_owned())
        .collect()
}

fn run(tool: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let directory = Path::new(env!("CARGO_BIN_EXE_opimport")).parent().unwrap();
    Command::new(directory.join(tool))
        .args(arguments)
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .envs(environment.iter().copied())
        .output()
        .unwrap_or_else(|error| panic!("{tool}: {error}"))
}

#[track_caller]
fn shown(tool: &str, arguments: &[&str]) -> String {
    let output = run(tool, arguments, &[]);
    assert_eq!(output.status.code(), Some(0), "{tool} {arguments:?}");
    assert!(output.stderr.is_empty(), "{tool} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The words of each call of `tool` among the examples of its help, as a shell would split them.
fn examples(tool: &str, help: &str) -> Vec<Vec<String>> {
    let (_, examples) = help
        .rsplit_once("Examples:\n")
        .unwrap_or_else(|| panic!("{tool}: {help}"));
    let call = format!("    {tool} ");
    let calls = examples.lines().filter(|line| line.starts_with(&call));
    calls.map(|line| words(line.trim_start())).collect()
}

/// The words of a command up to the end, a pipe, a redirection or another command. Quotes are single ones.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in line.split(' ') {
        if ["|", ">", "&&"].contains(&word) {
            break;
        }
        words.push(word.replace('\'', ""));
    }
    words
}

#[test]
fn help_of_every_tool_ends_with_examples_that_it_understands() {
    for mut command in oprofile_tools::cli::commands() {
        let tool = command.get_name().to_owned();
        let help = shown(&tool, &["--help"]);
        let examples = examples(&tool, &help);
        assert!(!examples.is_empty(), "{tool}: {help}");
        for words in examples {
            if let Err(error) = command.try_get_matches_from_mut(&words) {
                panic!("{words:?}: {error}");
            }
        }
        // A description of its own, not that of options it shares.
        assert!(!help.starts_with("Usage"), "{tool}: {help}");
        assert!(shown(&tool, &["-?"]).contains("Examples:\n"), "{tool}");
    }
}

#[test]
fn every_binary_has_its_command_line_in_the_library() {
    let mut listed = tools();
    listed.sort();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut binaries: Vec<String> = std::fs::read_dir(manifest.join("src/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    binaries.sort();
    assert_eq!(listed, binaries);
}

#[test]
fn version_is_shown_on_standard_output() {
    for tool in tools() {
        for option in ["--version", "-v"] {
            let version = shown(&tool, &[option]);
            assert!(version.starts_with(&format!("{tool} ")), "{version}");
        }
    }
}

#[test]
fn usage_alone_is_shown_whatever_follows_or_is_missing() {
    for tool in tools() {
        for arguments in [&["--usage"][..], &["--usage", "--nope"]] {
            let usage = shown(&tool, arguments);
            assert!(usage.starts_with(&format!("Usage: {tool} ")), "{usage}");
            assert!(usage.lines().count() <= 3, "{usage}");
        }
    }
}

#[test]
fn unknown_option_is_told_with_exit_code_1() {
    for tool in tools() {
        let output = run(&tool, &["--nope"], &[]);
        assert_eq!(output.status.code(), Some(1), "{tool}");
        assert!(output.stdout.is_empty(), "{tool}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("--nope"), "{tool}: {stderr}");
    }
}

#[test]
fn no_color_is_respected() {
    const FORCE: (&str, &str) = ("CLICOLOR_FORCE", "1");
    let is_coloured = |output: &Output| output.stderr.contains(&0x1b);
    for tool in tools() {
        assert!(is_coloured(&run(&tool, &["--nope"], &[FORCE])), "{tool}");
        let without = run(&tool, &["--nope"], &[FORCE, ("NO_COLOR", "1")]);
        assert!(!is_coloured(&without), "{tool}");
        assert!(!is_coloured(&run(&tool, &["--nope"], &[])), "{tool}");
    }
}

#[test]
fn last_of_two_values_counts_as_in_oprofile() {
    let given = [
        ("opreport", "-t"),
        ("opannotate", "-t"),
        ("opgprof", "-t"),
        ("oparchive", "-o"),
        ("opimport", "-a"),
    ];
    for (tool, option) in given {
        let command = oprofile_tools::cli::commands()
            .into_iter()
            .find(|command| command.get_name() == tool)
            .unwrap();
        let refused = command
            .try_get_matches_from([tool, option, "1", option, "2"])
            .err()
            .map(|error| error.kind());
        // Other things may be missing.
        assert_ne!(
            refused,
            Some(clap::error::ErrorKind::ArgumentConflict),
            "{tool}"
        );
    }
}
