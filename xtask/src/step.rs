//! Progress lines on stderr: what is being done, and how long it took.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// One step of work, announced when it begins and timed when it ends.
#[derive(Debug)]
#[must_use = "a step that is dropped says nothing of its end"]
pub struct Step {
    what: String,
    start: Instant,
}

impl Step {
    /// Announces a step: `==> building the tests`.
    pub fn begin(what: impl Display) -> Self {
        let what = what.to_string();
        note(&what);
        Self {
            what,
            start: Instant::now(),
        }
    }

    /// Announces the end of the step with its duration, which it returns.
    pub fn done(self) -> Duration {
        let took = self.start.elapsed();
        note(format_args!(
            "{}: done in {:.1} s",
            self.what,
            took.as_secs_f64()
        ));
        took
    }
}

/// Prints one progress line.
pub fn note(line: impl Display) {
    eprintln!("==> {line}");
}
