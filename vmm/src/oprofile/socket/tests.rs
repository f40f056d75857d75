//! Server and client over a real socket, with a device whose guest is scripted.

use std::io::{Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oprofile_control::frame::{FrameBuffer, MAX_ANSWER_BYTES, append};
use oprofile_control::message::{Command, CookieAnswer, FailureKind, Separation};
use oprofile_control::status::{Reader, Status};
use oprofile_control::{Client, ClientError, FrameKind};
use oprofile_device::test_utils::{Driver, KERNEL_START, SyntheticGuest};
use oprofile_device::{Device, Settings};
use oprofile_session::events::{Record, records};
use oprofile_session::{Collector, CollectorOptions};
use tempfile::TempDir;
use vm_memory::GuestMemoryMmap;

use super::super::{CollectorThread, Sources};
use super::{Control, ControlSocket, Listener, MAX_CLIENTS};

/// How long a busy machine may take for what happens at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until it is so: the server has its own thread, and sees that a client is gone after the client.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
    }
}

/// A device with its guest, and the socket in front of it.
struct Machine {
    driver: Driver,
    socket: Option<ControlSocket>,
    collector: Option<CollectorThread>,
    directory: TempDir,
}

impl Machine {
    fn new(settings: Settings, with_session: bool) -> Self {
        let mut driver = Driver::with_settings(SyntheticGuest::default(), settings).hello();
        // The driver of the tests reads its device; here others do.
        let other = Device::<GuestMemoryMmap>::new(Settings::default()).unwrap();
        drop(mem::replace(
            &mut driver.reader,
            other.open_events().unwrap(),
        ));
        let directory = tempfile::tempdir().unwrap();
        let mut control = Control::new(Arc::clone(&driver.device), 63);
        let collector = with_session.then(|| {
            let session = directory.path().join("session");
            let collector = Collector::create(&session, CollectorOptions::default()).unwrap();
            let reader = control.open().unwrap();
            let device = Arc::clone(&driver.device);
            let thread =
                CollectorThread::start(device, reader, collector, Sources::default()).unwrap();
            control.set_session(session, thread.handle());
            control.start().unwrap();
            thread
        });
        let listener = Listener::bind(&directory.path().join("socket")).unwrap();
        let socket = Some(ControlSocket::start(listener, control).unwrap());
        Self {
            driver,
            socket,
            collector,
            directory,
        }
    }

    fn with_session() -> Self {
        Self::new(Settings::default(), true)
    }

    fn bare() -> Self {
        Self::new(Settings::default(), false)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }

    fn status(&self) -> Status {
        self.client().status().unwrap()
    }

    /// The guest posts a buffer of `count` kernel samples.
    fn sample(&mut self, count: u64) {
        let task = self.driver.guest.init_task();
        let mut buffer = self.driver.buffer(0).kernel(task);
        for index in 0..count {
            buffer = buffer.sample(KERNEL_START + index);
        }
        self.driver.post(0, &buffer);
    }

    fn session_files(&self, name: &str) -> usize {
        let samples = self.directory.path().join("session/samples").join(name);
        fn count(directory: &std::path::Path) -> usize {
            let Ok(entries) = std::fs::read_dir(directory) else {
                return 0;
            };
            let entry = |entry: std::io::Result<std::fs::DirEntry>| {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => count(&path),
                    false => 1,
                }
            };
            entries.map(entry).sum()
        }
        count(&samples.join("{root}"))
    }
}

fn kind(result: Result<impl std::fmt::Debug, ClientError>) -> FailureKind {
    match result.unwrap_err() {
        ClientError::Refused(failure) => failure.kind,
        other => panic!("{other:?}"),
    }
}

fn raw(machine: &Machine) -> UnixStream {
    UnixStream::connect(machine.path()).unwrap()
}

/// Everything until the server closes.
fn all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A server that closes with our bytes unread resets the connection, behind what it has said.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// What the server says first.
fn first_words(stream: &mut UnixStream) -> Vec<u8> {
    let mut piece = [0; 4096];
    let count = stream.read(&mut piece).unwrap();
    piece[..count].to_vec()
}

#[test]
fn status_is_the_devices_account() {
    let mut machine = Machine::with_session();
    machine.sample(3);
    machine.driver.device.tick();
    let status = machine.status();
    assert!(status.said_hello && status.started && status.adds_up);
    assert_eq!(status.reader, Reader::Collector);
    assert_eq!(status.counter("received"), Some(3));
    assert_eq!(status.counter("kernel"), Some(3));
    assert_eq!(status.vcpus[0].received, 3);
    assert_eq!(status.cpu_type, "timer");
    assert_eq!(status.clients, 1);
}

#[test]
fn control_files_answer_by_oprofiles_rules() {
    let machine = Machine::with_session();
    let mut client = machine.client();
    assert_eq!(client.read("enable").unwrap(), "1\n");
    assert_eq!(client.read("pointer_size").unwrap(), "8\n");
    let code = |result: Result<String, ClientError>| match result {
        Err(ClientError::Refused(failure)) => failure.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(client.read("nothing")), -2);
    assert_eq!(code(client.read("stats")), -21);
    assert_eq!(code(client.read("dump")), -22);
    assert_eq!(code(client.read("buffer")), -22);
    let busy = client.write("backtrace_depth", "4").unwrap_err();
    assert!(busy.to_string().contains("opcontrol --stop"), "{busy}");
    client.write("enable", "0").unwrap();
    client.write("backtrace_depth", "0x10").unwrap();
    assert_eq!(client.read("backtrace_depth").unwrap(), "16\n");
    assert_eq!(machine.driver.device.backtrace_depth(), 16);
    let list = client.ask(Command::List).unwrap();
    assert_eq!(list[0]["path"], "enable");
    assert_eq!(list[0]["mode"], 0o644);
}

#[test]
fn a_dump_is_answered_when_the_samples_are_on_disk() {
    let mut machine = Machine::with_session();
    machine.sample(2);
    assert_eq!(machine.session_files("current"), 0);
    machine.client().ask(Command::Dump).unwrap();
    let status = machine.status();
    let samples = status.collector.iter();
    let mut samples = samples.filter(|counter| counter.name == "collector_samples");
    assert_eq!(samples.next().unwrap().value, 2);
    // The scripted guest describes no symbols, but its kernel's range: the samples have a file.
    assert_eq!(machine.session_files("current"), 1);
}

#[test]
fn a_saved_session_stays_and_the_next_one_begins_with_an_account_of_nothing() {
    let mut machine = Machine::with_session();
    machine.sample(5);
    let mut client = machine.client();
    let save = |name: &str| Command::Save { name: name.into() };
    client.ask(save("first")).unwrap();
    assert_eq!(machine.session_files("first"), 1);
    assert_eq!(machine.session_files("current"), 0);
    assert_eq!(kind(client.ask(save("first"))), FailureKind::Session);
    for name in ["", "..", "a/b", "current", "previous", "-x"] {
        assert_eq!(kind(client.ask(save(name))), FailureKind::Session, "{name}");
    }
    machine.sample(1);
    client.ask(Command::Dump).unwrap();
    let account = machine.directory.path().join("session/account.txt");
    let account = std::fs::read_to_string(account).unwrap();
    assert!(
        account
            .lines()
            .any(|line| line.split_whitespace().eq(["received", "1"])),
        "{account}"
    );
}

#[test]
fn a_reset_forgets_the_session() {
    let mut machine = Machine::with_session();
    machine.sample(5);
    let mut client = machine.client();
    client.ask(Command::Dump).unwrap();
    assert_eq!(machine.session_files("current"), 1);
    client.ask(Command::Reset).unwrap();
    assert_eq!(machine.session_files("current"), 0);
    client.ask(Command::Dump).unwrap();
    assert_eq!(machine.session_files("current"), 0);
}

#[test]
fn the_way_of_filing_changes_while_nothing_is_filed() {
    let mut machine = Machine::with_session();
    let mut client = machine.client();
    let separate = |separation| Command::Separate {
        separation,
        per_cpu: false,
    };
    client.ask(separate(Separation::Kernel)).unwrap();
    machine.sample(1);
    client.ask(Command::Dump).unwrap();
    let refused = client.ask(separate(Separation::None));
    assert_eq!(kind(refused), FailureKind::Session);
    client.ask(Command::Reset).unwrap();
    client.ask(separate(Separation::None)).unwrap();
}

#[test]
fn a_new_size_of_the_event_buffer_takes_effect_at_the_next_start() {
    let mut machine = Machine::with_session();
    let mut client = machine.client();
    client.ask(Command::Stop).unwrap();
    client.write("buffer_size", "4096").unwrap();
    client.write("buffer_watershed", "1024").unwrap();
    client.ask(Command::Start).unwrap();
    assert!(machine.driver.device.enabled());
    // The collector reads on.
    machine.sample(4);
    client.ask(Command::Dump).unwrap();
    assert_eq!(machine.session_files("current"), 1);
    // A watershed that does not fit is refused, and the session goes on as before.
    client.ask(Command::Stop).unwrap();
    client.write("buffer_watershed", "4096").unwrap();
    assert_eq!(kind(client.ask(Command::Start)), FailureKind::ControlFile);
    assert_eq!(client.read("buffer_watershed").unwrap(), "1024\n");
    client.ask(Command::Start).unwrap();
    client.ask(Command::Dump).unwrap();
}

#[test]
fn a_rate_is_told_to_the_guest_and_checked() {
    let machine = Machine::bare();
    let mut client = machine.client();
    client.ask(Command::Rate { hz: 250 }).unwrap();
    assert_eq!(machine.driver.device.period_ns(), 4_000_000);
    for hz in [0, 1_000_000, u64::MAX] {
        assert_eq!(kind(client.ask(Command::Rate { hz })), FailureKind::Value);
    }
}

#[test]
fn the_collector_is_the_one_reader() {
    let machine = Machine::with_session();
    let refused = machine.client().events();
    assert_eq!(kind(refused), FailureKind::ReaderBusy);
}

#[test]
fn without_a_session_a_client_reads_the_words_and_looks_cookies_up() {
    let mut machine = Machine::bare();
    let mut client = machine.client();
    assert_eq!(kind(client.ask(Command::Start)), FailureKind::NoReader);
    assert_eq!(kind(client.ask(Command::Reset)), FailureKind::NoSession);
    let mut events = machine.client().events().unwrap();
    assert_eq!(kind(machine.client().events()), FailureKind::ReaderBusy);
    client.ask(Command::Start).unwrap();
    assert_eq!(machine.status().reader, Reader::Client);
    machine.sample(2);
    client.ask(Command::Dump).unwrap();
    let words = events.next_read().unwrap().unwrap();
    let samples = records(&words).filter(|record| matches!(record, Record::Sample { .. }));
    assert_eq!(samples.count(), 2);
    assert_eq!(client.cookie(12_345).unwrap(), CookieAnswer::Unknown);
    // Its end closes the event buffer, and another one may read.
    drop(events);
    until("the event buffer is closed", || {
        machine.status().reader == Reader::None
    });
    assert!(!machine.driver.device.enabled());
    machine.client().events().unwrap();
}

#[test]
fn a_slow_reader_loses_words_and_nobody_waits_for_it() {
    let settings = Settings {
        buffer_size: 4096,
        buffer_watershed: 1024,
        ..Settings::default()
    };
    let mut machine = Machine::new(settings, false);
    let events = machine.client().events().unwrap();
    machine.client().ask(Command::Start).unwrap();
    // More than the socket and the event buffer hold; the reader takes nothing of it.
    let deadline = Instant::now() + PATIENCE;
    let mut rounds = 0;
    while machine.driver.device.account().lost_words == 0 {
        for _ in 0..16 {
            machine.sample(200);
            machine.driver.device.tick();
        }
        rounds += 1;
        assert!(
            Instant::now() < deadline,
            "no word was lost within {PATIENCE:?}"
        );
        // Others are served meanwhile.
        if rounds % 64 == 0 {
            machine.status();
        }
    }
    let status = machine.status();
    assert!(status.adds_up);
    assert!(status.counter("lost_words").unwrap() > 0);
    drop(events);
}

#[test]
fn the_last_words_reach_the_reader_when_the_vm_ends() {
    let mut machine = Machine::bare();
    let mut events = machine.client().events().unwrap();
    machine.sample(1);
    machine.driver.device.dump();
    machine.sample(1);
    machine.driver.device.tick();
    let path = machine.path();
    drop(machine.socket.take());
    let mut samples = 0;
    while let Some(words) = events.next_read().unwrap() {
        samples += records(&words)
            .filter(|record| matches!(record, Record::Sample { .. }))
            .count();
    }
    assert_eq!(samples, 2);
    assert!(!path.exists());
}

#[test]
fn garbage_is_answered_and_the_connection_closed() {
    let machine = Machine::bare();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 100],
        &[1, 0, 0, 0, 2, 0],
        &[0xff, 0xff, 0, 0, 1],
    ] {
        let mut stream = raw(&machine);
        stream.write_all(garbage).unwrap();
        let mut frames = FrameBuffer::new(MAX_ANSWER_BYTES);
        frames.extend(&all(&mut stream));
        frames.take().unwrap().expect("a greeting");
        let answer = frames.take().unwrap().expect("an answer");
        let answer = String::from_utf8(answer.payload).unwrap();
        assert!(answer.contains("bad_request"), "{answer}");
    }
    machine.status();
}

#[test]
fn requests_that_are_none_are_answered_and_the_next_one_is_served() {
    let machine = Machine::bare();
    let mut stream = raw(&machine);
    let mut bytes = Vec::new();
    for request in [
        r#"{"id":4,"do":"fly"}"#,
        "[[[[",
        "",
        r#"{"id":5,"do":"list"}"#,
    ] {
        append(&mut bytes, FrameKind::Message, request.as_bytes()).unwrap();
    }
    // Byte by byte, then half closed: answered all the same.
    for byte in &bytes {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut frames = FrameBuffer::new(MAX_ANSWER_BYTES);
    frames.extend(&all(&mut stream));
    let mut answers = Vec::new();
    while let Some(frame) = frames.take().unwrap() {
        answers.push(String::from_utf8(frame.payload).unwrap());
    }
    assert_eq!(answers.len(), 5);
    assert!(answers[1].contains(r#""id":4"#) && answers[1].contains("bad_request"));
    assert!(answers[4].contains(r#""id":5"#) && answers[4].contains("backtrace_depth"));
}

#[test]
fn clients_that_leave_amid_an_answer_do_no_harm() {
    let machine = Machine::with_session();
    for command in [Command::Status, Command::Dump, Command::Stop, Command::List] {
        let mut stream = raw(&machine);
        let request = serde_json::to_vec(&command).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..200 {
            append(&mut bytes, FrameKind::Message, &request).unwrap();
        }
        // The server stops to read when its answers are not taken.
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(&bytes);
        drop(stream);
    }
    assert!(machine.status().adds_up);
}

#[test]
fn one_client_too_many_is_told_so() {
    let machine = Machine::bare();
    let mut clients: Vec<Client> = (0..MAX_CLIENTS).map(|_| machine.client()).collect();
    let refused = Client::connect(&machine.path());
    assert_eq!(kind(refused), FailureKind::TooManyClients);
    assert_eq!(clients[0].status().unwrap().clients, MAX_CLIENTS);
    clients.pop();
    until("a place for one more client", || {
        Client::connect(&machine.path()).is_ok()
    });
}

#[test]
fn the_collector_completes_the_session_behind_the_socket() {
    let mut machine = Machine::with_session();
    machine.sample(7);
    machine.driver.device.dump();
    drop(machine.socket.take());
    let result = machine.collector.take().unwrap().finish().unwrap();
    assert!(result.error.is_none());
    assert_eq!(result.stats.samples, 7);
}

#[test]
fn an_order_to_a_collector_that_has_ended_is_answered() {
    let mut machine = Machine::with_session();
    let mut client = machine.client();
    machine.collector.take().unwrap().finish().unwrap();
    for command in [Command::Dump, Command::Reset] {
        let told = client.ask(command).unwrap_err();
        assert!(told.to_string().contains("collector has ended"), "{told}");
    }
    // A start that needs the collector leaves nothing behind that would keep the next one from trying.
    client.ask(Command::Stop).unwrap();
    client.write("buffer_size", "4096").unwrap();
    for _ in 0..2 {
        assert_eq!(kind(client.ask(Command::Start)), FailureKind::Session);
    }
}

#[test]
fn frames_that_are_cut_off_do_no_harm() {
    let machine = Machine::bare();
    let mut whole = Vec::new();
    append(&mut whole, FrameKind::Message, br#"{"id":1,"do":"list"}"#).unwrap();
    for length in 0..whole.len() {
        raw(&machine).write_all(&whole[..length]).unwrap();
        // Half closed: the server answers nothing, and closes too.
        let mut stream = raw(&machine);
        stream.write_all(&whole[..length]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut frames = FrameBuffer::new(MAX_ANSWER_BYTES);
        frames.extend(&all(&mut stream));
        frames.take().unwrap().expect("a greeting");
        assert_eq!(frames.pending(), 0, "{length}");
    }
    until("clients that are gone are forgotten", || {
        machine.status().clients == 1
    });
}

#[test]
fn a_reader_that_goes_amid_its_words_makes_room_for_another_one() {
    let mut machine = Machine::bare();
    for _ in 0..3 {
        let mut stream = raw(&machine);
        let mut request = Vec::new();
        append(&mut request, FrameKind::Message, br#"{"do":"events"}"#).unwrap();
        stream.write_all(&request).unwrap();
        until("a reader", || machine.status().reader == Reader::Client);
        machine.client().ask(Command::Start).unwrap();
        // A frame has more words than fit what is read of it here.
        machine.sample(200);
        machine.client().ask(Command::Dump).unwrap();
        let mut some = [0; 512];
        stream.read_exact(&mut some).unwrap();
        drop(stream);
        until("no reader", || machine.status().reader == Reader::None);
        assert!(!machine.driver.device.enabled());
    }
}

#[test]
fn a_client_that_takes_no_answers_stays_alone_with_that() {
    let mut machine = Machine::with_session();
    let mut stream = raw(&machine);
    let mut request = Vec::new();
    append(&mut request, FrameKind::Message, br#"{"do":"status"}"#).unwrap();
    // Until neither side's buffers take any more: the server has stopped to read.
    stream.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut refused = 0;
    while refused < 100 {
        match stream.write(&request) {
            Ok(_) => refused = 0,
            Err(_) => {
                refused += 1;
                // A turn of the server.
                machine.status();
            }
        }
        assert!(
            Instant::now() < deadline,
            "the server takes requests without end"
        );
    }
    machine.sample(3);
    machine.client().ask(Command::Dump).unwrap();
    let status = machine.status();
    assert_eq!((status.counter("received"), status.clients), (Some(3), 2));
}

#[test]
fn thousands_of_clients_come_and_go() {
    let machine = Machine::bare();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for index in 0..4000 {
        let mut stream = raw(&machine);
        match index % 4 {
            0 => {}
            1 => stream.write_all(b"\0\0").unwrap_or_default(),
            2 => stream.write_all(&[0xff; 64]).unwrap_or_default(),
            // Gone or not, it is told.
            _ => assert!(!first_words(&mut stream).is_empty()),
        }
    }
    until("clients that are gone are forgotten", || {
        Client::connect(&machine.path())
            .and_then(|mut client| client.status())
            .is_ok_and(|status| status.clients == 1)
    });
    // Other tests run at the same time, with some hundred descriptors.
    let after = open();
    assert!(
        after < before + 1000,
        "{after} descriptors, {before} before"
    );
}

/// The program of docs/control-protocol.md, as it stands there. It needs python3, which `cargo xtask test` sees to.
#[test]
fn the_specifications_client_in_python_works() {
    let text = include_str!("../../../../docs/control-protocol.md");
    let program = text.split("```python\n").nth(1).unwrap();
    let program = program.split("```").next().unwrap();
    let mut machine = Machine::bare();
    machine.sample(3);
    machine.driver.device.dump();
    let output = std::process::Command::new("python3")
        .args(["-c", program])
        .arg(machine.path())
        .output()
        .expect("python3 runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let printed = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = printed.lines().collect();
    // Three samples, stopped, one frame with the last words of a read.
    assert_eq!(lines[..2], ["3", "0"]);
    assert!(lines[2].starts_with("3 "), "{printed}");
}
