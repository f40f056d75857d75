//! Well-known crates at work on a file: the report shows functions that nobody here invented.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;

use guest_programs::deadline;
use guest_rt::{Failure, sys};
use guest_truth::CORPUS;
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec;
use sha2::{Digest, Sha256};

/// Bytes that one round works on: a few milliseconds in the lab.
const BLOCK_BYTES: usize = 16 * 1024;

/// zlib's default.
const LEVEL: u8 = 6;

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    let deadline = deadline()?;
    let corpus = map(CORPUS)?;
    let mut blocks = corpus.chunks_exact(BLOCK_BYTES).cycle();
    while sys::clock_ns() < deadline {
        let block = blocks.next().ok_or(Failure::Other("corpus is too short"))?;
        round(block)?;
    }
    Ok(())
}

fn round(block: &[u8]) -> Result<(), Failure> {
    let before = Sha256::digest(block);
    let packed = compress_to_vec(block, LEVEL);
    let unpacked =
        decompress_to_vec(&packed).map_err(|_| Failure::Other("packed block does not unpack"))?;
    if Sha256::digest(&unpacked) != before {
        return Err(Failure::Other("unpacked block has another hash"));
    }
    let mut words: Vec<u64> = block
        .as_chunks::<8>()
        .0
        .iter()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .collect();
    words.sort_unstable();
    if !words.is_sorted() {
        return Err(Failure::Other("sorted words are in disorder"));
    }
    Ok(())
}

fn map(path: &'static str) -> Result<&'static [u8], Failure> {
    let called = |errno| Failure::Call(path, errno);
    let fd = sys::open(path).map_err(called)?;
    let bytes = sys::file_size(fd).map_err(called)?;
    let start = sys::mmap(0, bytes, sys::PROT_READ, Some((fd, 0))).map_err(called)?;
    let length = usize::try_from(bytes).map_err(|_| Failure::Other("file too large"))?;
    // SAFETY: the kernel has just mapped these bytes, readable, private, and nobody unmaps them.
    Ok(unsafe { core::slice::from_raw_parts(start as *const u8, length) })
}
