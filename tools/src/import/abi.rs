//! The `abi` file of a session: sizes and offsets of everything in a sample file, as the machine that wrote it had them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Longest abi file in bytes. OProfile's has 32 lines of less than 40 bytes.
const MAX_TEXT: u64 = 64 * 1024;
/// Largest size and offset believed, in bytes: no machine has a header or node of a page.
const MAX_VALUE: u64 = 4096;

/// The layout of this machine's sample files, as OProfile's tools write it into a session.
const NATIVE: [(&str, u64); 31] = [
    ("sizeof_double", 8),
    ("sizeof_u64", 8),
    ("sizeof_u8", 1),
    ("sizeof_u32", 4),
    ("sizeof_int", 4),
    ("sizeof_unsigned_int", 4),
    ("sizeof_odb_key_t", 8),
    ("sizeof_odb_index_t", 4),
    ("sizeof_odb_value_t", 4),
    ("sizeof_odb_node_nr_t", 4),
    ("sizeof_odb_descr_t", 32),
    ("sizeof_odb_node_t", 16),
    ("sizeof_struct_opd_header", 72),
    ("offsetof_node_key", 0),
    ("offsetof_node_value", 8),
    ("offsetof_node_next", 12),
    ("offsetof_descr_size", 0),
    ("offsetof_descr_current_size", 4),
    ("offsetof_header_magic", 0),
    ("offsetof_header_version", 4),
    ("offsetof_header_cpu_type", 8),
    ("offsetof_header_ctr_event", 12),
    ("offsetof_header_ctr_um", 16),
    ("offsetof_header_ctr_count", 20),
    ("offsetof_header_is_kernel", 24),
    ("offsetof_header_cpu_speed", 32),
    ("offsetof_header_mtime", 40),
    ("offsetof_header_cg_to_is_kernel", 48),
    ("offsetof_header_anon_start", 56),
    ("offsetof_header_cg_to_anon_start", 64),
    ("little_endian", cfg!(target_endian = "little") as u64),
];

/// Why an abi file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AbiError {
    /// The file cannot be read.
    #[error("cannot read the abi file")]
    Io(#[from] io::Error),
    /// The file is longer than any abi file.
    #[error("an abi file has at most {MAX_TEXT} bytes")]
    TooLong,
    /// A line is not `name value`.
    #[error("line {line} is not 'name value' with a value up to {MAX_VALUE}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
    },
    /// An entry that is needed is not there.
    #[error("missing ABI key: {0}")]
    Missing(&'static str),
    /// An entry has a value that no layout can have.
    #[error("ABI key {key} cannot be {value}")]
    Value {
        /// The entry.
        key: &'static str,
        /// Its value.
        value: u64,
    },
}

/// The entries of an abi file, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abi {
    entries: BTreeMap<String, u64>,
}

impl Abi {
    /// The layout of this machine.
    pub fn native() -> Self {
        let entries = NATIVE.map(|(name, value)| (name.to_owned(), value));
        Self {
            entries: BTreeMap::from(entries),
        }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or [`Abi::parse`] refuses it.
    pub fn read(path: &Path) -> Result<Self, AbiError> {
        Self::from_file(File::open(path)?)
    }

    /// Reads an open file.
    ///
    /// # Errors
    /// As [`Abi::read`].
    pub fn from_file(file: File) -> Result<Self, AbiError> {
        let mut bytes = Vec::new();
        file.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_TEXT {
            return Err(AbiError::TooLong);
        }
        Self::parse(&bytes)
    }

    /// Reads lines of `name value`. Of a name that is there twice, the last one counts.
    ///
    /// # Errors
    /// When a line has another form.
    pub fn parse(text: &[u8]) -> Result<Self, AbiError> {
        let mut entries = BTreeMap::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let error = AbiError::Line { line: index + 1 };
            let Ok(line) = std::str::from_utf8(line) else {
                return Err(error);
            };
            let mut words = line.split_ascii_whitespace();
            let (name, value) = match (words.next(), words.next(), words.next()) {
                (None, _, _) => continue,
                (Some(name), Some(value), None) => (name, value),
                _ => return Err(error),
            };
            match value.parse() {
                Ok(value @ 0..=MAX_VALUE) => entries.insert(name.to_owned(), value),
                _ => return Err(error),
            };
        }
        Ok(Self { entries })
    }

    /// Whether files of this layout can be read here as they are.
    pub fn is_native(&self) -> bool {
        *self == Self::native()
    }

    /// The value of an entry.
    ///
    /// # Errors
    /// When it is missing.
    pub fn get(&self, key: &'static str) -> Result<usize, AbiError> {
        let value = self.entries.get(key).ok_or(AbiError::Missing(key))?;
        // Not above MAX_VALUE, so it fits everywhere.
        usize::try_from(*value).map_err(|_| AbiError::Value { key, value: *value })
    }

    /// The value of an entry that is the size of a number: 1 to 8 bytes.
    ///
    /// # Errors
    /// When it is missing or no such size.
    pub fn width(&self, key: &'static str) -> Result<usize, AbiError> {
        match self.get(key)? {
            width @ 1..=8 => Ok(width),
            other => Err(AbiError::Value {
                key,
                value: other as u64,
            }),
        }
    }

    /// Whether the first byte of a number is its lowest.
    ///
    /// # Errors
    /// When `little_endian` is missing or neither 0 nor 1.
    pub fn is_little_endian(&self) -> Result<bool, AbiError> {
        match self.get("little_endian")? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(AbiError::Value {
                key: "little_endian",
                value: other as u64,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_layout_survives_its_text() {
        let text: String = NATIVE
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"))
            .collect();
        assert!(Abi::parse(text.as_bytes()).unwrap().is_native());
        let other = text.replace("offsetof_header_mtime 40", "offsetof_header_mtime 36");
        assert!(!Abi::parse(other.as_bytes()).unwrap().is_native());
    }

    #[test]
    fn lines_of_another_form_are_refused_by_number() {
        for text in [
            "a 1\nsizeof_double eight\n",
            "a 1\nb\n",
            "a 1\nb 1 2\n",
            "a 1\nb -1\n",
            "a 1\nb 4097\n",
            "a 1\nb 99999999999999999999\n",
        ] {
            let error = Abi::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, AbiError::Line { line: 2 }), "{text}");
        }
        assert!(matches!(
            Abi::parse(b"\xff 1\n"),
            Err(AbiError::Line { line: 1 })
        ));
    }

    #[test]
    fn missing_and_impossible_entries_are_named() {
        let abi = Abi::parse(b"sizeof_u32 9\nlittle_endian 2\n").unwrap();
        assert!(matches!(
            abi.get("sizeof_u64"),
            Err(AbiError::Missing("sizeof_u64"))
        ));
        assert!(matches!(
            abi.width("sizeof_u32"),
            Err(AbiError::Value { value: 9, .. })
        ));
        assert!(matches!(
            abi.is_little_endian(),
            Err(AbiError::Value { value: 2, .. })
        ));
    }
}
