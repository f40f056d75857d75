//! Tables as text.

pub(crate) mod numbers;
mod summary;
mod symbol_list;

use crate::classes::Merge;
use crate::demangle::Demangle;
use crate::error::ToolError;
use crate::profile::Selection;
use crate::session::Places;
use crate::spec::Specification;

/// What the table is to look like.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// One row a symbol instead of one a program.
    pub symbols: bool,
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
    /// How symbol names are shown.
    pub demangle: Demangle,
}

/// A report: what goes to standard output and what the user ought to be told beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The table.
    pub text: String,
    /// Warnings, one or more lines each.
    pub warnings: Vec<String>,
}

/// Makes the report on a session.
pub fn report(
    places: &Places,
    spec: &Specification,
    options: &Options,
) -> Result<Report, ToolError> {
    if options.merge.lib && options.exclude_dependent {
        return Err(ToolError::Usage(
            "--merge=lib is meaningless with --exclude-dependent".to_owned(),
        ));
    }
    if options.show_address && !options.symbols {
        return Err(ToolError::Usage(
            "--show-address is meaningless without --symbols".to_owned(),
        ));
    }
    let selection = Selection::new(places, spec, options.merge, options.exclude_dependent)?;
    let mut text = String::new();
    if !options.no_header {
        text.push_str("CPU: CPU with timer interrupt\n");
        for line in selection.classes.banner() {
            text.push_str(&line);
            text.push('\n');
        }
    }
    let mut warnings = places.warnings();
    if options.symbols {
        let profile = selection.by_symbol()?;
        warnings.extend(profile.warnings().map(str::to_owned));
        symbol_list::write(&mut text, &selection, &profile, options);
    } else {
        summary::write(&mut text, &selection, options)?;
    }
    Ok(Report { text, warnings })
}
