//! The command lines, one module a tool, so that man pages and shell completions come from the same definitions as the
//! tools themselves; and how all tools read theirs.

pub mod oparchive;
pub mod opimport;
pub mod run;
pub mod values;

use clap::{Command, CommandFactory as _};

/// The command lines of all tools, by name.
pub fn commands() -> Vec<Command> {
    vec![
        oparchive::Arguments::command(),
        opimport::Arguments::command(),
    ]
}
