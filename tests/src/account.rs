//! The account of a session, as `account.txt` holds it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where samples end; `received` is their sum.
pub const ENDS: [&str; 12] = [
    "kernel",
    "file",
    "anonymous",
    "no_mm",
    "no_mapping",
    "raced",
    "throttled",
    "ignored",
    "lost_in_guest",
    "invalid_in_guest",
    "lost_overflow",
    "malformed",
];

/// Ends of samples that came to nothing, of a guest that behaves.
pub const UNRESOLVED: [&str; 9] = [
    "no_mm",
    "no_mapping",
    "raced",
    "throttled",
    "ignored",
    "lost_in_guest",
    "invalid_in_guest",
    "lost_overflow",
    "malformed",
];

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub struct Account {
    counters: BTreeMap<String, u64>,
}

impl Account {
    /// Reads the account of the session at `session`.
    ///
    /// # Panics
    /// When there is none or it is not `name value` line by line.
    #[must_use]
    pub fn read(session: &Path) -> Self {
        let path = session.join("account.txt");
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let counters = text
            .lines()
            .map(|line| {
                let (name, value) = line
                    .rsplit_once(' ')
                    .unwrap_or_else(|| panic!("no value in {line:?}"));
                let value = value
                    .parse()
                    .unwrap_or_else(|error| panic!("{line:?}: {error}"));
                (name.trim().to_owned(), value)
            })
            .collect();
        Self { counters }
    }

    /// The counter of that name.
    ///
    /// # Panics
    /// When the account has none, so that a test cannot pass on a misspelt name.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        *self
            .counters
            .get(name)
            .unwrap_or_else(|| panic!("no counter {name:?} in {self:#?}"))
    }

    /// Sum of several counters.
    #[must_use]
    pub fn sum(&self, names: &[&str]) -> u64 {
        names.iter().map(|name| self.of(name)).sum()
    }

    /// Checks that every sample received has ended exactly once.
    ///
    /// # Panics
    /// When the ends do not add up.
    pub fn assert_adds_up(&self) {
        assert_eq!(self.of("received"), self.sum(&ENDS), "{self:#?}");
    }
}
