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

#[test]
fn help_of_every_tool_ends_with_examples_that_run_it() {
    for tool in tools() {
        for option in ["--help", "-?"] {
            let help = shown(&tool, &[option]);
            let (_, examples) = help
                .rsplit_once("Examples:\n")
                .unwrap_or_else(|| panic!("{tool}: {help}"));
            let call = format!("    {tool} ");
            assert!(
                examples.lines().any(|line| line.starts_with(&call)),
                "{tool}: {examples}"
            );
        }
    }
}

#[test]
fn version_and_usage_are_shown_on_standard_output() {
    for tool in tools() {
        for option in ["--version", "-v"] {
            assert!(shown(&tool, &[option]).starts_with(&tool));
        }
        assert!(shown(&tool, &["--usage"]).starts_with("Usage: "));
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
