//! `cargo xtask man [DIR]`: man pages and shell completions of the host tools, from their own command lines.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::{Shell, generate_to};

use crate::Failure;
use crate::repo;

/// Writes the man pages and shell completions of all host tools.
///
/// Man pages go to DIR/man/man1, completions to DIR/completions/bash, zsh and fish.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory to write to; target/share of the repository unless given.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Shells that get completions.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash"),
    (Shell::Zsh, "zsh"),
    (Shell::Fish, "fish"),
];

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("Cannot write to {}", directory.display())]
struct ManError {
    directory: PathBuf,
    source: io::Error,
}

/// Writes all pages and completions, and tells where.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let directory = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => repo::target_dir().join("share"),
    };
    let commands = oprofile_tools::cli::commands();
    let count = commands.len();
    write(commands, &directory).map_err(|source| {
        Failure::new(ManError {
            directory: directory.clone(),
            source,
        })
    })?;
    println!(
        "{count} man pages in {}, completions in {}",
        man_directory(&directory).display(),
        directory.join("completions").display()
    );
    Ok(ExitCode::SUCCESS)
}

fn man_directory(directory: &Path) -> PathBuf {
    directory.join("man/man1")
}

fn write(commands: Vec<Command>, directory: &Path) -> io::Result<()> {
    let man = man_directory(directory);
    fs::create_dir_all(&man)?;
    for mut command in commands {
        let name = command.get_name().to_owned();
        for (shell, folder) in SHELLS {
            let folder = directory.join("completions").join(folder);
            fs::create_dir_all(&folder)?;
            generate_to(shell, &mut command, &name, folder)?;
        }
        clap_mangen::generate_to(command, &man)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_gets_a_page_with_its_options_and_examples() {
        let directory = tempfile::tempdir().unwrap();
        let commands = oprofile_tools::cli::commands();
        write(commands.clone(), directory.path()).unwrap();
        for command in commands {
            let name = command.get_name();
            let page = directory.path().join(format!("man/man1/{name}.1"));
            let page = fs::read_to_string(page).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{name}");
            assert!(page.contains("Examples:"), "{name}: {page}");
            let shown = command.get_opts().filter(|option| !option.is_hide_set());
            for option in shown.filter_map(|option| option.get_long()) {
                let option = option.replace('-', "\\-");
                assert!(page.contains(&option), "{name} --{option}: {page}");
            }
        }
    }

    #[test]
    fn every_tool_gets_completions_of_its_options() {
        let directory = tempfile::tempdir().unwrap();
        let commands = oprofile_tools::cli::commands();
        write(commands.clone(), directory.path()).unwrap();
        for command in commands {
            let name = command.get_name();
            for file in [
                format!("bash/{name}.bash"),
                format!("zsh/_{name}"),
                format!("fish/{name}.fish"),
            ] {
                let path = directory.path().join("completions").join(&file);
                let script = fs::read_to_string(path).unwrap();
                let shown = command
                    .get_arguments()
                    .filter(|option| !option.is_hide_set());
                for option in shown.filter_map(|option| option.get_long()) {
                    assert!(script.contains(option), "{file}: --{option}");
                }
            }
        }
    }
}
