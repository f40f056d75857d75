//! How errors are shown.

use std::error::Error;
use std::fmt;

/// An error with its causes, joined by colons.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thiserror::Error;

    #[derive(Debug, Error)]
    #[error("Outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn causes_follow_their_error() {
        let cause = "x".parse::<u8>().unwrap_err();
        let text = Chain(&Outer(cause)).to_string();
        assert_eq!(text, "Outer: invalid digit found in string");
    }
}
