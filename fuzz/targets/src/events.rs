//! The event buffer as the session's decoder reads it: any words.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_session::events::{ESCAPE, Record, records};

#[derive(Arbitrary, Debug)]
enum Word {
    Escape,
    Code(u8),
    Raw(u64),
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    let Ok(words) = Vec::<Word>::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let words: Vec<u64> = words
        .iter()
        .map(|word| match *word {
            Word::Escape => ESCAPE,
            Word::Code(code) => u64::from(code % 20),
            Word::Raw(word) => word,
        })
        .collect();
    let mut rest = &words[..];
    let mut ended = false;
    for record in records(&words) {
        assert!(!ended, "something follows a cut record");
        let expected = encode(&record);
        match record {
            Record::Truncated => {
                ended = true;
                rest = &[];
                continue;
            }
            Record::Unknown { .. } => {
                assert!(rest.starts_with(&expected));
                rest = &rest[2..];
                let skipped = rest.iter().position(|&word| word == ESCAPE);
                rest = &rest[skipped.unwrap_or(rest.len())..];
                continue;
            }
            // Code 10 (Xen) is told as kernel mode; two words of a task switch are not looked at.
            Record::KernelEnter | Record::CtxSwitch { .. } => {
                for (index, (word, expected)) in rest.iter().zip(&expected).enumerate() {
                    let ignored = match record {
                        Record::KernelEnter => index == 1 && *word == 10,
                        _ => index == 4 || index == 5,
                    };
                    assert!(ignored || word == expected, "{record:?}");
                }
            }
            _ => assert!(rest.starts_with(&expected), "{record:?}"),
        }
        rest = &rest[expected.len()..];
    }
    assert!(rest.is_empty(), "{} words were not read", rest.len());
}

/// The words of a record.
fn encode(record: &Record<'_>) -> Vec<u64> {
    match *record {
        Record::CpuSwitch { cpu } => vec![ESCAPE, 2, cpu],
        Record::CtxSwitch {
            pid,
            app_cookie,
            tgid,
        } => vec![ESCAPE, 1, pid, app_cookie, ESCAPE, 7, tgid],
        Record::CookieSwitch { cookie } => vec![ESCAPE, 3, cookie],
        Record::KernelEnter => vec![ESCAPE, 4],
        Record::UserEnter => vec![ESCAPE, 5],
        Record::ModuleLoaded => vec![ESCAPE, 6],
        Record::TraceBegin => vec![ESCAPE, 8],
        Record::Sample { pc, event } => vec![pc, event],
        Record::ExtData {
            code,
            offset,
            values,
        } => [&[ESCAPE, code, offset], values].concat(),
        Record::Unknown { code } => vec![ESCAPE, code],
        Record::Truncated => Vec::new(),
    }
}
