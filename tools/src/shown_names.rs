//! Names of symbols as reports show them, the mangled ones remembered: what is inline in a header is in every binary that
//! uses it, and a guest has the same libraries again and again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use crate::demangle::{Demangle, demangle, may_be_mangled};
use crate::names::printable;

/// Names that are remembered; a later one takes the place of another with the same hash.
const SLOTS: usize = 1 << 15;
/// Longest name that is remembered, with what it is shown as; together they take 16 MiB at most.
const LONGEST: usize = 512;

/// A name in a symbol table, and what is shown for it.
type Known = (Box<str>, Box<str>);

/// Shown names, in bounded memory and for all threads of a report.
#[derive(Debug)]
pub(crate) struct ShownNames {
    how: Demangle,
    slots: Box<[Mutex<Option<Known>>]>,
}

impl ShownNames {
    pub(crate) fn new(how: Demangle) -> Self {
        Self {
            how,
            slots: (0..SLOTS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Appends a symbol's name as it is shown. Most names are plain words and only copied.
    pub(crate) fn push(&self, names: &mut String, name: &[u8]) {
        let plain = name.iter().all(|byte| (b' '..=b'~').contains(byte));
        match std::str::from_utf8(name) {
            Ok(name) if plain && (self.how == Demangle::None || !may_be_mangled(name)) => {
                names.push_str(name);
            }
            Ok(name) => self.push_mangled(names, name),
            Err(_) => names.push_str(&printable(name)),
        }
    }

    fn push_mangled(&self, names: &mut String, name: &str) {
        let shown = || printable(demangle(name, self.how).as_bytes());
        // Another thread that looks at the same place is not waited for.
        let slot = self.slots.get(self.place(name));
        let Some(mut slot) = slot.and_then(|slot| slot.try_lock().ok()) else {
            names.push_str(&shown());
            return;
        };
        match &*slot {
            Some((known, shown)) if **known == *name => names.push_str(shown),
            _ => {
                let shown = shown();
                names.push_str(&shown);
                if name.len() + shown.len() <= LONGEST {
                    *slot = Some((name.into(), shown.into_boxed_str()));
                }
            }
        }
    }

    fn place(&self, name: &str) -> usize {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        usize::try_from(hasher.finish() % SLOTS as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(names: &ShownNames, name: &[u8]) -> String {
        let mut text = "before ".to_owned();
        names.push(&mut text, name);
        text.strip_prefix("before ").unwrap().to_owned()
    }

    #[test]
    fn remembered_names_are_those_of_the_demangler() {
        let names = ShownNames::new(Demangle::Normal);
        // Twice as many as are remembered, so that places are taken over.
        for _ in 0..2 {
            for number in 0..2 * SLOTS {
                let text = number.to_string();
                let mangled = format!("_ZN1a{}x{text}Ev", text.len() + 1);
                assert_eq!(push(&names, mangled.as_bytes()), format!("a::x{text}()"));
            }
        }
    }

    #[test]
    fn names_are_shown_safely_whether_or_not_they_are_mangled() {
        for how in [Demangle::None, Demangle::Normal, Demangle::Smart] {
            let names = ShownNames::new(how);
            assert_eq!(push(&names, b"_Py_list_new"), "_Py_list_new");
            assert_eq!(push(&names, b"a\x1b[1m"), "a\\x1b[1m");
            assert_eq!(push(&names, b"a\xff"), "a\\xff");
        }
        let raw = ShownNames::new(Demangle::None);
        assert_eq!(push(&raw, b"_ZN1a1bEv"), "_ZN1a1bEv");
    }

    #[test]
    fn long_names_are_not_remembered() {
        let names = ShownNames::new(Demangle::Normal);
        let mangled = format!("_Z{}{}v", LONGEST, "f".repeat(LONGEST));
        for _ in 0..2 {
            assert_eq!(
                push(&names, mangled.as_bytes()),
                format!("{}()", "f".repeat(LONGEST))
            );
        }
        let known = |slot: &Mutex<Option<Known>>| slot.lock().unwrap().is_some();
        assert!(!names.slots.iter().any(known));
    }
}
