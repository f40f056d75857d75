//! Names as XML 1.0 can hold them.

use crate::names::printable;

/// Bytes of a name as characters that XML 1.0 allows: what is not UTF-8, what controls a terminal and the two noncharacters
/// that XML excludes (XML 1.0 § 2.2) is written as `\xNN`. Markup is escaped by the writer.
pub(super) fn xml_text(name: &[u8]) -> String {
    let text = printable(name);
    if text.contains(['\u{fffe}', '\u{ffff}']) {
        return text
            .replace('\u{fffe}', "\\xef\\xbf\\xbe")
            .replace('\u{ffff}', "\\xef\\xbf\\xbf");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The production `Char` of XML 1.0 § 2.2.
    fn allowed(character: char) -> bool {
        matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
    }

    #[test]
    fn characters_that_xml_excludes_are_spelled() {
        assert_eq!(xml_text(b"a\0\x1b\n\xff"), "a\\x00\\x1b\\x0a\\xff");
        assert_eq!(
            xml_text("x\u{ffff}\u{fffe}".as_bytes()),
            "x\\xef\\xbf\\xbf\\xef\\xbf\\xbe"
        );
        assert_eq!(xml_text("f<int>(\"日本\")".as_bytes()), "f<int>(\"日本\")");
    }

    proptest! {
        #[test]
        fn any_bytes_become_allowed_characters(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(xml_text(&name).chars().all(allowed));
        }
    }
}
