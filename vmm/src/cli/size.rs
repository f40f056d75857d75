//! Sizes as people write them: `256M`, `4K`, `1G`, or bytes.

use thiserror::Error;

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    /// Not digits with an optional suffix.
    #[error("Size {0:?} is not a number with an optional K, M or G behind it")]
    Syntax(String),
    /// Beyond 64 bits.
    #[error("Size {0:?} is too large")]
    Overflow(String),
}

/// Reads a count with an optional binary suffix (K = 1,024, M, G; either case).
///
/// # Errors
/// When `text` is empty, has other characters, or exceeds 64 bits.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let syntax = || SizeError::Syntax(text.to_owned());
    let (digits, shift) = match text.as_bytes().last().ok_or_else(syntax)? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    // `str::parse` would take a leading '+'.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(syntax());
    }
    let overflow = || SizeError::Overflow(text.to_owned());
    let number: u64 = digits.parse().map_err(|_| overflow())?;
    number.checked_mul(1 << shift).ok_or_else(overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_binary_and_of_either_case() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("4K"), Ok(4096));
        assert_eq!(parse("3m"), Ok(3 << 20));
        assert_eq!(parse("2G"), Ok(2 << 30));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "M", "-1", "+1", "1.5G", "1KB", "0x10", " 1", "١"] {
            assert_eq!(parse(text), Err(SizeError::Syntax(text.into())), "{text:?}");
        }
    }

    #[test]
    fn what_exceeds_64_bits_is_refused() {
        for text in ["18446744073709551616", "17179869184G"] {
            assert_eq!(parse(text), Err(SizeError::Overflow(text.into())));
        }
    }
}
