//! A VM's status, looked at again and again, on a thread of its own: a VM that does not answer keeps nobody from typing.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use oprofile_control::{Client, ClientError, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// Exit code of a program that a second Ctrl-C ends: what a shell says of one that SIGINT has killed.
const KILLED: i32 = 128 + SIGINT;

/// A status and when it was taken.
#[derive(Clone, Debug)]
pub struct Look {
    /// The status.
    pub status: Status,
    /// Since the first look.
    pub at: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The VM has answered.
    Looked(Box<Look>),
    /// It will not any more.
    Ended(ClientError),
    /// SIGINT or SIGTERM has come.
    Interrupted,
}

/// Events, in the order in which they happened.
#[derive(Debug)]
pub struct Looks {
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Looks {
    /// Looks at `client` now, and again `interval` after each answer.
    ///
    /// # Errors
    /// When there are no threads.
    pub fn start(client: Client, interval: Duration) -> io::Result<Self> {
        let (sender, events) = channel();
        let looked = sender.clone();
        thread::Builder::new()
            .name("looks".to_owned())
            .spawn(move || {
                look(
                    client,
                    |client| wait(client, interval),
                    |event| looked.send(event).is_ok(),
                );
            })?;
        Ok(Self { sender, events })
    }

    /// Has SIGINT and SIGTERM become events. A second one ends the program, for the first may not be looked at: output may wait
    /// for its reader.
    ///
    /// # Errors
    /// When there are no threads or file descriptors.
    pub fn with_interrupts(self) -> io::Result<Self> {
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal sets what the second finds.
            flag::register_conditional_shutdown(signal, KILLED, Arc::clone(&again))?;
            flag::register(signal, Arc::clone(&again))?;
        }
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let sender = self.sender.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                if signals.forever().next().is_some() {
                    // Nobody waits for it: the program ends.
                    let _ = sender.send(Event::Interrupted);
                }
            })?;
        Ok(self)
    }

    /// The next event; `None` when there is none within `limit`.
    pub fn next_within(&self, limit: Duration) -> Option<Event> {
        self.events.recv_timeout(limit).ok()
    }

    /// All events from now on.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.events.iter()
    }
}

/// Looks until the VM or whoever takes the events ends. `wait` passes the time in between.
fn look(mut client: Client, wait: impl Fn(&Client), send: impl Fn(Event) -> bool) {
    let start = Instant::now();
    loop {
        let event = match client.status() {
            Ok(status) => Event::Looked(Box::new(Look {
                status,
                at: start.elapsed(),
            })),
            Err(error) => {
                send(Event::Ended(error));
                return;
            }
        };
        if !send(event) {
            return;
        }
        wait(&client);
    }
}

/// Waits for `interval`, or until the VM closes the connection.
fn wait(client: &Client, interval: Duration) {
    let timeout = Timespec::try_from(interval).ok();
    let mut fds = [PollFd::new(client, PollFlags::IN)];
    // Interrupted, it is looked at the VM somewhat earlier.
    let _ = poll(&mut fds, timeout.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::status;
    use oprofile_control::frame::{FrameBuffer, FrameKind, MAX_REQUEST_BYTES, append};
    use oprofile_control::message::{Answer, Greeting, Outcome, parse_request};
    use serde::Serialize;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    /// The other end of a client's connection.
    struct Vm(UnixStream);

    impl Vm {
        fn new() -> (Client, Self) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut vm = Self(theirs);
            vm.send(&Greeting::new("test"));
            (Client::over(ours).unwrap(), vm)
        }

        fn send(&mut self, message: &impl Serialize) {
            let mut bytes = Vec::new();
            let payload = serde_json::to_vec(message).unwrap();
            append(&mut bytes, FrameKind::Message, &payload).unwrap();
            self.0.write_all(&bytes).unwrap();
        }

        fn answer(&mut self, received: u64) {
            let mut frames = FrameBuffer::new(MAX_REQUEST_BYTES);
            let frame = loop {
                if let Some(frame) = frames.take().unwrap() {
                    break frame;
                }
                let mut piece = [0; 64];
                let count = self.0.read(&mut piece).unwrap();
                assert_ne!(count, 0, "no request");
                frames.extend(&piece[..count]);
            };
            let id = parse_request(&frame.payload).unwrap().id;
            let outcome = Outcome::Ok(serde_json::to_value(status(received)).unwrap());
            self.send(&Answer { id, outcome });
        }
    }

    fn received(event: &Event) -> Option<u64> {
        match event {
            Event::Looked(look) => look.status.counter("received"),
            _ => None,
        }
    }

    #[test]
    fn a_look_follows_when_time_has_passed_and_the_last_one_is_the_end() {
        let (client, mut vm) = Vm::new();
        let (tick, ticks) = channel();
        let (sender, events) = channel();
        let looking = thread::spawn(move || {
            look(
                client,
                // The test's clock.
                |_| ticks.recv().unwrap(),
                |event| sender.send(event).is_ok(),
            );
        });
        for value in [5, 7] {
            vm.answer(value);
            assert_eq!(received(&events.recv().unwrap()), Some(value));
            assert!(events.try_recv().is_err(), "it looks while no time passes");
            tick.send(()).unwrap();
        }
        drop(vm);
        let last = events.recv().unwrap();
        assert!(
            matches!(last, Event::Ended(ClientError::Closed)),
            "{last:?}"
        );
        looking.join().unwrap();
    }

    #[test]
    fn the_end_of_the_vm_is_seen_amid_the_wait() {
        let (client, mut vm) = Vm::new();
        // Longer than any test may take.
        let looks = Looks::start(client, Duration::from_secs(3600)).unwrap();
        vm.answer(1);
        assert_eq!(looks.iter().next().as_ref().and_then(received), Some(1));
        drop(vm);
        let last = looks.iter().next().unwrap();
        assert!(
            matches!(last, Event::Ended(ClientError::Closed)),
            "{last:?}"
        );
    }
}
