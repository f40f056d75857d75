//! What a report is to show and how.

use crate::classes::Merge;
use crate::demangle::Demangle;
use crate::error::ToolError;
use crate::names::printable;

/// What has a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Programs, and below each the images it used.
    #[default]
    Summary,
    /// Symbols.
    Symbols,
    /// Symbols, and below each the positions in it.
    Details,
    /// Symbols with their callers and callees.
    CallGraph,
}

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// Address.
    Vma,
    /// Count of the first class, the largest first.
    Sample,
    /// Name of the image.
    Image,
    /// Name of the program.
    AppName,
    /// Name of the symbol.
    Symbol,
    /// Source file and line.
    Debug,
}

impl SortKey {
    /// Reads one word of `--sort`.
    pub fn parse(word: &str) -> Result<Self, ToolError> {
        Ok(match word {
            "vma" => Self::Vma,
            "sample" => Self::Sample,
            "image" => Self::Image,
            "app-name" => Self::AppName,
            "symbol" => Self::Symbol,
            "debug" => Self::Debug,
            _ => {
                return Err(ToolError::Value(format!(
                    "unknown sort option: {}",
                    printable(word.as_bytes())
                )));
            }
        })
    }
}

/// What a report is to look like.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// What has a row.
    pub kind: Kind,
    /// XML instead of text.
    pub xml: bool,
    /// JSON instead of text.
    pub json: bool,
    /// The command line, for the XML title.
    pub command_line: String,
    /// Options as they were given, for the XML form: attribute and value.
    pub given: Vec<(&'static str, String)>,
    /// Sum over these.
    pub merge: Merge,
    /// Only the programs' own samples.
    pub exclude_dependent: bool,
    /// Rows below this percentage in every column are left out.
    pub threshold: f64,
    /// No banner and no headings.
    pub no_header: bool,
    /// Paths instead of the last component.
    pub long_filenames: bool,
    /// A column with the symbols' addresses.
    pub show_address: bool,
    /// A column with source file and line.
    pub debug_info: bool,
    /// Columns with the sum of all rows up to this one.
    pub accumulated: bool,
    /// Percentages of details and of callers are of everything instead of the symbol.
    pub global_percent: bool,
    /// The first decides; empty means [`SortKey::Sample`].
    pub sort: Vec<SortKey>,
    /// The last row first.
    pub reverse: bool,
    /// How symbol names are shown.
    pub demangle: Demangle,
    /// Which symbols are counted.
    pub filter: SymbolFilter,
}

impl Options {
    /// Refuses options that do not go together.
    pub fn check(&self) -> Result<(), ToolError> {
        let symbols = self.kind != Kind::Summary;
        let wrong = |condition: bool, message: &str| match condition {
            true => Err(ToolError::Usage(message.to_owned())),
            false => Ok(()),
        };
        wrong(
            self.merge.lib && self.exclude_dependent,
            "--merge=lib is meaningless with --exclude-dependent",
        )?;
        wrong(
            !symbols && self.show_address,
            "--show-address is meaningless without --symbols",
        )?;
        wrong(
            !symbols && (self.debug_info || self.accumulated),
            "--debug-info and --accumulated are meaningless without --symbols",
        )?;
        wrong(
            !symbols && self.sort.contains(&SortKey::Vma),
            "--sort=vma is meaningless without --symbols",
        )?;
        wrong(
            self.kind == Kind::Symbols && self.global_percent,
            "--global-percent is meaningless with --symbols alone; use --details or --callgraph",
        )?;
        wrong(
            self.xml && self.accumulated,
            "--accumulated is incompatible with --xml",
        )?;
        wrong(
            self.xml && self.global_percent,
            "--global-percent is incompatible with --xml",
        )?;
        wrong(self.json && self.xml, "--json is incompatible with --xml")?;
        wrong(
            self.json && self.accumulated,
            "--accumulated is incompatible with --json",
        )?;
        wrong(
            self.json && self.kind == Kind::CallGraph,
            "--json is incompatible with --callgraph; opexport --format=json has callers",
        )
    }

    /// Refuses options that a comparison of two profiles cannot have.
    pub fn check_differential(&self) -> Result<(), ToolError> {
        let message = match self.kind {
            Kind::CallGraph => "differential profiles are incompatible with --callgraph",
            Kind::Details => "differential profiles are incompatible with --details",
            _ if self.json => "differential profiles are incompatible with --json",
            _ if self.xml => "differential profiles are incompatible with --xml",
            Kind::Summary => "different profiles are meaningless without --symbols",
            Kind::Symbols => return Ok(()),
        };
        Err(ToolError::Usage(message.to_owned()))
    }
}

/// Which symbols are counted, by their names as in the symbol table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymbolFilter {
    /// Only these, unless empty.
    pub include: Vec<Vec<u8>>,
    /// Not these.
    pub exclude: Vec<Vec<u8>>,
}

impl SymbolFilter {
    /// Whether all symbols are counted.
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether the symbol of this name is counted.
    pub fn selects(&self, name: &[u8]) -> bool {
        let in_list = |list: &[Vec<u8>]| list.iter().any(|wanted| wanted == name);
        !in_list(&self.exclude) && (self.include.is_empty() || in_list(&self.include))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(options: &Options) -> String {
        options.check().unwrap_err().to_string()
    }

    #[test]
    fn options_that_need_symbols_are_refused_without() {
        let summary = Options::default();
        assert!(summary.check().is_ok());
        assert_eq!(
            message(&Options {
                accumulated: true,
                ..summary.clone()
            }),
            "--debug-info and --accumulated are meaningless without --symbols"
        );
        assert_eq!(
            message(&Options {
                sort: vec![SortKey::Vma],
                ..summary.clone()
            }),
            "--sort=vma is meaningless without --symbols"
        );
        assert!(
            Options {
                kind: Kind::Details,
                accumulated: true,
                global_percent: true,
                ..summary
            }
            .check()
            .is_ok()
        );
    }

    #[test]
    fn filter_takes_whole_names() {
        let filter = SymbolFilter {
            include: vec![b"main".to_vec(), b"f".to_vec()],
            exclude: vec![b"f".to_vec()],
        };
        assert!(filter.selects(b"main") && !filter.selects(b"f") && !filter.selects(b"main2"));
    }
}
