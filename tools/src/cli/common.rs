//! Options that every tool has, as OProfile's have them.

use clap::{ArgAction, Args};

// A doc comment here would become the description of the tool.
#[derive(Debug, Args)]
#[allow(missing_docs)]
pub struct Common {
    /// Show this help
    #[arg(short = '?', short_alias = 'h', long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Show the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Show the usage in short
    #[arg(long)]
    usage: bool,
}
