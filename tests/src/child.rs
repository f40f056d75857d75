//! Child processes that do not outlive their test.

use std::ops::{Deref, DerefMut};
use std::process::Child;

/// A child process that is killed and reaped when this is dropped, also by a panic: it would take the processor from the tests to come.
#[derive(Debug)]
pub struct OwnedChild(Child);

impl From<Child> for OwnedChild {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Deref for OwnedChild {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for OwnedChild {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        // Of one that has been waited for already, both answer at once.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::panic::{self, AssertUnwindSafe};
    use std::process::Command;

    #[test]
    fn a_child_does_not_outlive_a_test_that_panics() {
        let child = Command::new("sleep")
            .arg("600")
            .spawn()
            .expect("sleep runs");
        let place = format!("/proc/{}", child.id());
        let child = OwnedChild::from(child);
        assert!(fs::exists(&place).expect("looked at"));
        let panicked = panic::catch_unwind(AssertUnwindSafe(move || {
            assert_eq!(child.id(), 0, "on purpose");
        }));
        assert!(panicked.is_err());
        // A zombie would still be there.
        assert!(!fs::exists(&place).expect("looked at"));
    }
}
