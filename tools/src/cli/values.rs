//! Values of options that several tools have.

use super::run::tell;
use crate::demangle::Demangle;
use crate::error::ToolError;
use crate::names::printable;
use crate::session::Places;

/// Words of `--verbose`. They are accepted for the sake of scripts; there is nothing more to be told.
const VERBOSE: [&str; 7] = ["all", "debug", "bfd", "level1", "sfile", "stats", "xml"];

/// Checks the argument of `--verbose`.
///
/// # Errors
/// When a word is none of OProfile's.
pub fn check_verbose<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<(), ToolError> {
    if words.all(|word| VERBOSE.contains(&word)) {
        Ok(())
    } else {
        Err(ToolError::Usage("unknown --verbose= options".to_owned()))
    }
}

/// The argument of `--threshold` in percent, 0 when there is none.
///
/// # Errors
/// When it is no percentage.
pub fn threshold(text: Option<&str>) -> Result<f64, ToolError> {
    let Some(text) = text else {
        return Ok(0.0);
    };
    text.parse()
        .ok()
        .filter(|value| (0.0..=100.0).contains(value))
        .ok_or_else(|| {
            ToolError::Usage(format!(
                "illegal threshold value: {} allowed range: [0-100]",
                printable(text.as_bytes())
            ))
        })
}

/// The argument of `--demangle`.
///
/// # Errors
/// When there is no such way to show names.
pub fn demangle(text: Option<&str>) -> Result<Demangle, ToolError> {
    match text {
        None | Some("normal") => Ok(Demangle::Normal),
        Some("none") => Ok(Demangle::None),
        Some("smart") => Ok(Demangle::Smart),
        Some(text) => Err(ToolError::Value(format!(
            "invalid option --demangle={}",
            printable(text.as_bytes())
        ))),
    }
}

/// Tells which session directory was chosen, when the user did not name one.
pub fn announce(places: &Places) {
    if places.announce {
        tell(&format!(
            "Using {}/samples/ for samples directory.",
            places.session_dir.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_percentage() {
        assert_eq!(threshold(None).unwrap(), 0.0);
        assert_eq!(threshold(Some("2.5")).unwrap(), 2.5);
        for text in ["-1", "101", "NaN", "", "much"] {
            assert!(threshold(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_refused_way_to_show_names_is_told_safely() {
        let error = demangle(Some("\x1b[2J")).unwrap_err();
        assert_eq!(error.to_string(), "invalid option --demangle=\\x1b[2J");
    }
}
