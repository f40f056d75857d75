//! Codes of the event buffer's records: [`ESCAPE`], a code, and as many words as that code takes.
//!
//! Words that follow no escape are pairs: an address or file offset, and an event number. The words of a record are
//! read by position, for a cookie may equal [`ESCAPE`].

pub use oprofile_wire::sample::ESCAPE;

/// Task switch: pid, cookie of the main program. [`CTX_TGID`] is always next.
pub const CTX_SWITCH: u64 = 1;
/// What follows was sampled on another CPU: its number. Each sync begins with it.
pub const CPU_SWITCH: u64 = 2;
/// What follows lies in another file: its cookie.
pub const COOKIE_SWITCH: u64 = 3;
/// What follows was sampled in kernel mode; no words.
pub const KERNEL_ENTER: u64 = 4;
/// What follows was sampled in user mode; no words.
pub const KERNEL_EXIT: u64 = 5;
/// A kernel module is about to run; no words.
pub const MODULE_LOADED: u64 = 6;
/// Process id of the task in the [`CTX_SWITCH`] before.
pub const CTX_TGID: u64 = 7;
/// A call chain begins: the sample, then its callers; no words.
pub const TRACE_BEGIN: u64 = 8;
/// A data record of the processor's own sampling of instruction fetches: an address, [`IBS_FETCH_VALUES`] words.
pub const IBS_FETCH: u64 = 13;
/// The same of operations: an address, [`IBS_OP_VALUES`] words.
pub const IBS_OP: u64 = 14;

/// Words behind the address of an [`IBS_FETCH`] record.
pub const IBS_FETCH_VALUES: usize = 6;
/// Words behind the address of an [`IBS_OP`] record.
pub const IBS_OP_VALUES: usize = 12;

/// Cookie of memory without a file, and of a program that cannot be told.
pub const NO_COOKIE: u64 = 0;
/// Cookie of an address that is not mapped; the same number as [`ESCAPE`].
pub const INVALID_COOKIE: u64 = u64::MAX;
