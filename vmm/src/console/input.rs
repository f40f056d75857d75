//! The thread that carries input to the serial port.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;

use rustix::termios::isatty;
use vmm_sys_util::eventfd::EventFd;

use super::escape::{Key, Keys};
use super::terminal;
use crate::devices::serial::SerialPort;

/// Bytes that are read at once.
const CHUNK: usize = 256;

/// Keys that wait for a guest that does not read them. A terminal is read all the same, since Ctrl-A may come; what comes
/// beyond this is dropped, as on a keyboard. Pipes and files wait instead.
const KEYS_THAT_WAIT: usize = 4096;

/// What takes input.
pub trait Port: Send + Sync {
    /// Whether the guest listens.
    fn is_listening(&self) -> bool;
    /// Takes as much as fits now; returns how many bytes that is.
    fn receive(&self, input: &[u8]) -> usize;
}

impl<W: Write + Send> Port for SerialPort<W> {
    fn is_listening(&self) -> bool {
        Self::is_listening(self)
    }

    fn receive(&self, input: &[u8]) -> usize {
        Self::receive(self, input)
    }
}

/// Input on its way to a port. Dropping it stops the flow.
#[derive(Debug)]
pub struct Input {
    kill: EventFd,
}

impl Input {
    /// Carries what comes from `source` to `port`, which writes to `room` when it may take more. If the source is a terminal,
    /// Ctrl-A x calls `end`.
    ///
    /// # Errors
    /// When the host lacks file descriptors or threads.
    pub fn start(
        source: BorrowedFd<'_>,
        port: Arc<dyn Port>,
        room: EventFd,
        end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let source = source.try_clone_to_owned()?;
        let kill = EventFd::new(libc::EFD_NONBLOCK)?;
        let carrier = Carrier {
            mode: match isatty(&source) {
                true => Mode::Terminal,
                false => Mode::Stream,
            },
            source,
            port,
            room,
            kill: kill.try_clone()?,
            waiting: VecDeque::new(),
            keys: Keys::default(),
        };
        // Not joined: a read may wait for a byte that another process has taken from under it.
        thread::Builder::new()
            .name("console".into())
            .spawn(move || match carrier.carry() {
                Ok(Carried::All) => {}
                Ok(Carried::EndIsWanted) => end(),
                Err(error) => tracing::warn!("The guest gets no more input: {error}"),
            })?;
        Ok(Self { kill })
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // Fails only when the counter is full, which kills just as well.
        let _ = self.kill.write(1);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A pipe or file.
    Stream,
    /// A terminal that is the host's still.
    Terminal,
    /// A terminal that is the guest's.
    Raw,
}

enum Carried {
    /// There is no more, or nobody to take it.
    All,
    /// Ctrl-A x was typed.
    EndIsWanted,
}

struct Carrier {
    source: OwnedFd,
    mode: Mode,
    port: Arc<dyn Port>,
    room: EventFd,
    kill: EventFd,
    waiting: VecDeque<u8>,
    keys: Keys,
}

impl Carrier {
    fn carry(mut self) -> io::Result<Carried> {
        let mut has_ended = false;
        loop {
            // Cleared first, so that room that comes meanwhile is another event.
            let _ = self.room.read();
            let taken = self.port.receive(self.waiting.make_contiguous());
            self.waiting.drain(..taken);
            if has_ended && self.waiting.is_empty() {
                return Ok(Carried::All);
            }
            let is_listening = self.port.is_listening();
            if is_listening && self.mode == Mode::Terminal && !self.take_terminal()? {
                return Ok(Carried::All);
            }
            let wanted = match self.mode {
                Mode::Stream => is_listening && self.waiting.is_empty(),
                Mode::Terminal => false,
                Mode::Raw => true,
            };
            let source = (wanted && !has_ended).then(|| self.source.as_raw_fd());
            let fds = [
                Some(self.kill.as_raw_fd()),
                Some(self.room.as_raw_fd()),
                source,
            ];
            let [kill, _, source] = readable(fds)?;
            if kill {
                return Ok(Carried::All);
            }
            if source {
                let mut bytes = [0; CHUNK];
                let count = match rustix::io::read(self.source.as_fd(), &mut bytes) {
                    Ok(count) => count,
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                    Err(error) => return Err(error.into()),
                };
                has_ended = count == 0;
                if self.keep(&bytes[..count]) {
                    return Ok(Carried::EndIsWanted);
                }
            }
        }
    }

    /// Makes the terminal the guest's; returns whether there is one to go on with.
    fn take_terminal(&mut self) -> io::Result<bool> {
        // Before the first read: a job that is put into the background then gets an error instead of being stopped.
        block_background_reads()?;
        if !terminal::make_raw(self.source.try_clone()?)? {
            tracing::info!("Runs in the background, so the guest gets no input");
            return Ok(false);
        }
        self.mode = Mode::Raw;
        // The guest's output may stand in the middle of a line.
        eprint!("\r\n[The terminal is the guest's: Ctrl-A x ends the VM, Ctrl-A a is Ctrl-A]\r\n");
        Ok(true)
    }

    /// Keeps what was read for the guest; returns whether the end of the VM is wanted.
    fn keep(&mut self, bytes: &[u8]) -> bool {
        if self.mode == Mode::Stream {
            self.waiting.extend(bytes);
            return false;
        }
        for byte in bytes {
            match self.keys.take(*byte) {
                Key::Guest(byte) if self.waiting.len() < KEYS_THAT_WAIT => {
                    self.waiting.push_back(byte);
                }
                Key::Guest(_) | Key::Nothing => {}
                Key::End => return true,
            }
        }
        false
    }
}

/// Waits until one of the descriptors can be read or has come to its end; tells which.
fn readable<const N: usize>(fds: [Option<RawFd>; N]) -> io::Result<[bool; N]> {
    // poll(2) ignores negative descriptors.
    let mut polled = fds.map(|fd| libc::pollfd {
        fd: fd.unwrap_or(-1),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: the pointer is to so many initialised elements, which nobody else uses.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) };
    match result {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
            error => Err(error),
        },
        _ => Ok(polled.map(|fd| fd.revents != 0)),
    }
}

/// Blocks SIGTTIN in this thread.
fn block_background_reads() -> io::Result<()> {
    vmm_sys_util::signal::block_signal(libc::SIGTTIN)
        .map_err(|error| io::Error::other(format!("cannot block SIGTTIN: {error:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    /// How long a thread may take for what is done at once.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A guest's port that takes so many bytes.
    #[derive(Default)]
    struct Guest {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        is_listening: bool,
        room: usize,
        got: Vec<u8>,
    }

    impl Guest {
        fn change(&self, room: &EventFd, change: impl FnOnce(&mut State)) {
            change(&mut self.state.lock().unwrap());
            room.write(1).unwrap();
        }

        fn wait_for(&self, wanted: &[u8]) {
            let state = self.state.lock().unwrap();
            let (state, timeout) = self
                .changed
                .wait_timeout_while(state, PATIENCE, |state| state.got.len() < wanted.len())
                .unwrap();
            assert!(!timeout.timed_out(), "{:?}", state.got);
            assert_eq!(state.got, wanted);
        }
    }

    impl Port for Guest {
        fn is_listening(&self) -> bool {
            self.state.lock().unwrap().is_listening
        }

        fn receive(&self, input: &[u8]) -> usize {
            let mut state = self.state.lock().unwrap();
            let count = match state.is_listening {
                true => input.len().min(state.room),
                false => 0,
            };
            state.got.extend(&input[..count]);
            state.room -= count;
            self.changed.notify_all();
            count
        }
    }

    fn event() -> EventFd {
        EventFd::new(libc::EFD_NONBLOCK).unwrap()
    }

    fn start(source: BorrowedFd<'_>) -> (Arc<Guest>, EventFd, Input) {
        let (guest, room) = (Arc::new(Guest::default()), event());
        let port = Arc::<Guest>::clone(&guest);
        let clone = room.try_clone().unwrap();
        let input = Input::start(source, port, clone, || panic!("nobody wants that")).unwrap();
        (guest, room, input)
    }

    #[test]
    fn input_from_a_pipe_arrives_as_the_guest_takes_it() {
        let (reader, mut writer) = io::pipe().unwrap();
        let (guest, room, _input) = start(reader.as_fd());
        // Ctrl-A is for terminals.
        writer.write_all(b"first\x01x, then more").unwrap();
        guest.change(&room, |state| (state.is_listening, state.room) = (true, 7));
        guest.wait_for(b"first\x01x");
        guest.change(&room, |state| state.room = 100);
        guest.wait_for(b"first\x01x, then more");
        writer.write_all(b".").unwrap();
        drop(writer);
        guest.wait_for(b"first\x01x, then more.");
    }

    #[test]
    fn pipe_is_not_emptied_before_the_guest_listens() {
        let (reader, writer) = io::pipe().unwrap();
        let (guest, room, _input) = start(reader.as_fd());
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut sent = Vec::new();
        while let Ok(count) = rustix::io::write(&writer, &[7; 4096]) {
            sent.resize(sent.len() + count, 7);
        }
        drop(writer);
        guest.change(&room, |state| {
            (state.is_listening, state.room) = (true, usize::MAX);
        });
        guest.wait_for(&sent);
    }

    #[test]
    fn end_of_a_file_ends_the_thread() {
        let file = tempfile::tempfile().unwrap();
        rustix::io::write(&file, b"all").unwrap();
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
        let (guest, room, _input) = start(file.as_fd());
        guest.change(&room, |state| {
            (state.is_listening, state.room) = (true, 100);
        });
        guest.wait_for(b"all");
        let mut guest = Some(guest);
        let deadline = std::time::Instant::now() + PATIENCE;
        while let Some(shared) = guest.take() {
            assert!(
                std::time::Instant::now() < deadline,
                "the thread still runs"
            );
            guest = Arc::try_unwrap(shared).err();
            thread::yield_now();
        }
    }
}
