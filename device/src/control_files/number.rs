//! Numbers as control files read and print them.

use super::ControlError;

/// Most bytes of a number that is written: the original copies it into 50 bytes with a NUL behind.
pub const MAX_NUMBER_BYTES: usize = 49;

/// A number as it is read from a file: decimal and a newline.
#[must_use]
pub fn print(value: u64) -> String {
    format!("{value}\n")
}

/// The number in what was written at `offset`; `None` for an empty write, which changes nothing.
///
/// # Errors
/// [`ControlError::Invalid`] at any other offset than 0, then beyond [`MAX_NUMBER_BYTES`].
pub fn written(offset: u64, bytes: &[u8]) -> Result<Option<u64>, ControlError> {
    if offset != 0 {
        return Err(ControlError::Invalid);
    }
    if bytes.len() > MAX_NUMBER_BYTES {
        return Err(ControlError::Invalid);
    }
    Ok((!bytes.is_empty()).then(|| parse(bytes)))
}

/// The number at the start of `text`, by the rules of the kernel's `simple_strtoul` with base 0: hexadecimal behind `0x`
/// and a digit, octal behind another 0, else decimal; it ends at the first other character, wraps silently, and is 0
/// when there is none. Signs and blanks are other characters.
#[must_use]
pub fn parse(text: &[u8]) -> u64 {
    let (base, digits) = match text {
        [b'0', b'x' | b'X', rest @ ..] if rest.first().is_some_and(u8::is_ascii_hexdigit) => {
            (16, rest)
        }
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    digits
        .iter()
        .map_while(|&byte| char::from(byte).to_digit(base))
        .fold(0, |value: u64, digit| {
            value
                .wrapping_mul(u64::from(base))
                .wrapping_add(u64::from(digit))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_choose_the_base() {
        for (text, value) in [
            ("4096", 4096),
            ("0x100", 256),
            ("0X1f", 31),
            ("0xFf", 255),
            ("010", 8),
            ("08", 0),
            ("0", 0),
            ("00x10", 0),
        ] {
            assert_eq!(parse(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn the_first_foreign_character_ends_a_number() {
        for (text, value) in [
            ("12abc", 12),
            ("1\n", 1),
            ("abc", 0),
            ("-5", 0),
            (" 7", 0),
            ("+7", 0),
            ("0x", 0),
            ("0xg", 0),
            ("7\u{0}8", 7),
            ("0178", 15),
            ("", 0),
        ] {
            assert_eq!(parse(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn overflow_wraps() {
        assert_eq!(parse(b"18446744073709551615"), u64::MAX);
        assert_eq!(parse(b"18446744073709551616"), 0);
        let nines = [b'9'; MAX_NUMBER_BYTES];
        assert_eq!(parse(&nines), 17_909_126_868_192_198_655);
    }

    #[test]
    fn offset_is_checked_before_length_and_an_empty_write_is_none() {
        assert_eq!(written(0, b""), Ok(None));
        assert_eq!(written(1, b""), Err(ControlError::Invalid));
        assert_eq!(written(0, &[b'1'; 50]), Err(ControlError::Invalid));
        assert!(written(0, &[b'1'; 49]).is_ok());
    }

    proptest! {
        #[test]
        fn a_number_in_any_base_is_read_back_whatever_follows(
            value in 1u64.., tail in "([^0-9a-fA-F].{0,4})?")
        {
            for text in [format!("{value}"), format!("0x{value:x}"), format!("0X{value:X}"), format!("0{value:o}")] {
                prop_assert_eq!(parse(format!("{text}{tail}").as_bytes()), value);
            }
            prop_assert_eq!(parse(print(value).as_bytes()), value);
        }

        #[test]
        fn any_bytes_are_some_number(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let read = written(0, &bytes);
            match bytes.len() {
                0 => prop_assert_eq!(read, Ok(None)),
                1..=MAX_NUMBER_BYTES => prop_assert_eq!(read, Ok(Some(parse(&bytes)))),
                _ => prop_assert_eq!(read, Err(ControlError::Invalid)),
            }
        }

        /// Against arithmetic in 128 bits, digit by digit.
        #[test]
        fn digits_wrap_as_the_sum_of_their_places(digits in "[1-9][0-9]{0,48}") {
            let exact = digits.bytes().fold(0u128, |value, digit| {
                (value * 10 + u128::from(digit - b'0')) % (1 << 64)
            });
            prop_assert_eq!(u128::from(parse(digits.as_bytes())), exact);
        }
    }
}
