//! Getting a vCPU thread out of `KVM_RUN`.
//!
//! The kicker states its wish in a flag that the thread looks at before each entry, then sends a signal. Its handler runs on
//! the vCPU's thread and sets `immediate_exit`, so a signal that arrives between that look and the entry is not lost.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// This thread's `kvm_run.immediate_exit`, or null. Needs no lazy initialisation and no destructor, so a signal
    /// handler may look at it at any time.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The kick signal. A real-time one: others have a meaning to some library or shell.
pub fn kick_signal() -> c_int {
    SIGRTMIN()
}

extern "C" fn on_kick(_signal: c_int, _info: *mut siginfo_t, _context: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `Kickable` points this at a live, aligned byte that nobody accesses but through atomics and KVM, and
        // takes it back on this thread before the byte goes away; this handler runs on that thread.
        unsafe { AtomicU8::from_ptr(flag) }.store(1, Ordering::Relaxed);
    }
}

/// Installs the handler of the kick signal, for the whole process.
///
/// # Errors
/// When the kernel refuses.
pub fn install_kick_handler() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(kick_signal(), on_kick)
}

/// While this lives, a kick of this thread sets the byte it was made with.
#[derive(Debug)]
pub struct Kickable {
    flag: *mut u8,
}

impl Kickable {
    /// Lets kicks of the current thread set `*flag`.
    ///
    /// # Safety
    /// `flag` must stay valid until the value is dropped, which must happen on this thread (the type is not `Send`), and
    /// be accessed by nothing but atomics and KVM meanwhile.
    pub unsafe fn new(flag: *mut u8) -> Self {
        IMMEDIATE_EXIT.set(flag);
        Self { flag }
    }

    /// Takes a kick back, before the next look at the wish.
    pub fn clear(&self) {
        // SAFETY: by the contract of `new` the byte is valid, and accessed by atomics and KVM only.
        unsafe { AtomicU8::from_ptr(self.flag) }.store(0, Ordering::Relaxed);
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kick_self() {
        // SAFETY: raises a signal that has a handler.
        assert_eq!(unsafe { libc::raise(kick_signal()) }, 0);
    }

    #[test]
    fn a_kick_sets_this_threads_flag_while_there_is_one() {
        install_kick_handler().unwrap();
        let mut byte = 0_u8;
        let flag = &raw mut byte;
        // SAFETY: `byte` outlives `kickable` and is not used otherwise meanwhile.
        let kickable = unsafe { Kickable::new(flag) };
        kick_self();
        // SAFETY: `byte` is live, and accessed through atomics only while `kickable` is.
        let kicked = unsafe { AtomicU8::from_ptr(flag) }.load(Ordering::Relaxed);
        assert_eq!(kicked, 1);
        kickable.clear();
        drop(kickable);
        kick_self();
        assert_eq!(byte, 0);
    }
}
