//! Initial file systems as distributions make them: archives one behind the other, each of them compressed or not.

use std::io::{self, BufRead as _, Read};

use thiserror::Error;

/// Most bytes of all archives of an initrd, unpacked: guests have less RAM to unpack theirs into.
const MAX_BYTES: u64 = 2 << 30;
/// Most KiB that unpacking xz may take: its strongest setting takes 65 MiB, and the kernel's build takes less.
const MAX_XZ_KIB: u32 = 128 << 10;

/// Why an initrd cannot be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// It is compressed in a way that is not read here.
    #[error("It is compressed with {0}; gzip, xz and zstd are read")]
    Unsupported(&'static str),
    /// It is damaged, or of no known kind.
    #[error("It is neither a cpio archive nor a compressed one")]
    Unknown,
    /// It does not unpack.
    #[error("It does not unpack as {kind}")]
    Damaged {
        /// The kind of compression.
        kind: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is too large.
    #[error("It unpacks to more than {MAX_BYTES} bytes")]
    TooLarge,
}

/// Magic numbers of what the kernel unpacks and is not read here.
const UNSUPPORTED: [(&[u8], &str); 5] = [
    (b"BZh", "bzip2"),
    (&[0x5d, 0, 0], "lzma"),
    (&[0x89, b'L', b'Z', b'O'], "lzo"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
];

/// What comes next in an initrd.
enum Kind {
    Cpio,
    Gzip,
    Xz,
    Zstd,
}

impl Kind {
    fn of(bytes: &[u8]) -> Result<Self, UnpackError> {
        if bytes.starts_with(b"07070") {
            return Ok(Self::Cpio);
        }
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Ok(Self::Gzip);
        }
        if bytes.starts_with(b"\xfd7zXZ\0") {
            return Ok(Self::Xz);
        }
        if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Ok(Self::Zstd);
        }
        let known = UNSUPPORTED
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic));
        Err(known.map_or(UnpackError::Unknown, |(_, name)| {
            UnpackError::Unsupported(name)
        }))
    }
}

/// The archives of `initrd` one behind the other, none of them compressed. `archive_bytes` tells how long the cpio archive is
/// that some bytes begin with.
///
/// # Errors
/// When a part of it cannot be unpacked.
pub fn unpack(
    initrd: &[u8],
    archive_bytes: impl Fn(&[u8]) -> io::Result<usize>,
) -> Result<Vec<u8>, UnpackError> {
    let mut unpacked = Vec::new();
    let mut rest = initrd;
    loop {
        // Zeros fill up to where the next one begins.
        let padding = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[padding..];
        if rest.is_empty() {
            return Ok(unpacked);
        }
        match Kind::of(rest)? {
            Kind::Cpio => {
                let damaged = |source| UnpackError::Damaged {
                    kind: "cpio",
                    source,
                };
                let bytes = archive_bytes(rest).map_err(damaged)?;
                let (archive, behind) = rest.split_at_checked(bytes).ok_or(UnpackError::Unknown)?;
                take(archive, &mut unpacked, "cpio")?;
                rest = behind;
            }
            Kind::Gzip => {
                let mut decoder = flate2::bufread::GzDecoder::new(rest);
                take(&mut decoder, &mut unpacked, "gzip")?;
                rest = decoder.into_inner();
            }
            Kind::Xz => {
                let source = lzma_rust2::XzReader::new_mem_limit(rest, false, MAX_XZ_KIB);
                let mut decoder = source;
                take(&mut decoder, &mut unpacked, "xz")?;
                rest = decoder.into_inner();
            }
            Kind::Zstd => {
                let damaged =
                    |error: ruzstd::decoding::errors::FrameDecoderError| UnpackError::Damaged {
                        kind: "zstd",
                        source: io::Error::other(error),
                    };
                let decoder = ruzstd::decoding::StreamingDecoder::new(&mut rest);
                take(decoder.map_err(damaged)?, &mut unpacked, "zstd")?;
            }
        }
    }
}

/// Appends all of `from`, a part of this kind, within the bound.
fn take(from: impl Read, into: &mut Vec<u8>, kind: &'static str) -> Result<(), UnpackError> {
    let left = MAX_BYTES.saturating_sub(into.len() as u64);
    let mut limited = io::BufReader::new(from.take(left.saturating_add(1)));
    let damaged = |source| UnpackError::Damaged { kind, source };
    loop {
        let bytes = limited.fill_buf().map_err(damaged)?;
        if bytes.is_empty() {
            break;
        }
        let count = bytes.len();
        into.extend_from_slice(bytes);
        limited.consume(count);
    }
    if into.len() as u64 > MAX_BYTES {
        return Err(UnpackError::TooLarge);
    }
    Ok(())
}
