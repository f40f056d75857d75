//! What is typed arrives in the guest, and a terminal is put back whatever ends the VM.

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use support::{Ended, Guest};

/// How long the lab may take for a guest of some instructions.
const PATIENCE: Duration = Duration::from_secs(40);

/// Enables the receive interrupt, then writes each byte that it reads; powers off after a 'q'.
fn echo() -> Guest {
    Guest::new(assemble!(
        "mov $0x3f9, %dx",
        "mov $1, %al",
        "out %al, %dx",
        "30: mov $0x3fd, %dx",
        "in %dx, %al",
        "test $1, %al",
        "jz 30b",
        "mov $0x3f8, %dx",
        "in %dx, %al",
        "out %al, %dx",
        "cmp $0x71, %al",
        "jne 30b",
        "mov $0x604, %dx",
        "mov $0x2000, %ax",
        "out %ax, %dx",
        "31: jmp 31b",
    ))
}

/// A VM whose input is a terminal.
struct AtTerminal {
    keyboard: OwnedFd,
    terminal: OwnedFd,
    child: Child,
    _guest: Guest,
}

impl AtTerminal {
    /// Starts it and waits until the terminal is the guest's.
    fn start() -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let terminal = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let guest = echo();
        let child = guest
            .command()
            .stdin(terminal.try_clone().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Self {
            keyboard,
            terminal: terminal.into(),
            child,
            _guest: guest,
        };
        let deadline = Instant::now() + PATIENCE;
        while !started.is_raw() {
            assert!(Instant::now() < deadline, "the terminal is not raw");
            std::thread::yield_now();
        }
        started
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        !modes.intersects(LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO)
    }

    fn type_keys(&self, keys: &[u8]) {
        assert_eq!(rustix::io::write(&self.keyboard, keys), Ok(keys.len()));
    }

    fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).unwrap();
        // SAFETY: sends a signal to our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    /// Waits for the end, and checks that the terminal is as it was.
    fn ended(self) -> Ended {
        let (terminal, keyboard) = (self.terminal, self.keyboard);
        let ended: Ended = self.child.wait_with_output().unwrap().into();
        let modes = tcgetattr(&terminal).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO));
        drop(keyboard);
        ended
    }
}

#[test]
fn guest_reads_all_of_a_pipe_that_was_full_before_it_listened() {
    let guest = echo();
    let mut child = guest
        .command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // More than the port holds; Ctrl-A x means nothing in a pipe.
    let text: Vec<u8> = (0..1000).map(|index| b'a' + (index % 16) as u8).collect();
    let text = [&text[..], b"\x01x\x03q"].concat();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&text).unwrap();
    drop(stdin);
    let run: Ended = child.wait_with_output().unwrap().into();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.serial, text);
}

#[test]
fn keys_are_the_guests_until_ctrl_a_x() {
    let vm = AtTerminal::start();
    vm.type_keys(b"k\x03\x1a\x01a\x01x");
    let run = vm.ended();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("Ctrl-A x"), "{run:?}");
    // Ctrl-A x may be obeyed before the guest has read everything.
    assert!(b"k\x03\x1a\x01".starts_with(&run.serial), "{run:?}");
}

#[test]
fn terminal_is_put_back_when_the_guest_powers_off() {
    let vm = AtTerminal::start();
    vm.type_keys(b"k\x03q");
    let run = vm.ended();
    assert_eq!(
        (run.code, &run.serial[..]),
        (Some(0), &b"k\x03q"[..]),
        "{run:?}"
    );
}

#[test]
fn terminal_is_put_back_after_a_signal() {
    for (signal, code) in [
        (libc::SIGTERM, Some(0)),
        (libc::SIGQUIT, None),
        (libc::SIGABRT, None),
    ] {
        let vm = AtTerminal::start();
        vm.signal(signal);
        let run = vm.ended();
        assert_eq!(run.code, code, "{run:?}");
    }
}

#[test]
fn terminal_is_put_back_after_two_signals() {
    let vm = AtTerminal::start();
    // Both arrive at once; whether the second is in time to end the program is a matter of luck.
    vm.signal(libc::SIGSTOP);
    vm.signal(libc::SIGINT);
    vm.signal(libc::SIGTERM);
    vm.signal(libc::SIGCONT);
    let run = vm.ended();
    assert!(run.code.is_none_or(|code| code == 0), "{run:?}");
}
