//! Locks.

mod mutex;
mod spin;

pub use mutex::Mutex;
pub use spin::SpinLock;
