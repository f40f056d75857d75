//! The first serial port, whose output is the program's standard output.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{BusDevice, Effect};

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// Number of its ports.
pub const COM1_BYTES: u16 = 8;
/// Its interrupt.
pub const COM1_GSI: u32 = 4;

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

/// A 16550 UART.
pub struct SerialPort<W: Write> {
    uart: Mutex<Serial<Irq, NoEvents, Output<W>>>,
}

impl<W: Write> fmt::Debug for SerialPort<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

impl<W: Write> SerialPort<W> {
    /// A port that writes to `output` and interrupts through `irq`.
    pub fn new(irq: Irq, output: W) -> Self {
        let output = Output { sink: Some(output) };
        Self {
            uart: Mutex::new(Serial::new(irq, output)),
        }
    }
}

impl<W: Write + Send> BusDevice for SerialPort<W> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = u8::try_from(offset).unwrap_or(u8::MAX);
        // The registers are one byte wide, so more than one byte is a string instruction on one register.
        for byte in data {
            *byte = uart.read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = u8::try_from(offset).unwrap_or(u8::MAX);
        for byte in data {
            if let Err(error) = uart.write(offset, *byte) {
                tracing::debug!("Serial port: {error}");
            }
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

    fn irq() -> Irq {
        Irq(EventFd::new(0).unwrap())
    }

    #[test]
    fn what_the_guest_writes_is_put_out() {
        let output = Shared::default();
        let port = SerialPort::new(irq(), output.clone());
        port.write(0, b"he");
        port.write(0, b"y");
        assert_eq!(*output.0.lock().unwrap(), b"hey");
    }

    #[test]
    fn transmitter_is_always_ready() {
        let port = SerialPort::new(irq(), Shared::default());
        let mut status = [0];
        port.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
    }

    #[test]
    fn a_closed_output_is_given_up_after_its_first_error() {
        let output = Shared::default();
        let port = SerialPort::new(irq(), Closed(output.clone()));
        port.write(0, b"abc");
        assert_eq!(*output.0.lock().unwrap(), b"a");
    }
}
