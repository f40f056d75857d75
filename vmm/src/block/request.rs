//! One request: a header, data, a status (virtio 1.2 §5.2.6). All of it is the guest's and may be anything.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::image::{Image, SECTOR};

/// Bytes of the header: type, a reserved word, first sector.
const HEADER: u32 = 16;

/// Most pieces of data in a request: a chain visits no descriptor twice, and a queue has 256.
pub const MAX_SEGMENTS: usize = 254;

/// Most bytes of data in a request. Linux asks for 1 MiB and less by default; each is served while other queues' requests
/// wait in nobody's way, but a reset waits for it.
const MAX_BYTES: u64 = 4 << 20;

/// Bytes copied at once.
const CHUNK: usize = 64 << 10;

/// Bytes of a serial number.
const ID_BYTES: u32 = 20;

/// Why a chain is no request: then nothing can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// No header, or not readable.
    Header,
    /// No status byte to write to.
    Status,
}

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    address: GuestAddress,
    length: u32,
    writable: bool,
}

/// A request that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    kind: u32,
    sector: u64,
    data: Vec<Segment>,
    /// Bytes of all data; `None` when they are too many.
    bytes: Option<u64>,
    status: GuestAddress,
}

impl Request {
    /// Takes a chain apart.
    ///
    /// # Errors
    /// When it cannot be answered.
    pub fn parse(
        chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &GuestMemoryMmap,
    ) -> Result<Self, BadRequest> {
        let mut segments: Vec<Segment> = chain
            .take(MAX_SEGMENTS + 2)
            .map(|descriptor| Segment {
                address: descriptor.addr(),
                length: descriptor.len(),
                writable: descriptor.is_write_only(),
            })
            .collect();
        let status = segments.pop().ok_or(BadRequest::Header)?;
        if !status.writable || status.length == 0 {
            return Err(BadRequest::Status);
        }
        if segments.is_empty() {
            return Err(BadRequest::Header);
        }
        let header = segments.remove(0);
        if header.writable || header.length < HEADER {
            return Err(BadRequest::Header);
        }
        let word = |offset| -> Result<u64, BadRequest> {
            let address = header
                .address
                .0
                .checked_add(offset)
                .ok_or(BadRequest::Header)?;
            memory
                .read_obj(GuestAddress(address))
                .map_err(|_| BadRequest::Header)
        };
        let bytes = segments
            .iter()
            .try_fold(0_u64, |sum, segment| {
                sum.checked_add(u64::from(segment.length))
            })
            .filter(|bytes| *bytes <= MAX_BYTES);
        // The status is the last byte of the chain.
        let status = u64::from(status.length - 1)
            .checked_add(status.address.0)
            .map(GuestAddress)
            .ok_or(BadRequest::Status)?;
        Ok(Self {
            kind: u32::try_from(word(0)? & 0xffff_ffff).unwrap_or(u32::MAX),
            sector: word(8)?,
            data: segments,
            bytes,
            status,
        })
    }

    /// Does what is asked and writes the status; returns how many bytes of guest memory were written.
    pub fn execute(&self, memory: &GuestMemoryMmap, image: &Image) -> u32 {
        let (status, written) = match self.serve(memory, image) {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(status) => (status, 0),
        };
        let status = u8::try_from(status).unwrap_or(u8::MAX);
        match memory.write_obj(status, self.status) {
            Ok(()) => written.saturating_add(1),
            Err(_) => 0,
        }
    }

    fn serve(&self, memory: &GuestMemoryMmap, image: &Image) -> Result<u32, u32> {
        match self.kind {
            VIRTIO_BLK_T_IN => {
                self.check(image, true)?;
                self.each_chunk(|at, address, buffer| {
                    image
                        .read(at, buffer)
                        .map_err(|error| failed(image, "read", &error))?;
                    memory
                        .write_slice(buffer, address)
                        .map_err(|_| VIRTIO_BLK_S_IOERR)
                })?;
                Ok(u32::try_from(self.bytes.unwrap_or(0)).unwrap_or(u32::MAX))
            }
            VIRTIO_BLK_T_OUT => {
                self.check(image, false)?;
                if image.is_read_only() {
                    return Err(VIRTIO_BLK_S_IOERR);
                }
                self.each_chunk(|at, address, buffer| {
                    memory
                        .read_slice(buffer, address)
                        .map_err(|_| VIRTIO_BLK_S_IOERR)?;
                    image
                        .write(at, buffer)
                        .map_err(|error| failed(image, "write", &error))
                })?;
                Ok(0)
            }
            VIRTIO_BLK_T_FLUSH => image
                .flush()
                .map(|()| 0)
                .map_err(|error| failed(image, "flush", &error)),
            VIRTIO_BLK_T_GET_ID => match self.data.first() {
                Some(target) if target.writable && target.length >= ID_BYTES => memory
                    .write_slice(&[0; ID_BYTES as usize], target.address)
                    .map(|()| ID_BYTES)
                    .map_err(|_| VIRTIO_BLK_S_IOERR),
                _ => Err(VIRTIO_BLK_S_IOERR),
            },
            _ => Err(VIRTIO_BLK_S_UNSUPP),
        }
    }

    /// Whole sectors of the disk, and memory of the right kind.
    fn check(&self, image: &Image, writable: bool) -> Result<(), u32> {
        let bytes = self.bytes.ok_or(VIRTIO_BLK_S_IOERR)?;
        let fits = bytes.is_multiple_of(SECTOR)
            && image.holds(self.sector, bytes)
            && self.data.iter().all(|segment| segment.writable == writable);
        fits.then_some(()).ok_or(VIRTIO_BLK_S_IOERR)
    }

    /// Calls `work` with each piece of the data: its place on the disk, in guest memory, and a buffer of its length.
    fn each_chunk(
        &self,
        mut work: impl FnMut(u64, GuestAddress, &mut [u8]) -> Result<(), u32>,
    ) -> Result<(), u32> {
        let mut buffer =
            vec![0; CHUNK.min(usize::try_from(self.bytes.unwrap_or(0)).unwrap_or(CHUNK))];
        // `check` has seen that none of this overflows.
        let mut at = self.sector * SECTOR;
        for segment in &self.data {
            let mut done = 0;
            while done < segment.length {
                let length = buffer.len().min((segment.length - done) as usize);
                let address = segment
                    .address
                    .0
                    .checked_add(u64::from(done))
                    .ok_or(VIRTIO_BLK_S_IOERR)?;
                work(at, GuestAddress(address), &mut buffer[..length])?;
                at += length as u64;
                done += u32::try_from(length).unwrap_or(u32::MAX);
            }
        }
        Ok(())
    }
}

/// The host's own trouble, which the guest sees as an I/O error.
fn failed(image: &Image, what: &str, error: &std::io::Error) -> u32 {
    image.tell_failure(what, error);
    VIRTIO_BLK_S_IOERR
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
