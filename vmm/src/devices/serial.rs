//! The first serial port: what the guest writes is put out, what is typed it reads.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{BusDevice, Effect};

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// Number of its ports.
pub const COM1_BYTES: u16 = 8;
/// Its interrupt.
pub const COM1_GSI: u32 = 4;

/// Offsets of registers (16550 data sheet). Interrupt enable and modem control decide whether input is taken.
const INTERRUPT_ENABLE_REGISTER: u8 = 1;
const INTERRUPT_ENABLE: u64 = INTERRUPT_ENABLE_REGISTER as u64;
const INTERRUPT_IDENTIFICATION: u64 = 2;
const MODEM_CONTROL: u64 = 4;
/// Interrupt identification: there is input.
const INPUT_AVAILABLE: u8 = 1 << 2;
/// Line control: the first two registers are the divisor's.
const DIVISOR_ACCESS: u8 = 1 << 7;
/// Interrupt enable: one comes when there is input.
const RECEIVE_INTERRUPT: u8 = 1;
/// Modem control: the port hears itself, and nothing from outside.
const LOOP: u8 = 1 << 4;

/// Raises the port's interrupt through an irqfd.
#[derive(Debug)]
pub struct Irq(pub EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Output that never fails a guest: once it is gone (a closed pipe, a full disk), what the guest says is dropped.
struct Output<W> {
    sink: Option<W>,
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(sink) = &mut self.sink
            && let Err(error) = sink.write_all(bytes)
        {
            tracing::warn!("Serial output is dropped from here on: {error}");
            self.sink = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(sink) = &mut self.sink
            && sink.flush().is_err()
        {
            self.sink = None;
        }
        Ok(())
    }
}

/// Tells whoever has input that the port may take some.
#[derive(Debug)]
struct Room(EventFd);

impl Room {
    fn tell(&self) {
        // Fails only when the counter is full, which tells just as well.
        let _ = self.0.write(1);
    }
}

impl SerialEvents for Room {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.tell();
    }
}

/// A 16550 UART.
pub struct SerialPort<W: Write> {
    uart: Mutex<Serial<Irq, Room, Output<W>>>,
}

impl<W: Write> fmt::Debug for SerialPort<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

impl<W: Write> SerialPort<W> {
    /// A port that writes to `output`, interrupts through `irq`, and writes to `room` when [`SerialPort::receive`] may take more
    /// than it did before.
    pub fn new(irq: Irq, output: W, room: EventFd) -> Self {
        let output = Output { sink: Some(output) };
        Self {
            uart: Mutex::new(Serial::with_events(irq, Room(room), output)),
        }
    }

    /// A panic under the lock leaves registers that are each valid.
    fn lock(&self) -> MutexGuard<'_, Serial<Irq, Room, Output<W>>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the guest has the receive interrupt enabled. A driver that starts throws away what came before, so input waits
    /// for this.
    pub fn is_listening(&self) -> bool {
        is_listening(&self.lock())
    }

    /// Takes as much of `input` as fits now; returns how many bytes that is.
    pub fn receive(&self, input: &[u8]) -> usize {
        let mut uart = self.lock();
        if input.is_empty() || !is_listening(&uart) || uart.fifo_capacity() == 0 {
            return 0;
        }
        let before = uart.fifo_capacity();
        if let Err(error) = uart.enqueue_raw_bytes(input) {
            tracing::debug!("Serial port: {error}");
        }
        // Also after an interrupt that could not be raised the bytes are in.
        before - uart.fifo_capacity()
    }
}

fn is_listening<W: Write>(uart: &Serial<Irq, Room, Output<W>>) -> bool {
    let state = uart.state();
    state.interrupt_enable & RECEIVE_INTERRUPT != 0 && state.modem_control & LOOP == 0
}

/// As long as there is input, it is what interrupts. `vm-superio` forgets that at the first byte that is read, and a driver that
/// stops reading before the last would never be told of the rest.
fn tell_what_is_left<W: Write>(uart: &mut Serial<Irq, Room, Output<W>>) {
    let state = uart.state();
    if state.in_buffer.is_empty()
        || state.interrupt_enable & RECEIVE_INTERRUPT == 0
        || state.interrupt_identification & INPUT_AVAILABLE != 0
        || state.line_control & DIVISOR_ACCESS != 0
    {
        return;
    }
    // What is written there again makes it look for input.
    if let Err(error) = uart.write(INTERRUPT_ENABLE_REGISTER, state.interrupt_enable) {
        tracing::debug!("Serial port: {error}");
    }
}

impl<W: Write + Send> BusDevice for SerialPort<W> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.lock();
        if offset == INTERRUPT_IDENTIFICATION {
            tell_what_is_left(&mut uart);
        }
        let offset = u8::try_from(offset).unwrap_or(u8::MAX);
        // The registers are one byte wide, so more than one byte is a string instruction on one register.
        for byte in data {
            *byte = uart.read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut uart = self.lock();
        let register = u8::try_from(offset).unwrap_or(u8::MAX);
        let decides = matches!(offset, INTERRUPT_ENABLE | MODEM_CONTROL);
        let listened = decides && is_listening(&uart);
        for byte in data {
            if let Err(error) = uart.write(register, *byte) {
                tracing::debug!("Serial port: {error}");
            }
        }
        if decides && !listened && is_listening(&uart) {
            uart.events().tell();
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed(Shared);

    impl Write for Closed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)?;
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event() -> EventFd {
        EventFd::new(libc::EFD_NONBLOCK).unwrap()
    }

    fn port<W: Write>(output: W) -> SerialPort<W> {
        SerialPort::new(Irq(event()), output, event())
    }

    fn read<W: Write + Send>(port: &SerialPort<W>, register: u64) -> u8 {
        let mut byte = [0];
        port.read(register, &mut byte);
        byte[0]
    }

    #[test]
    fn what_the_guest_writes_is_put_out() {
        let output = Shared::default();
        let port = port(output.clone());
        port.write(0, b"he");
        port.write(0, b"y");
        assert_eq!(*output.0.lock().unwrap(), b"hey");
    }

    #[test]
    fn transmitter_is_always_ready() {
        let port = port(Shared::default());
        assert_eq!(read(&port, 5) & 0x60, 0x60);
    }

    #[test]
    fn input_is_taken_from_when_the_guest_listens() {
        let (irq, room) = (event(), event());
        let told = room.try_clone().unwrap();
        let raised = irq.try_clone().unwrap();
        let port = SerialPort::new(Irq(irq), Shared::default(), room);
        assert!(!port.is_listening());
        assert_eq!(port.receive(b"early"), 0);
        assert!(told.read().is_err());
        port.write(INTERRUPT_ENABLE, &[RECEIVE_INTERRUPT]);
        assert_eq!(told.read().unwrap(), 1);
        assert_eq!(port.receive(b"ab"), 2);
        assert_eq!(raised.read().unwrap(), 1);
        assert_eq!(read(&port, 5) & 1, 1);
        assert_eq!((read(&port, 0), read(&port, 0)), (b'a', b'b'));
        assert_eq!(read(&port, 5) & 1, 0);
        assert_eq!(told.read().unwrap(), 1);
    }

    #[test]
    fn full_port_takes_no_more_until_it_was_read() {
        let port = port(Shared::default());
        port.write(INTERRUPT_ENABLE, &[RECEIVE_INTERRUPT]);
        let input: Vec<u8> = (0..100).collect();
        let first = port.receive(&input);
        assert!(first > 0 && first < input.len());
        assert_eq!(port.receive(&input[first..]), 0);
        for byte in 0..first {
            assert_eq!(usize::from(read(&port, 0)), byte);
        }
        assert_eq!(port.receive(&input[first..]), input.len() - first);
    }

    #[test]
    fn input_that_is_left_is_still_what_interrupts() {
        let port = port(Shared::default());
        port.write(INTERRUPT_ENABLE, &[RECEIVE_INTERRUPT]);
        assert_eq!(port.receive(b"abc"), 3);
        let is_told = || read(&port, INTERRUPT_IDENTIFICATION) & INPUT_AVAILABLE != 0;
        for byte in b"abc" {
            assert!(is_told() && is_told());
            assert_eq!(read(&port, 0), *byte);
        }
        assert!(!is_told());
        // Not while the registers are the divisor's, which stays as it is.
        assert_eq!(port.receive(b"d"), 1);
        assert!(is_told());
        port.write(3, &[DIVISOR_ACCESS]);
        let divisor = read(&port, INTERRUPT_ENABLE);
        assert!(!is_told());
        assert_eq!(read(&port, INTERRUPT_ENABLE), divisor);
    }

    #[test]
    fn port_that_hears_itself_hears_nothing_else() {
        let port = port(Shared::default());
        port.write(INTERRUPT_ENABLE, &[RECEIVE_INTERRUPT]);
        port.write(MODEM_CONTROL, &[LOOP]);
        assert_eq!(port.receive(b"a"), 0);
        port.write(0, b"z");
        port.write(MODEM_CONTROL, &[0]);
        assert_eq!(port.receive(b"a"), 1);
        assert_eq!((read(&port, 0), read(&port, 0)), (b'z', b'a'));
    }

    #[test]
    fn a_closed_output_is_given_up_after_its_first_error() {
        let output = Shared::default();
        let port = port(Closed(output.clone()));
        port.write(0, b"abc");
        assert_eq!(*output.0.lock().unwrap(), b"a");
    }
}
