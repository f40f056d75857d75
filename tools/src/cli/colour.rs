//! Whether colours are wanted. What clap prints follows the same rules by itself.

use std::ffi::OsString;

/// Whether a terminal may be coloured: neither `NO_COLOR` (no-color.org) nor `CLICOLOR=0` (bixense.com/clicolors) is set.
pub fn is_wanted() -> bool {
    decide(std::env::var_os("NO_COLOR"), std::env::var_os("CLICOLOR"))
}

fn decide(no_color: Option<OsString>, clicolor: Option<OsString>) -> bool {
    no_color.is_none_or(|value| value.is_empty()) && clicolor.is_none_or(|value| value != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_variables_take_colours_away() {
        for (no_color, clicolor, expected) in [
            (None, None, true),
            (Some(""), Some("1"), true),
            (Some("0"), None, false),
            (Some("1"), Some("1"), false),
            (None, Some("0"), false),
        ] {
            let wanted = decide(no_color.map(Into::into), clicolor.map(Into::into));
            assert_eq!(
                wanted, expected,
                "NO_COLOR={no_color:?} CLICOLOR={clicolor:?}"
            );
        }
    }
}
