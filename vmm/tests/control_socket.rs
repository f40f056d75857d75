//! The control socket of a process that has no file descriptors left. A process of its own: the limit is the whole process's.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use oprofile_control::Client;
use oprofile_device::test_utils::{Driver, SyntheticGuest};
use oprofile_vmm::oprofile::socket::{Control, ControlSocket, Listener};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Few enough to open one by one.
const DESCRIPTORS: u64 = 128;

#[test]
fn without_descriptors_clients_wait_and_those_connected_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let driver = Driver::new(SyntheticGuest::default(), 1);
    let control = Control::new(Arc::clone(&driver.device), 63);
    let listener = Listener::bind(&path).unwrap();
    let _socket = ControlSocket::start(listener, control).unwrap();
    let mut connected = Client::connect(&path).unwrap();

    let mut limits = getrlimit(Resource::Nofile);
    limits.current = Some(DESCRIPTORS);
    setrlimit(Resource::Nofile, limits).unwrap();
    let mut hoard = Vec::new();
    let error = loop {
        match File::open("/dev/null") {
            Ok(file) => hoard.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::MFILE.raw_os_error())
    );

    // One for our side, none for the server's.
    hoard.pop();
    let waiting = UnixStream::connect(&path).unwrap();
    for _ in 0..100 {
        assert_eq!(connected.status().unwrap().clients, 1);
    }
    waiting.set_nonblocking(true).unwrap();
    let greeted = std::io::Read::read(&mut &waiting, &mut [0]);
    assert_eq!(greeted.unwrap_err().kind(), ErrorKind::WouldBlock);
    waiting.set_nonblocking(false).unwrap();

    // It is taken when there are descriptors again.
    drop(hoard);
    let mut waited = Client::over(waiting).unwrap();
    assert_eq!(waited.status().unwrap().clients, 2);
}
