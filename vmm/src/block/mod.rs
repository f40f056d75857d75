//! A disk: a raw image behind virtio-blk (virtio 1.2 §5.2).
//!
//! ```text
//!  descriptor chain ── request::parse ──> Request ── Image ──> file
//! ```

mod device;
mod image;
mod request;
mod worker;

pub use device::BlockDevice;
pub use image::{Image, ImageError};
pub use worker::BlockWorker;
