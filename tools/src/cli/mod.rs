//! The command lines, one module a tool, so that man pages and shell completions come from the same definitions as the
//! tools themselves; and how all tools read theirs.

pub mod colour;
pub mod common;
pub mod next_step;
pub mod opannotate;
pub mod oparchive;
pub mod opcontrol;
pub mod opexport;
pub mod opgprof;
pub mod opimport;
pub mod opread;
pub mod opreport;
pub mod optop;
pub mod run;
pub mod values;

use clap::{Command, CommandFactory as _};

/// The command lines of all tools, by name.
pub fn commands() -> Vec<Command> {
    vec![
        opannotate::Arguments::command(),
        oparchive::Arguments::command(),
        opcontrol::Arguments::command(),
        opexport::Arguments::command(),
        opgprof::Arguments::command(),
        opimport::Arguments::command(),
        opread::Arguments::command(),
        opreport::Arguments::command(),
        optop::Arguments::command(),
    ]
}
