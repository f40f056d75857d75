//! Shell patterns: `*`, `?` and `[…]`. A `/` is a character like any other, as in OProfile's specifications.

/// Whether the whole of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // The classic walk with one point to come back to: time is at most pattern × text.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(width) = match_one(&pattern[p..], text[t]) {
            p += width;
            t += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            p = after + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Bytes of the pattern that match `byte`, `None` when they do not.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', rest @ ..] => match class(rest) {
            Some((class, width)) => class_holds(class, byte).then_some(width + 1),
            None => (byte == b'[').then_some(1),
        },
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// The inside of `[…]` and the bytes up to and including `]`. A `]` at the beginning is a member.
fn class(rest: &[u8]) -> Option<(&[u8], usize)> {
    let negation = usize::from(matches!(rest.first(), Some(b'!' | b'^')));
    let end = rest
        .iter()
        .skip(negation + 1)
        .position(|byte| *byte == b']')?
        + negation
        + 1;
    Some((&rest[..end], end + 1))
}

fn class_holds(class: &[u8], byte: u8) -> bool {
    let (negated, mut members) = match class {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut holds = false;
    while let Some(first) = members.first() {
        if let [low, b'-', high, ..] = members {
            holds |= (*low..=*high).contains(&byte);
            members = &members[3..];
        } else {
            holds |= *first == byte;
            members = &members[1..];
        }
    }
    holds != negated
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text) in [
            ("*calc", "/srv/bin/calc"),
            ("*", ""),
            ("a?c", "abc"),
            ("[a-c]x[!0-9]", "bxy"),
            ("[]]", "]"),
            ("\\*", "*"),
            ("[", "["),
            ("a*b*c", "a__b_b_c"),
        ] {
            assert!(
                matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        for (pattern, text) in [
            ("calc", "/srv/bin/calc"),
            ("a?c", "ac"),
            ("[!a]", "a"),
            ("a*b", "a_c"),
            ("", "x"),
        ] {
            assert!(
                !matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_pattern_ends(pattern in "[*?\\[\\]!a\\\\-]{0,20}", text in "[a-]{0,40}") {
            let _ = matches(pattern.as_bytes(), text.as_bytes());
        }

        #[test]
        fn text_without_special_characters_matches_itself(text in "[a-z/._]{0,20}") {
            prop_assert!(matches(text.as_bytes(), text.as_bytes()));
        }
    }
}
