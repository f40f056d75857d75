//! The escape-coded event buffer, decoded.
//!
//! A word that is not [`ESCAPE`] is a program counter and is followed by its event number. [`ESCAPE`] is followed by a
//! code and by as many words as that code takes. Those words are read by position: a cookie may well equal [`ESCAPE`].
//! Decoding starts afresh with every read, as the producer's state does.

/// Marks a record; also "no cookie known".
pub const ESCAPE: u64 = u64::MAX;

const CTX_SWITCH: u64 = 1;
const CPU_SWITCH: u64 = 2;
const COOKIE_SWITCH: u64 = 3;
const KERNEL_ENTER: u64 = 4;
const USER_ENTER: u64 = 5;
const MODULE_LOADED: u64 = 6;
const TRACE_BEGIN: u64 = 8;
const XEN_ENTER: u64 = 10;
const IBS_FETCH: u64 = 13;
const IBS_OP: u64 = 14;

/// Words after the offset of an IBS fetch record: linear address, control, physical address, each in two halves.
const IBS_FETCH_VALUES: usize = 6;
/// Words after the offset of an IBS op record: RIP, three data registers, linear and physical address in halves.
const IBS_OP_VALUES: usize = 12;

/// One record of the event buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// What follows was taken on this vCPU.
    CpuSwitch {
        /// vCPU number.
        cpu: u64,
    },
    /// What follows was taken in this task.
    CtxSwitch {
        /// Thread id.
        pid: u64,
        /// Cookie of the program's file, 0 when there is none.
        app_cookie: u64,
        /// Thread group id.
        tgid: u64,
    },
    /// What follows lies in the file of this cookie.
    CookieSwitch {
        /// The cookie; 0 is anonymous memory.
        cookie: u64,
    },
    /// What follows was taken in kernel mode.
    KernelEnter,
    /// What follows was taken in user mode.
    UserEnter,
    /// A module has been loaded: what is known about modules may be old.
    ModuleLoaded,
    /// The next sample is followed by the frames of its call chain.
    TraceBegin,
    /// A sample, or a frame of a call chain.
    Sample {
        /// Address in kernel mode, else the offset in the file.
        pc: u64,
        /// Event number.
        event: u64,
    },
    /// A data record of instruction-based sampling.
    ExtData {
        /// Record code, 13 or 14.
        code: u64,
        /// Offset or address.
        offset: u64,
        /// The values, by position.
        values: &'a [u64],
    },
    /// A code that is not known; everything up to the next [`ESCAPE`] has been skipped.
    Unknown {
        /// The code.
        code: u64,
    },
    /// The buffer ends inside this record. Nothing follows.
    Truncated,
}

/// Iterator over the records of one read of the event buffer.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    words: &'a [u64],
}

/// Decodes the words of one read.
pub fn records(words: &[u64]) -> Records<'_> {
    Records { words }
}

impl<'a> Records<'a> {
    /// Takes the next `N` words, or all that is left and `None`.
    fn take<const N: usize>(&mut self) -> Option<[u64; N]> {
        match self.words.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.words = rest;
                Some(*taken)
            }
            None => {
                self.words = &[];
                None
            }
        }
    }

    fn escaped(&mut self) -> Option<Record<'a>> {
        let [code] = self.take()?;
        Some(match code {
            // The third and fourth word are ESCAPE and CTX_TGID; like OProfile, take them unread.
            CTX_SWITCH => self
                .take()
                .map(|[pid, app_cookie, _, _, tgid]| Record::CtxSwitch {
                    pid,
                    app_cookie,
                    tgid,
                })?,
            CPU_SWITCH => self.take().map(|[cpu]| Record::CpuSwitch { cpu })?,
            COOKIE_SWITCH => self
                .take()
                .map(|[cookie]| Record::CookieSwitch { cookie })?,
            KERNEL_ENTER | XEN_ENTER => Record::KernelEnter,
            USER_ENTER => Record::UserEnter,
            MODULE_LOADED => Record::ModuleLoaded,
            TRACE_BEGIN => Record::TraceBegin,
            IBS_FETCH => self.ext_data(code, IBS_FETCH_VALUES)?,
            IBS_OP => self.ext_data(code, IBS_OP_VALUES)?,
            _ => {
                let next = self
                    .words
                    .iter()
                    .position(|word| *word == ESCAPE)
                    .unwrap_or(self.words.len());
                self.words = &self.words[next..];
                Record::Unknown { code }
            }
        })
    }

    fn ext_data(&mut self, code: u64, count: usize) -> Option<Record<'a>> {
        let [offset] = self.take()?;
        match self.words.split_at_checked(count) {
            Some((values, rest)) => {
                self.words = rest;
                Some(Record::ExtData {
                    code,
                    offset,
                    values,
                })
            }
            None => {
                self.words = &[];
                None
            }
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let [first] = self.take()?;
        let record = if first == ESCAPE {
            self.escaped()
        } else {
            self.take()
                .map(|[event]| Record::Sample { pc: first, event })
        };
        Some(record.unwrap_or(Record::Truncated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ESC: u64 = ESCAPE;

    fn decode(words: &[u64]) -> Vec<Record<'_>> {
        records(words).collect()
    }

    #[test]
    fn each_code_becomes_its_record() {
        let words = [
            ESC, 2, 3, ESC, 8, ESC, 4, ESC, 5, ESC, 1, 10, 20, ESC, 7, 30, ESC, 3, 40, 0x1000, 0,
            ESC, 6, ESC, 10,
        ];
        assert_eq!(
            decode(&words),
            [
                Record::CpuSwitch { cpu: 3 },
                Record::TraceBegin,
                Record::KernelEnter,
                Record::UserEnter,
                Record::CtxSwitch {
                    pid: 10,
                    app_cookie: 20,
                    tgid: 30
                },
                Record::CookieSwitch { cookie: 40 },
                Record::Sample {
                    pc: 0x1000,
                    event: 0
                },
                Record::ModuleLoaded,
                Record::KernelEnter,
            ]
        );
    }

    #[test]
    fn payload_is_positional_even_when_it_equals_the_escape_word() {
        assert_eq!(
            decode(&[ESC, 3, ESC, ESC, 1, 7, ESC, ESC, 7, ESC, 0x10, ESC]),
            [
                Record::CookieSwitch { cookie: ESC },
                Record::CtxSwitch {
                    pid: 7,
                    app_cookie: ESC,
                    tgid: ESC
                },
                Record::Sample {
                    pc: 0x10,
                    event: ESC
                },
            ]
        );
    }

    #[test]
    fn data_records_take_their_fixed_number_of_values() {
        let words: Vec<u64> = [ESC, 13, 0x77]
            .into_iter()
            .chain(1..=6)
            .chain([ESC, 5])
            .collect();
        assert_eq!(
            decode(&words),
            [
                Record::ExtData {
                    code: 13,
                    offset: 0x77,
                    values: &[1, 2, 3, 4, 5, 6]
                },
                Record::UserEnter
            ]
        );
        let op: Vec<u64> = [ESC, 14, 0x78].into_iter().chain(1..=12).collect();
        assert!(
            matches!(decode(&op)[..], [Record::ExtData { code: 14, values, .. }] if values.len() == 12)
        );
    }

    #[test]
    fn unknown_code_is_skipped_up_to_the_next_escape() {
        for code in [0, 7, 9, 11, 12, 15, 1 << 40] {
            assert_eq!(
                decode(&[ESC, code, 1, 2, 3, ESC, 4]),
                [Record::Unknown { code }, Record::KernelEnter]
            );
        }
        assert_eq!(decode(&[ESC, 99, 1, 2]), [Record::Unknown { code: 99 }]);
    }

    #[test]
    fn record_cut_by_the_end_of_the_buffer_is_reported_once() {
        for cut in [
            &[ESC][..],
            &[ESC, 1, 2, 3, 4],
            &[ESC, 2],
            &[ESC, 3],
            &[0x1000],
            &[ESC, 13, 1],
            &[ESC, 14, 1, 2],
        ] {
            assert_eq!(decode(cut), [Record::Truncated], "{cut:?}");
        }
        assert_eq!(
            decode(&[ESC, 4, 0x1000]),
            [Record::KernelEnter, Record::Truncated]
        );
        assert_eq!(decode(&[]), []);
    }

    proptest! {
        #[test]
        fn any_words_are_decoded_to_the_end(words in prop::collection::vec(prop_oneof![Just(ESC), 0u64..20, any::<u64>()], 0..200)) {
            let decoded = decode(&words);
            prop_assert!(decoded.len() <= words.len());
            let cut = decoded.iter().filter(|record| **record == Record::Truncated).count();
            prop_assert!(cut == 0 || cut == 1 && decoded.last() == Some(&Record::Truncated));
        }
    }
}
