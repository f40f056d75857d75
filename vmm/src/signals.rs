//! SIGINT, SIGTERM and SIGHUP as events.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread;

use libc::{SIGHUP, SIGINT, SIGTERM, c_int, sigset_t};

/// Signals that ask for the end.
const ENDING: [c_int; 3] = [SIGINT, SIGTERM, SIGHUP];

fn ending_set() -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set it is given; it and sigaddset cannot fail for valid signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in ENDING {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

fn mask(how: c_int, set: &sigset_t) -> io::Result<()> {
    // SAFETY: `set` is a valid set, and a null pointer says that the old mask is not wanted.
    match unsafe { libc::pthread_sigmask(how, set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The next signal of `set`, which is blocked.
fn wait(set: &sigset_t) -> c_int {
    let mut signal = 0;
    // SAFETY: both pointers are to live values of the right types.
    while unsafe { libc::sigwait(set, &raw mut signal) } != 0 {}
    signal
}

/// Calls `first` on a thread of its own at the first signal that asks for the end. The next one ends the process at once, as
/// without this, but for a call of `last`. To be called while the process has one thread only: others inherit the mask.
///
/// # Errors
/// When the host lacks threads.
pub fn on_first(
    first: impl FnOnce(c_int) + Send + 'static,
    last: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let set = ending_set();
    mask(libc::SIG_BLOCK, &set)?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            first(wait(&set));
            let signal = wait(&set);
            last();
            // Unblocked in this thread alone, it takes its default action: it ends the process.
            if let Err(error) = mask(libc::SIG_UNBLOCK, &set) {
                tracing::warn!("A second signal is ignored: {error}");
            }
            // SAFETY: sends a signal to this thread.
            unsafe { libc::raise(signal) };
            loop {
                thread::park();
            }
        })?;
    Ok(())
}
