//! The loop that serves the socket's clients.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use oprofile_control::frame::FrameKind;
use oprofile_control::message::{Answer, Failure, FailureKind, Greeting, Outcome, parse_request};
use oprofile_control::words;
use oprofile_device::EventReader;
use serde_json::json;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::completion::{Completion, Promise};
use super::connection::Connection;
use super::control::{Control, Next};
use super::listener::Listener;

/// Most clients at a time: a few terminals and tools, and far less than a process may have open files. All of them are the
/// VM's user.
pub const MAX_CLIENTS: usize = 32;

/// Connections taken in one turn.
const ACCEPTS: usize = 16;

/// Events taken at once; more are found by the next wait.
const EVENTS: usize = 16;

/// Requests done, or frames of words sent, for one client before it is the others' turn.
const TURN: usize = 16;

/// How often a reader's event buffer is looked at. The buffer's watershed must last so long: at its default of 32,768 words,
/// 800,000 samples a second.
const STREAM_POLL: Duration = Duration::from_millis(20);

/// How long words wait in an event buffer that does not become ready.
const STREAM_PERIOD: Duration = Duration::from_secs(1);

/// How often it is looked whether the guest has stopped its clocks, and for how long.
const QUIESCE_POLL: Duration = Duration::from_millis(2);
const QUIESCE_LIMIT: Duration = Duration::from_millis(500);

/// How long no connection is taken when the host lacks file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long clients may take for the rest when the VM ends.
const END_LIMIT: Duration = Duration::from_secs(1);

const KILL: u64 = 0;
const WAKE: u64 = 1;
const LISTENER: u64 = 2;
/// Token of the first client.
const FIRST_CLIENT: u64 = 3;

/// What a client waits for.
#[derive(Clone, Copy, Debug)]
enum Waiting {
    /// The guest, until then.
    Quiesce(u64, Instant),
    /// The collector.
    Collector,
}

/// Words on their way to the one client that reads them.
#[derive(Debug)]
struct Stream {
    reader: EventReader,
    /// One read, and how much of it has gone out.
    words: Vec<u64>,
    sent: usize,
    read_at: Instant,
}

impl Stream {
    /// Puts the next frame into `output`, which is empty; false when there is nothing to send. Words are taken out of the event
    /// buffer only when the client has taken those before: what a slow one does not take fills that, and is counted there.
    fn pump(&mut self, output: &mut Vec<u8>, all: bool) -> bool {
        if self.sent == self.words.len() {
            self.words.clear();
            self.sent = 0;
            let ready = self.reader.wait(Duration::ZERO);
            if !ready && !all && self.read_at.elapsed() < STREAM_PERIOD {
                return false;
            }
            self.read_at = Instant::now();
            if self.reader.read(&mut self.words) == 0 {
                return false;
            }
        }
        let rest = self.words.get(self.sent..).unwrap_or_default();
        // A frame always fits.
        self.sent += words::append(output, rest).unwrap_or(rest.len());
        true
    }
}

#[derive(Debug)]
struct Client {
    connection: Connection,
    waiting: Option<Waiting>,
    stream: Option<Stream>,
    /// Once everything has gone out.
    closing: bool,
    /// Its turn was over before it had nothing more to do.
    has_more: bool,
    interest: EventSet,
}

#[derive(Debug)]
pub(super) struct Server {
    control: Control,
    listener: Listener,
    epoll: Epoll,
    kill: EventFd,
    wake: Arc<EventFd>,
    completions: (Sender<Completion>, Receiver<Completion>),
    clients: BTreeMap<u64, Client>,
    next: u64,
    /// No connection is taken until then.
    paused: Option<Instant>,
    /// The VM ends: no more requests, and everything by then.
    ending: Option<Instant>,
}

impl Server {
    /// # Errors
    /// When the host lacks file descriptors.
    pub(super) fn new(control: Control, listener: Listener, kill: EventFd) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = EventFd::new(libc::EFD_NONBLOCK)?;
        let watch = |fd, token| {
            let event = EpollEvent::new(EventSet::IN, token);
            epoll.ctl(ControlOperation::Add, fd, event)
        };
        watch(kill.as_raw_fd(), KILL)?;
        watch(wake.as_raw_fd(), WAKE)?;
        watch(listener.socket.as_raw_fd(), LISTENER)?;
        Ok(Self {
            control,
            listener,
            epoll,
            kill,
            wake: Arc::new(wake),
            completions: channel(),
            clients: BTreeMap::new(),
            next: FIRST_CLIENT,
            paused: None,
            ending: None,
        })
    }

    /// Serves until it is killed.
    ///
    /// # Errors
    /// When epoll fails, which it does not.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); EVENTS];
        while !self.is_over() {
            let count = match self.epoll.wait(self.timeout(), &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for event in events.iter().take(count) {
                match event.data() {
                    KILL => self.end(),
                    WAKE => {
                        let _ = self.wake.read();
                    }
                    LISTENER => self.accept(),
                    token => self.receive(token, event.event_set()),
                }
            }
            self.complete();
            self.resume_listening();
            self.advance_all();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.ending.is_some_and(|limit| {
            let idle = |client: &Client| !client.connection.has_output() && !client.has_more;
            self.clients.values().all(idle) || Instant::now() >= limit
        })
    }

    /// Milliseconds until something is to be looked at.
    fn timeout(&self) -> i32 {
        let quiesce = |client: &Client| matches!(client.waiting, Some(Waiting::Quiesce(..)));
        let pumps = |client: &Client| client.stream.is_some() && !client.connection.has_output();
        let pause = if self.clients.values().any(|client| client.has_more) {
            Duration::ZERO
        } else if self.clients.values().any(quiesce) || self.ending.is_some() {
            QUIESCE_POLL
        } else if self.clients.values().any(pumps) {
            STREAM_POLL
        } else if self.paused.is_some() {
            ACCEPT_PAUSE
        } else {
            return -1;
        };
        i32::try_from(pause.as_millis()).unwrap_or(i32::MAX)
    }

    fn end(&mut self) {
        // Level-triggered: not again.
        let _ = self.kill.read();
        self.ending = Some(Instant::now() + END_LIMIT);
        self.stop_listening();
        for client in self.clients.values_mut() {
            client.closing = true;
        }
    }

    fn stop_listening(&self) {
        let event = EpollEvent::default();
        let fd = self.listener.socket.as_raw_fd();
        // It was not watched: as well.
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, event);
    }

    fn resume_listening(&mut self) {
        if self.ending.is_none() && self.paused.is_some_and(|until| Instant::now() >= until) {
            self.paused = None;
            let event = EpollEvent::new(EventSet::IN, LISTENER);
            let fd = self.listener.socket.as_raw_fd();
            if self.epoll.ctl(ControlOperation::Add, fd, event).is_err() {
                self.paused = Some(Instant::now() + ACCEPT_PAUSE);
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let connection = match self.listener.socket.accept() {
                Ok((stream, _)) => Connection::new(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => Err(error),
            };
            let mut connection = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!("The control socket takes no client for a second: {error}");
                    self.stop_listening();
                    self.paused = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            };
            if self.clients.len() >= MAX_CLIENTS {
                let message = format!(
                    "{MAX_CLIENTS} clients are connected to this VM; end one of them first"
                );
                let failure = Failure::new(FailureKind::TooManyClients, message);
                connection.send(&Answer {
                    id: 0,
                    outcome: Outcome::Error(failure),
                });
                // It fits an empty socket; a client that is gone needs it not.
                let _ = connection.flush();
                continue;
            }
            connection.send(&Greeting::new(concat!(
                "oprofile-vmm ",
                env!("CARGO_PKG_VERSION")
            )));
            let event = EpollEvent::new(EventSet::empty(), self.next);
            let fd = connection.stream().as_raw_fd();
            if self.epoll.ctl(ControlOperation::Add, fd, event).is_err() {
                continue;
            }
            self.clients.insert(
                self.next,
                Client {
                    connection,
                    waiting: None,
                    stream: None,
                    closing: false,
                    has_more: false,
                    interest: EventSet::empty(),
                },
            );
            self.next += 1;
        }
    }

    /// Something happened to a client's connection.
    fn receive(&mut self, token: u64, events: EventSet) {
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        let mut broken = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if events.contains(EventSet::IN) {
            broken |= client.connection.fill().is_err();
        }
        if broken {
            // What it asked for in a whole frame before it went is done.
            self.advance(token);
            self.remove(token);
        }
    }

    fn remove(&mut self, token: u64) {
        let Some(client) = self.clients.remove(&token) else {
            return;
        };
        if let Some(stream) = client.stream {
            // Read no more, so that the event buffer can be opened again.
            drop(stream.reader);
            self.control.close();
        }
    }

    fn complete(&mut self) {
        while let Ok(completion) = self.completions.1.try_recv() {
            let outcome = self.control.complete(completion.after, completion.result);
            if let Some(client) = self.clients.get_mut(&completion.client) {
                client.waiting = None;
                client.connection.answer(completion.id, outcome);
            }
        }
    }

    fn advance_all(&mut self) {
        let tokens: Vec<u64> = self.clients.keys().copied().collect();
        for token in tokens {
            if !self.advance(token) {
                self.remove(token);
            }
        }
    }

    /// Does for a client what can be done without waiting; false when there is nothing more to do for it.
    fn advance(&mut self, token: u64) -> bool {
        let clients = self.clients.len();
        let ending = self.ending.is_some();
        let Some(mut client) = self.clients.get_mut(&token) else {
            return false;
        };
        if let Some(Waiting::Quiesce(id, limit)) = client.waiting {
            let quiesced = self.control.device().quiesced();
            if quiesced || ending || Instant::now() >= limit {
                client.waiting = None;
                client
                    .connection
                    .answer(id, Ok(json!({"quiesced": quiesced})));
            }
        }
        client.has_more = false;
        let mut done = 0;
        loop {
            if client.connection.flush().is_err() {
                return false;
            }
            if client.connection.has_output() {
                break;
            }
            if done == TURN {
                client.has_more = true;
                break;
            }
            done += 1;
            if client.waiting.is_none() && !client.closing {
                match client.connection.frame() {
                    Ok(Some(frame)) if frame.kind == FrameKind::Message => {
                        self.handle(token, &frame.payload, clients);
                        let Some(same) = self.clients.get_mut(&token) else {
                            return false;
                        };
                        client = same;
                        continue;
                    }
                    Ok(Some(_)) => {
                        let message = "Clients send no words";
                        let failure = Failure::new(FailureKind::BadRequest, message);
                        client.connection.answer(0, Err(failure));
                        client.closing = true;
                        continue;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        client.connection.answer_to_garbage(error);
                        client.closing = true;
                        continue;
                    }
                }
            }
            let sends = client
                .stream
                .as_mut()
                .is_some_and(|stream| stream.pump(client.connection.output(), ending));
            if !sends {
                break;
            }
        }
        let idle = !client.connection.has_output() && client.waiting.is_none() && !client.has_more;
        let over = client.closing || (client.connection.ended() && client.stream.is_none());
        if idle && over {
            return false;
        }
        self.watch(token)
    }

    /// Watches what the client's connection is wanted for now; false when it cannot be watched.
    fn watch(&mut self, token: u64) -> bool {
        let Some(client) = self.clients.get_mut(&token) else {
            return false;
        };
        let mut interest = EventSet::empty();
        if client.connection.has_output() {
            interest |= EventSet::OUT;
        } else if client.waiting.is_none() && !client.connection.ended() && !client.closing {
            interest |= EventSet::IN;
        }
        if interest == client.interest {
            return true;
        }
        client.interest = interest;
        let fd = client.connection.stream().as_raw_fd();
        let event = EpollEvent::new(interest, token);
        self.epoll.ctl(ControlOperation::Modify, fd, event).is_ok()
    }

    fn handle(&mut self, token: u64, payload: &[u8], clients: usize) {
        let begun = parse_request(payload)
            .map(|request| (request.id, self.control.begin(request.command, clients)));
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        match begun {
            Err(answer) => client.connection.send(&answer),
            Ok((id, Err(failure))) => client.connection.answer(id, Err(failure)),
            Ok((id, Ok(Next::Answer(value)))) => client.connection.answer(id, Ok(value)),
            Ok((id, Ok(Next::Quiesce))) => {
                client.waiting = Some(Waiting::Quiesce(id, Instant::now() + QUIESCE_LIMIT));
            }
            Ok((id, Ok(Next::Read(reader)))) => {
                client.connection.answer(id, Ok(json!({})));
                client.stream = Some(Stream {
                    reader,
                    words: Vec::new(),
                    sent: 0,
                    read_at: Instant::now(),
                });
            }
            Ok((id, Ok(Next::Order(order, after)))) => {
                client.waiting = Some(Waiting::Collector);
                let (sender, wake) = (self.completions.0.clone(), Arc::clone(&self.wake));
                let promise = Promise::new((token, id), after, sender, wake);
                self.control.send(order, |result| promise.keep(result));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use oprofile_control::frame::{FrameBuffer, MAX_ANSWER_BYTES, append};
    use oprofile_device::test_utils::{Driver, SyntheticGuest};

    /// Frames that have come so far.
    fn received(stream: &mut UnixStream) -> usize {
        let mut frames = FrameBuffer::new(MAX_ANSWER_BYTES);
        let mut piece = [0; 65536];
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            frames.extend(&piece[..count]);
        }
        std::iter::from_fn(|| frames.take().unwrap()).count()
    }

    #[test]
    fn a_client_with_many_requests_lets_others_have_their_turn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let driver = Driver::new(SyntheticGuest::default(), 1);
        let control = Control::new(Arc::clone(&driver.device), 63);
        let kill = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let mut server = Server::new(control, Listener::bind(&path).unwrap(), kill).unwrap();
        let mut requests = Vec::new();
        for _ in 0..2 * TURN {
            append(&mut requests, FrameKind::Message, br#"{"do":"list"}"#).unwrap();
        }
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&requests).unwrap();
        // It has left, but for what it asked for.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.set_nonblocking(true).unwrap();
        server.accept();
        // The greeting.
        assert!(server.advance(FIRST_CLIENT));
        assert_eq!(received(&mut stream), 1);
        server.receive(FIRST_CLIENT, EventSet::IN);
        server.receive(FIRST_CLIENT, EventSet::IN);
        for _ in 0..2 {
            assert!(server.advance(FIRST_CLIENT));
            assert_eq!(received(&mut stream), TURN);
        }
        // There is nothing left.
        assert!(!server.advance(FIRST_CLIENT));
    }
}
