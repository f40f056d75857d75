//! Options that every tool has, as OProfile's have them.

use clap::{ArgAction, Args};

#[derive(Debug, Args)]
#[expect(
    missing_docs,
    reason = "a doc comment would become the description of the tool"
)]
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
