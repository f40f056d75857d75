//! The event stream as text, a line for each record.

use std::collections::HashMap;
use std::fmt::Write as _;

use oprofile_control::message::CookieAnswer;
use oprofile_session::events::{Record, records};

use crate::names::printable;

/// Most cookies remembered; the device gives out no more.
const MAX_COOKIES: usize = 65_536;

/// Cookie of memory without a file.
const NO_COOKIE: u64 = 0;
/// Cookie of an address that is not mapped.
const INVALID_COOKIE: u64 = u64::MAX;

/// Names of cookies, each looked up once.
#[derive(Debug)]
pub struct Names<F> {
    look_up: F,
    known: HashMap<u64, String>,
}

impl<F: FnMut(u64) -> Option<CookieAnswer>> Names<F> {
    /// Names that `look_up` tells; `None` when it cannot tell.
    pub fn new(look_up: F) -> Self {
        Self {
            look_up,
            known: HashMap::new(),
        }
    }

    fn of(&mut self, cookie: u64) -> String {
        match cookie {
            NO_COOKIE => return "no file".to_owned(),
            INVALID_COOKIE => return "not mapped".to_owned(),
            _ => {}
        }
        if let Some(known) = self.known.get(&cookie) {
            return known.clone();
        }
        let name = match (self.look_up)(cookie) {
            // Not remembered: it may be told the next time.
            None | Some(CookieAnswer::Unknown) => return "unknown".to_owned(),
            Some(CookieAnswer::File { path, deleted, .. }) => {
                let mark = if deleted { " (deleted)" } else { "" };
                format!("{}{mark}", printable(path.as_bytes()))
            }
            Some(CookieAnswer::Anonymous {
                tgid,
                start,
                end,
                name,
            }) => {
                let last = end.wrapping_sub(1);
                let name = printable(name.as_bytes());
                format!("{name} (tgid:{tgid} range:{start:#x}-{last:#x})")
            }
        };
        if self.known.len() < MAX_COOKIES {
            self.known.insert(cookie, name.clone());
        }
        name
    }
}

/// Appends the records of one read, a line each.
pub fn append<F: FnMut(u64) -> Option<CookieAnswer>>(
    text: &mut String,
    words: &[u64],
    names: &mut Names<F>,
) {
    for record in records(words) {
        // To a string: it does not fail.
        let _ = match record {
            Record::CpuSwitch { cpu } => writeln!(text, "cpu {cpu}"),
            Record::CtxSwitch {
                pid,
                app_cookie,
                tgid,
            } => {
                let name = names.of(app_cookie);
                writeln!(
                    text,
                    "task pid {pid} tgid {tgid} program {app_cookie:#x} {name}"
                )
            }
            Record::CookieSwitch { cookie } => {
                let name = names.of(cookie);
                writeln!(text, "cookie {cookie:#x} {name}")
            }
            Record::KernelEnter => writeln!(text, "kernel"),
            Record::UserEnter => writeln!(text, "user"),
            Record::ModuleLoaded => writeln!(text, "module loaded"),
            Record::TraceBegin => writeln!(text, "trace"),
            Record::Sample { pc, event } => writeln!(text, "sample {pc:#x} event {event}"),
            Record::ExtData {
                code,
                offset,
                values,
            } => {
                let _ = write!(text, "data {code} {offset:#x}");
                for value in values {
                    let _ = write!(text, " {value:#x}");
                }
                writeln!(text)
            }
            Record::Unknown { code } => writeln!(text, "unknown record {code}"),
            Record::Truncated => writeln!(text, "cut off"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESC: u64 = u64::MAX;

    fn text(words: &[u64]) -> String {
        let mut asked = Vec::new();
        let mut names = Names::new(|cookie| {
            assert!(!asked.contains(&cookie), "{cookie} was asked for twice");
            asked.push(cookie);
            Some(match cookie {
                2 => CookieAnswer::file(b"/bin/a\x1b[2J", false),
                3 => CookieAnswer::file(b"/bin/b", true),
                _ => CookieAnswer::Anonymous {
                    tgid: 7,
                    start: 0x1000,
                    end: 0x3000,
                    name: "anon".into(),
                },
            })
        });
        let mut text = String::new();
        append(&mut text, words, &mut names);
        text
    }

    #[test]
    fn each_record_is_a_line() {
        let words = [
            ESC, 2, 1, ESC, 5, ESC, 1, 9, 3, ESC, 7, 8, ESC, 8, ESC, 3, 4, 0x10, 0, ESC, 3, 3, ESC,
            4, ESC, 6, ESC, 13, 1, 2, 3, 4, 5, 6, 7, ESC, 99, ESC, 2,
        ];
        let expected = "\
cpu 1
user
task pid 9 tgid 8 program 0x3 /bin/b (deleted)
trace
cookie 0x4 anon (tgid:7 range:0x1000-0x2fff)
sample 0x10 event 0
cookie 0x3 /bin/b (deleted)
kernel
module loaded
data 13 0x1 0x2 0x3 0x4 0x5 0x6 0x7
unknown record 99
cut off
";
        assert_eq!(text(&words), expected);
    }

    #[test]
    fn names_of_the_guest_are_escaped() {
        let text = text(&[ESC, 3, 2]);
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn cookies_with_a_meaning_of_their_own_are_not_looked_up() {
        let text = text(&[ESC, 3, 0, ESC, 3, ESC]);
        assert!(
            text.contains("no file") && text.contains("not mapped"),
            "{text}"
        );
    }
}
