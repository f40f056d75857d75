//! The virtio-mmio transport, version 2 (virtio 1.2 §4.2).

mod interrupt;
mod queues;
mod registers;
mod transport;

pub use interrupt::MmioInterrupt;
pub use registers::{QUEUE_NOTIFY, WINDOW_BYTES};
pub use transport::MmioTransport;
