//! Compares what the host made of each sample with what the guest's kernel knew of it when it was taken.
//!
//! The Linux module's test parameter `truth` puts a data record behind each user sample: the address once more, and inode, offset
//! and mapping as the kernel saw them. The device resolves the record's address as it did the sample's, so `opread` prints
//!
//! ```text
//! cookie 0x5 /usr/bin/program
//! sample 0x1180 event 0
//! data 13 0x1180 INODE OFFSET DEVICE START END TGID
//! ```

use std::collections::HashMap;

use crate::account::is_rare;

/// What came of the comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Samples with a record of the truth.
    pub compared: u64,
    /// Of them, those in mapped files.
    pub in_files: u64,
    /// The host found no task, address space or mapping.
    pub unresolved: u64,
    /// Of those, at most so many met a guest that was changing what the host had to read, as long as the host looked: a vCPU that the
    /// host itself keeps from running in the middle of a change.
    pub raced: u64,
    /// The host names another file than the guest; some of them.
    pub wrong_file: Vec<String>,
    /// It names the file, and another offset; some of them.
    pub wrong_offset: Vec<String>,
    /// How many are wrong.
    pub wrong: u64,
    /// Files whose path the guest had told, and the host named.
    pub known_files: usize,
}

impl Verdict {
    /// Checks that no sample lies in a wrong place, and next to none in no place for another reason than that nobody could tell.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn assert_right(&self) {
        assert_eq!(self.wrong, 0, "{self:#?}");
        let late = self.unresolved.saturating_sub(self.raced);
        assert!(is_rare(late, self.compared), "{self:#?}");
        assert!(self.raced * RACED <= self.compared, "{self:#?}");
    }

    /// Checks that next to none lies in no place, for whatever reason.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn assert_resolved(&self) {
        assert!(is_rare(self.unresolved, self.compared), "{self:#?}");
    }
}

/// Most samples that may meet a change: one in so many.
const RACED: u64 = 50;

/// Most wrong samples that are described.
const MAX_SHOWN: usize = 20;

/// What the guest knew of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Truth {
    inode: u64,
    offset: u64,
    device: u64,
}

fn number(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// The paths that the guest told on its console: `truth DEVICE INODE PATH`; by device and inode.
fn told_paths(console: &str) -> HashMap<(u64, u64), String> {
    console
        .lines()
        .filter_map(|line| {
            let mut words = line.trim().strip_prefix("truth ")?.splitn(3, ' ');
            let mut number = || words.next()?.parse().ok();
            let key = (number()?, number()?);
            Some((key, words.next()?.to_owned()))
        })
        .collect()
}

/// Judges the text that `opread` printed.
#[must_use]
pub fn judge(events: &str, console: &str) -> Verdict {
    let told = told_paths(console);
    let mut verdict = Verdict::default();
    let mut paths: HashMap<(u64, u64), String> = HashMap::new();
    let mut known = std::collections::HashSet::new();
    // Name and whether it is a file; the last sample's offset.
    let (mut name, mut sample) = ("", None);
    for line in events.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next()) {
            (Some("cookie"), Some(cookie)) => {
                name = line["cookie ".len() + cookie.len()..].trim_start();
            }
            (Some("sample"), Some(offset)) => sample = number(offset),
            (Some("data"), Some("13")) => {
                let values: Option<Vec<u64>> = words.map(number).collect();
                let Some([found, inode, offset, device, ..]) = values.as_deref() else {
                    continue;
                };
                let truth = Truth {
                    inode: *inode,
                    offset: *offset,
                    device: *device,
                };
                verdict.compared += 1;
                // A sample that came to nothing is not in the stream.
                if name == "not mapped" || sample.take() != Some(*found) {
                    verdict.unresolved += 1;
                    continue;
                }
                let path = name.strip_suffix(" (deleted)").unwrap_or(name);
                let is_file = !name.contains("(tgid:") && name != "no file";
                verdict.in_files += u64::from(truth.inode != 0);
                let right_file = match truth.inode {
                    0 => !is_file,
                    inode => {
                        let key = (truth.device, inode);
                        if told.contains_key(&key) {
                            known.insert(key);
                        }
                        // The first name stands for the file, unless the guest told it.
                        let expected = told
                            .get(&key)
                            .unwrap_or_else(|| paths.entry(key).or_insert_with(|| path.to_owned()));
                        is_file && expected == path
                    }
                };
                let right_offset = *found == truth.offset;
                if right_file && right_offset {
                    continue;
                }
                verdict.wrong += 1;
                let list = match right_file {
                    false => &mut verdict.wrong_file,
                    true => &mut verdict.wrong_offset,
                };
                if list.len() < MAX_SHOWN {
                    list.push(format!("{name}: {line}, but {truth:x?}"));
                }
            }
            _ => {}
        }
    }
    verdict.known_files = known.len();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "noise\ntruth 1 7 /bin/a\ntruth 1 8 /lib/b\n";

    fn of(events: &str) -> Verdict {
        judge(events, CONSOLE)
    }

    #[test]
    fn what_both_say_is_right() {
        let verdict = of(
            "cookie 0x2 /bin/a\nsample 0x10 event 0\ndata 13 0x10 0x7 0x10 0x1 0x0 0x0 0x9\n\
             cookie 0x3 /lib/b (deleted)\nsample 0x20 event 0\ndata 13 0x20 0x8 0x20 0x1 0x0 0x0 0x9\n\
             cookie 0x4 anon (tgid:9 range:0x1000-0x1fff)\nsample 0x1010 event 0\ndata 13 0x1010 0x0 0x1010 0x0 0x0 0x0 0x9\n",
        );
        assert_eq!((verdict.compared, verdict.in_files), (3, 2));
        assert_eq!((verdict.wrong, verdict.unresolved), (0, 0), "{verdict:?}");
        assert_eq!(verdict.known_files, 2);
    }

    #[test]
    fn another_file_offset_or_none_is_told_apart() {
        let verdict = of(
            "cookie 0x2 /bin/a\nsample 0x10 event 0\ndata 13 0x10 0x8 0x10 0x1 0x0 0x0 0x9\n\
             sample 0x10 event 0\ndata 13 0x10 0x7 0x14 0x1 0x0 0x0 0x9\n\
             cookie 0xffffffffffffffff not mapped\nsample 0x10 event 0\ndata 13 0x10 0x7 0x14 0x1 0x0 0x0 0x9\n",
        );
        assert_eq!((verdict.wrong, verdict.unresolved), (2, 1), "{verdict:?}");
        assert_eq!(verdict.wrong_file.len(), 1);
        assert_eq!(verdict.wrong_offset.len(), 1);
    }

    #[test]
    fn sample_that_is_not_in_the_stream_is_unresolved() {
        // Without a task, the record has its address as it was, and the file is that of the sample before.
        let verdict = of(
            "cookie 0x2 /bin/a\nsample 0x10 event 0\ndata 13 0x10 0x7 0x10 0x1 0x0 0x0 0x9\n\
             data 13 0x401020 0x8 0x20 0x1 0x401000 0x402000 0x9\n",
        );
        assert_eq!(
            (verdict.compared, verdict.unresolved, verdict.wrong),
            (2, 1, 0)
        );
    }

    #[test]
    fn the_same_inode_of_another_device_is_another_file() {
        let verdict =
            of("cookie 0x2 /tmp/x\nsample 0x10 event 0\ndata 13 0x10 0x7 0x10 0x2 0x0 0x0 0x9\n");
        assert_eq!((verdict.wrong, verdict.known_files), (0, 0), "{verdict:?}");
    }

    #[test]
    fn file_that_the_guest_did_not_name_keeps_its_first_name() {
        let verdict = of(
            "cookie 0x2 /tmp/x\nsample 0x10 event 0\ndata 13 0x10 0x63 0x10 0x1 0x0 0x0 0x9\n\
             cookie 0x3 /tmp/y\nsample 0x10 event 0\ndata 13 0x10 0x63 0x10 0x1 0x0 0x0 0x9\n",
        );
        assert_eq!(verdict.wrong, 1);
    }
}
