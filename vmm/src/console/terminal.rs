//! A terminal in raw mode, which is put back whatever ends the program.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use libc::{c_int, c_void, siginfo_t};
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use vmm_sys_util::signal::register_signal_handler;

/// Signals that end the program at once and can be sent from outside, or by `abort`; the polite ones are events.
const ENDING_AT_ONCE: [c_int; 2] = [libc::SIGQUIT, libc::SIGABRT];

struct Before {
    fd: OwnedFd,
    modes: Termios,
}

/// What the terminal was before it was made raw; null while it is not. Atomic, since a signal handler puts it back.
static BEFORE: AtomicPtr<Before> = AtomicPtr::new(ptr::null_mut());

/// The program ends: nothing is made raw any more.
static ENDS: AtomicBool = AtomicBool::new(false);

/// Whether this process may use the terminal: a shell's job in the background may not. A terminal that is not the controlling
/// one knows no background.
fn is_in_foreground(fd: &OwnedFd) -> bool {
    tcgetpgrp(fd).map_or(true, |group| group == getpgrp())
}

/// Puts the terminal `fd` into raw mode; what is written to it is still processed, for the sake of the VMM's own messages.
/// Returns whether it is raw now: it is not for a job in the background, nor after [`restore_for_good`].
///
/// # Errors
/// When the terminal's modes cannot be changed.
pub fn make_raw(fd: OwnedFd) -> io::Result<bool> {
    if !is_in_foreground(&fd) {
        return Ok(false);
    }
    let modes = tcgetattr(&fd)?;
    let mut raw = modes.clone();
    raw.make_raw();
    raw.output_modes = modes.output_modes;
    for signal in ENDING_AT_ONCE {
        register_signal_handler(signal, on_end).map_err(io::Error::from)?;
    }
    // Never freed: a signal handler may look at it at any time. Made once in a program.
    let before = Box::leak(Box::new(Before { fd, modes }));
    BEFORE.store(before, Ordering::SeqCst);
    tcsetattr(&before.fd, OptionalActions::Now, &raw)?;
    // Whoever set this before or meanwhile may have put back what was not raw yet.
    if ENDS.load(Ordering::SeqCst) {
        tcsetattr(&before.fd, OptionalActions::Now, &before.modes)?;
        return Ok(false);
    }
    Ok(true)
}

/// Puts the terminal back, if it is raw, and keeps it from being made raw again. May be called in a signal handler.
pub fn restore_for_good() {
    ENDS.store(true, Ordering::SeqCst);
    let before = BEFORE.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: null, or from `make_raw`, which leaked it: nobody frees or changes it.
    let Some(before) = (unsafe { before.as_ref() }) else {
        return;
    };
    // As a job in the background we would be stopped, and the shell has long put its own modes back.
    if is_in_foreground(&before.fd) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&before.fd, OptionalActions::Now, &before.modes);
    }
}

/// Calls [`restore_for_good`] when it is dropped, also by a panic.
#[derive(Debug)]
pub struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        restore_for_good();
    }
}

extern "C" fn on_end(signal: c_int, _info: *mut siginfo_t, _context: *mut c_void) {
    restore_for_good();
    // SAFETY: both functions may be called in a handler. The signal is blocked while this runs, and ends the program then.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, OutputModes};

    // One test, since what is raw is known once in a program.
    #[test]
    fn terminal_is_raw_until_the_end_and_never_again() {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let terminal: OwnedFd = std::fs::File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap()
            .into();
        let modes = || tcgetattr(&terminal).unwrap();
        let before = modes();
        assert!(before.local_modes.contains(LocalModes::ISIG));
        assert!(make_raw(terminal.try_clone().unwrap()).unwrap());
        let raw = modes();
        let interpreted = LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO;
        assert!(!raw.local_modes.intersects(interpreted));
        assert!(raw.output_modes.contains(OutputModes::OPOST));
        restore_for_good();
        assert_eq!(modes().local_modes, before.local_modes);
        assert_eq!(modes().input_modes, before.input_modes);
        assert!(!make_raw(terminal.try_clone().unwrap()).unwrap());
        assert_eq!(modes().local_modes, before.local_modes);
    }
}
