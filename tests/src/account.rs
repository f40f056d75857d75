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

    /// What the VMM's summary tells of it: `received` and its ends. All there is where no session was asked for.
    ///
    /// # Panics
    /// When the summary has none.
    #[must_use]
    pub fn of_summary(summary: &str) -> Self {
        let (_, account) = summary
            .split_once("Account of samples:\n")
            .unwrap_or_else(|| panic!("no account in {summary:?}"));
        let counter = |line: &str| {
            let (name, value) = line.trim().split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        let counters = account.lines().map_while(counter).collect();
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

    /// This without what full rings of NMIs have lost, where they are the clock: a vCPU whose interrupts are off while it starts its agent,
    /// or that waits for a processor, fills its ring up.
    ///
    /// # Panics
    /// When that is much: a ring that nobody empties loses nearly all.
    #[track_caller]
    #[must_use]
    pub fn without_full_rings(mut self) -> Self {
        let lost = self.of("lost_in_guest");
        assert!(lost <= 20 + self.of("received") / 100, "{self:#?}");
        self.counters.insert("lost_in_guest".to_owned(), 0);
        self
    }

    /// Checks that each sample of the tiny kernel has found its place, save a look now and then at what the guest changes meanwhile.
    ///
    /// # Panics
    /// When samples came to nothing.
    #[track_caller]
    pub fn assert_resolved(&self) {
        let raced = self.of("raced");
        assert_eq!(self.sum(&UNRESOLVED), raced, "{self:#?}");
        assert!(raced <= 1 + self.of("received") / 5_000, "{self:#?}");
    }

    /// Checks that next to all samples of Linux have found their place: all but one in a thousand, as it changes mappings in more ways
    /// than the module is told of.
    ///
    /// # Panics
    /// When more came to nothing.
    #[track_caller]
    pub fn assert_nearly_resolved(&self) {
        let unresolved = self.sum(&UNRESOLVED);
        assert!(is_rare(unresolved, self.of("received")), "{self:#?}");
    }
}

/// At most one in a thousand, and one of fewer: a single one says nothing.
pub(crate) const fn is_rare(count: u64, of: u64) -> bool {
    count <= 1 + of / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "Wall time 6.798 s\n  exits   1335  0.142 per sample\nAccount of samples:\n  \
        received                9369\n  kernel                  4089\n  lost_overflow              3\n  \
        sum                     9369  received = sum of all ends\n  fault none: 3\n";

    #[test]
    fn counters_are_found_in_a_summary() {
        let account = Account::of_summary(SUMMARY);
        let counters = ["received", "kernel", "lost_overflow"].map(|name| account.of(name));
        assert_eq!(counters, [9369, 4089, 3]);
        assert_eq!(account.counters.len(), 3);
    }

    /// An account of samples in files, save those of these ends.
    fn account(received: u64, ends: &[(&str, u64)]) -> Account {
        let mut counters: BTreeMap<String, u64> =
            ENDS.map(|name| (name.to_owned(), 0)).into_iter().collect();
        counters.extend(ends.iter().map(|&(name, count)| (name.to_owned(), count)));
        let rest = received - counters.values().sum::<u64>();
        counters.insert("file".to_owned(), rest);
        counters.insert("received".to_owned(), received);
        Account { counters }
    }

    #[test]
    fn chance_is_allowed_for() {
        account(900, &[("raced", 1)]).assert_resolved();
        account(900, &[("no_mm", 1)]).assert_nearly_resolved();
        let of_rings = account(900, &[("raced", 1), ("lost_in_guest", 29)]).without_full_rings();
        of_rings.assert_resolved();
        of_rings.assert_nearly_resolved();
    }

    #[test]
    #[should_panic(expected = "raced")]
    fn samples_that_are_raced_again_and_again_are_a_fault() {
        account(900, &[("raced", 2)]).assert_resolved();
    }

    #[test]
    #[should_panic(expected = "no_mapping")]
    fn a_sample_of_the_tiny_kernel_without_a_mapping_is_a_fault() {
        account(900, &[("no_mapping", 1)]).assert_resolved();
    }

    #[test]
    #[should_panic(expected = "no_mapping")]
    fn samples_of_linux_without_a_mapping_are_a_fault() {
        account(900, &[("no_mapping", 2)]).assert_nearly_resolved();
    }

    #[test]
    #[should_panic(expected = "lost_in_guest")]
    fn rings_that_are_always_full_are_a_fault() {
        let _ = account(900, &[("lost_in_guest", 30)]).without_full_rings();
    }
}
