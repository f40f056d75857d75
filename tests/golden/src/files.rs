//! Files that tools write, by what they hold.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::ZlibDecoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::run::Names;

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Content {
    /// Lines.
    Text {
        /// All of them.
        text: String,
    },
    /// An XML document.
    Xml {
        /// All of it.
        text: String,
    },
    /// A `gmon.out`.
    Gmon {
        /// Its bytes.
        #[serde(rename = "zb64", deserialize_with = "compressed")]
        bytes: Vec<u8>,
    },
    /// A sample file.
    Odb(SampleFile),
    /// Anything else.
    Bin {
        /// Length in bytes.
        size: usize,
        /// SHA-256 in hexadecimal digits.
        sha256: String,
    },
}

/// zlib, in base 64.
fn compressed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let packed = BASE64.decode(text).map_err(serde::de::Error::custom)?;
    let mut bytes = Vec::new();
    ZlibDecoder::new(&packed[..])
        .read_to_end(&mut bytes)
        .map_err(serde::de::Error::custom)?;
    Ok(bytes)
}

/// A sample file. It is read here and not by `oprofile-session`, which is what wrote it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields of the header, under their names")]
pub struct SampleFile {
    pub version: u32,
    pub cpu_type: u32,
    pub ctr_event: u32,
    pub ctr_um: u32,
    pub ctr_count: u32,
    pub is_kernel: u32,
    pub cpu_speed: f64,
    pub mtime: u64,
    pub cg_to_is_kernel: u32,
    pub anon_start: u64,
    pub cg_to_anon_start: u64,
    /// Whether the length is that of the number of nodes.
    pub length_ok: bool,
    /// Keys in hexadecimal digits and their counts, summed, in order of key.
    pub entries: Vec<(String, u64)>,
}

const NODES: usize = 104;
const NODE: usize = 16;

impl SampleFile {
    /// Nothing when it is too short for what it claims.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let size = u32_at(bytes, 72)? as usize;
        let used = u32_at(bytes, 76)? as usize;
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for node in 1..used {
            let at = NODES + NODE * node;
            u32_at(bytes, at + 12)?;
            *counts.entry(u64_at(bytes, at)?).or_default() += u64::from(u32_at(bytes, at + 8)?);
        }
        Some(Self {
            version: u32_at(bytes, 4)?,
            cpu_type: u32_at(bytes, 8)?,
            ctr_event: u32_at(bytes, 12)?,
            ctr_um: u32_at(bytes, 16)?,
            ctr_count: u32_at(bytes, 20)?,
            is_kernel: u32_at(bytes, 24)?,
            cpu_speed: f64::from_bits(u64_at(bytes, 32)?),
            mtime: u64_at(bytes, 40)?,
            cg_to_is_kernel: u32_at(bytes, 48)?,
            anon_start: u64_at(bytes, 56)?,
            cg_to_anon_start: u64_at(bytes, 64)?,
            length_ok: bytes.len() == NODES + (NODE + 4) * size,
            entries: counts
                .into_iter()
                .map(|(key, count)| (format!("{key:x}"), count))
                .collect(),
        })
    }

    /// One field or entry a line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// The records of a `gmon.out`, version 1, in an order of their own; nothing when it is not complete.
///
/// Addresses have 8 bytes, or 4 where a 32-bit program was profiled, which only the lengths tell.
#[must_use]
pub fn gmon_records(bytes: &[u8]) -> Option<Vec<String>> {
    gmon_records_of(bytes, 8).or_else(|| gmon_records_of(bytes, 4))
}

fn gmon_records_of(bytes: &[u8], width: usize) -> Option<Vec<String>> {
    let address = |at| match width {
        8 => u64_at(bytes, at),
        _ => u32_at(bytes, at).map(u64::from),
    };
    let mut records = vec![format!("version {}", u32_at(bytes, 4)?)];
    let mut at = 20;
    while let Some(tag) = bytes.get(at) {
        at += 1;
        match tag {
            0 => {
                let (low, high) = (address(at)?, address(at + width)?);
                at += 2 * width;
                let (bins, rate) = (u32_at(bytes, at)? as usize, u32_at(bytes, at + 4)?);
                let unit = bytes.get(at + 8..at + 24)?;
                at += 24;
                let counts = bytes.get(at..at.checked_add(bins.checked_mul(2)?)?)?;
                at += 2 * bins;
                if high < low {
                    return None;
                }
                let mut record = format!(
                    "histogram {low:x}..{high:x}: {bins} bins, {rate} Hz, {:?}",
                    String::from_utf8_lossy(unit)
                );
                for (bin, count) in counts.chunks_exact(2).enumerate() {
                    if count != [0, 0] {
                        let count = u16::from_le_bytes([count[0], count[1]]);
                        record.push_str(&format!(" [{bin}]={count}"));
                    }
                }
                records.push(record);
            }
            1 => {
                let (from, to) = (address(at)?, address(at + width)?);
                let count = u32_at(bytes, at + 2 * width)?;
                at += 2 * width + 4;
                records.push(format!("arc {from:x} -> {to:x}: {count}"));
            }
            _ => return None,
        }
    }
    records[1..].sort();
    Some(records)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What `bytes` are.
fn describe(bytes: Vec<u8>, names: &Names) -> Content {
    if bytes.starts_with(b"gmon") {
        return Content::Gmon { bytes };
    }
    if bytes.starts_with(b"DAE\n")
        && let Some(file) = SampleFile::parse(&bytes)
    {
        return Content::Odb(file);
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => {
            let is_xml = text.starts_with("<?xml");
            let text = names.remove(&text);
            match is_xml {
                true => Content::Xml { text },
                false => Content::Text { text },
            }
        }
        other => {
            let bytes = other.map_or_else(|error| error.into_bytes(), String::into_bytes);
            Content::Bin {
                size: bytes.len(),
                sha256: sha256(&bytes),
            }
        }
    }
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files below `folder`, links left out.
pub(crate) fn written(folder: &Path, names: &Names) -> Result<BTreeMap<String, Content>, Error> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).map_err(Error::io(&directory))? {
            let entry = entry.map_err(Error::io(&directory))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::io(&path))?;
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() {
                let below = path.strip_prefix(folder).unwrap_or(&path);
                let name = names.file(&below.to_string_lossy());
                let bytes = fs::read(&path).map_err(Error::io(&path))?;
                found.insert(name, describe(bytes, names));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_session::sample_file::{Header, encode};

    fn gmon(width: usize, arcs: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut bytes = b"gmon".to_vec();
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend([0; 12]);
        let address = |value: u64| value.to_le_bytes()[..width].to_vec();
        bytes.push(0);
        bytes.extend([address(0x1000), address(0x1010)].concat());
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(b"samples\0\0\0\0\0\0\0\0s");
        bytes.extend([0, 0, 7, 0]);
        for &(from, to, count) in arcs {
            bytes.push(1);
            bytes.extend([address(from), address(to)].concat());
            bytes.extend(count.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn profiles_of_both_widths_are_read_and_their_order_does_not_count() {
        for width in [4, 8] {
            let one = gmon_records(&gmon(width, &[(1, 2, 3), (4, 5, 6)])).unwrap();
            assert_eq!(
                gmon_records(&gmon(width, &[(4, 5, 6), (1, 2, 3)])),
                Some(one.clone())
            );
            assert_ne!(
                gmon_records(&gmon(width, &[(4, 5, 7), (1, 2, 3)])),
                Some(one.clone())
            );
            assert!(
                one.iter().any(|record| record.ends_with("[1]=7")),
                "{one:?}"
            );
        }
        let bytes = gmon(8, &[(1, 2, 3)]);
        assert_eq!(gmon_records(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn sample_files_are_read_without_the_library_that_writes_them() {
        let bytes = encode(&Header::timer(7, 8, 9), [(0x40, 2), (0x10, 1)].into_iter());
        let file = SampleFile::parse(&bytes).unwrap();
        assert_eq!((file.version, file.ctr_count, file.ctr_um), (0x13, 7, 8));
        assert_eq!((file.mtime, file.length_ok), (9, true));
        assert_eq!(file.entries, [("10".to_owned(), 1), ("40".to_owned(), 2)]);
        assert!(
            !SampleFile::parse(&bytes[..bytes.len() - 4])
                .unwrap()
                .length_ok
        );
        assert!(SampleFile::parse(&bytes[..130]).is_none());
    }
}
