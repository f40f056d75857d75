//! The account from second to second.

use std::fmt::Write as _;

use oprofile_control::status::Counter;
use oprofile_control::{ClientError, Status};

use crate::looks::Event;

/// Why there is nothing more to say.
#[derive(Debug)]
pub enum End {
    /// The user has had enough.
    Interrupted,
    /// The connection has ended, [`ClientError::Closed`] when the VM has.
    Vm(ClientError),
}

/// Says what came in, at each look.
///
/// # Errors
/// When `say` fails.
pub fn follow<E>(
    events: impl IntoIterator<Item = Event>,
    mut say: impl FnMut(&str) -> Result<(), E>,
) -> Result<End, E> {
    let mut watch = Watch::default();
    for event in events {
        match event {
            Event::Looked(look) => say(watch.lines(&look.status).trim_end_matches('\n'))?,
            Event::Interrupted => break,
            Event::Ended(error) => return Ok(End::Vm(error)),
        }
    }
    Ok(End::Interrupted)
}

/// The account from one look to the next.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    before: Option<Vec<Counter>>,
    lines: usize,
}

/// After so many lines of figures comes another heading.
const LINES: usize = 20;

/// Columns: heading, and the counters that it sums up.
const COLUMNS: [(&str, &[&str]); 6] = [
    ("received", &["received"]),
    ("kernel", &["kernel"]),
    ("file", &["file"]),
    ("anon", &["anonymous"]),
    (
        "unmapped",
        &["no_mm", "no_mapping", "raced", "throttled", "ignored"],
    ),
    (
        "lost",
        &[
            "lost_in_guest",
            "invalid_in_guest",
            "lost_overflow",
            "malformed",
        ],
    ),
];

impl Watch {
    /// A line of what has come in since the last one, with a heading now and then. The first line is since the VM's start.
    pub fn lines(&mut self, status: &Status) -> String {
        let mut text = String::new();
        if self.lines.is_multiple_of(LINES) {
            for (heading, _) in COLUMNS {
                let _ = write!(text, "{heading:>10}");
            }
            let _ = writeln!(text, "{:>12}", "lost words");
        }
        self.lines += 1;
        let of = |account: &[Counter], name: &str| {
            let counter = account.iter().find(|counter| counter.name == name);
            counter.map_or(0, |counter| counter.value)
        };
        let before = self.before.take().unwrap_or_default();
        let since = |name: &&str| of(&status.account, name).wrapping_sub(of(&before, name));
        for (_, names) in COLUMNS {
            let sum = names.iter().map(since).fold(0, u64::wrapping_add);
            let _ = write!(text, "{sum:>10}");
        }
        let _ = writeln!(text, "{:>12}", since(&"lost_words"));
        self.before = Some(status.account.clone());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::status;
    use crate::looks::Look;
    use std::convert::Infallible;
    use std::time::Duration;

    #[test]
    fn watching_shows_what_came_in_between() {
        let mut watch = Watch::default();
        let first = watch.lines(&status(10));
        assert!(first.contains("received") && first.lines().count() == 2);
        let second = watch.lines(&status(25));
        let figures: Vec<&str> = second.split_whitespace().collect();
        assert_eq!(figures, ["15", "15", "0", "0", "0", "0", "0"]);
    }

    fn looked(received: u64) -> Event {
        Event::Looked(Box::new(Look {
            status: status(received),
            at: Duration::ZERO,
        }))
    }

    fn followed(events: impl IntoIterator<Item = Event>) -> (Vec<String>, End) {
        let mut said = Vec::new();
        let end = follow(events, |text| {
            said.push(text.to_owned());
            Ok::<_, Infallible>(())
        });
        (said, end.unwrap())
    }

    #[test]
    fn each_look_is_a_line_until_the_user_has_had_enough() {
        let (said, end) = followed([looked(3), looked(8), Event::Interrupted, looked(9)]);
        assert!(matches!(end, End::Interrupted));
        let received: Vec<_> = said
            .iter()
            .map(|text| {
                let figures = text.lines().last().unwrap();
                figures.split_whitespace().next().unwrap()
            })
            .collect();
        assert_eq!(received, ["3", "5"]);
    }

    #[test]
    fn the_end_of_the_vm_is_the_end() {
        let (said, end) = followed([looked(3), Event::Ended(ClientError::Closed)]);
        assert_eq!(said.len(), 1);
        assert!(matches!(end, End::Vm(ClientError::Closed)));
    }

    #[test]
    fn headings_come_again() {
        let (said, _) = followed((0..=LINES as u64).map(looked));
        let headings = said.iter().filter(|text| text.contains("received"));
        assert_eq!(headings.count(), 2);
    }

    #[test]
    fn nobody_listens_any_more() {
        let events = [looked(1), looked(2)];
        assert_eq!(follow(events, |_| Err("closed")).unwrap_err(), "closed");
    }
}
