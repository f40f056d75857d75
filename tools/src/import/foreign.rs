//! Reads a sample file of another machine, by the layout that its abi file tells.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use oprofile_session::sample_file::{Header, MAGIC, MAX_DISTINCT_KEYS, SampleFile, VERSION};

use super::abi::{Abi, AbiError};

/// Why a file cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The file cannot be read.
    #[error("cannot read the sample file")]
    Io(#[source] io::Error),
    /// The file ends before what it claims to hold.
    #[error(
        "the file ends within its {what}: it is cut off, or of another layout than the abi tells"
    )]
    TooShort {
        /// Which part is not complete.
        what: &'static str,
    },
    /// The file does not begin as sample files do.
    #[error("Invalid sample file, bad magic number")]
    BadMagic,
    /// The abi file tells no usable layout.
    #[error(transparent)]
    Abi(#[from] AbiError),
    /// A field of the layout does not lie within its record.
    #[error("ABI key {key} lies outside of its record")]
    Outside {
        /// The entry of the abi file.
        key: &'static str,
    },
    /// A number does not fit the field of this machine's sample files.
    #[error("{key} is {value:#x}, which no sample file of this machine can hold")]
    TooLarge {
        /// The entry of the abi file.
        key: &'static str,
        /// The number.
        value: u64,
    },
    /// More than [`MAX_DISTINCT_KEYS`] keys.
    #[error("the file holds more than {MAX_DISTINCT_KEYS} addresses")]
    TooManyKeys,
    /// What is read cannot be told.
    #[error("cannot write the fields that are read")]
    Trace(#[source] io::Error),
}

/// A record of the file and where it began.
struct Record {
    bytes: Vec<u8>,
    start: u64,
}

/// Reads fields out of records.
struct Fields<'a> {
    abi: &'a Abi,
    little_endian: bool,
    /// Told every field, as `opimport -V` shows it.
    trace: Option<&'a mut (dyn Write + 'a)>,
}

impl Fields<'_> {
    /// The number at the offset and of the width that these entries of the abi file tell.
    fn number(
        &mut self,
        record: &Record,
        offset_key: &'static str,
        width_key: &'static str,
    ) -> Result<u64, ForeignError> {
        let width = self.abi.width(width_key)?;
        let offset = self.abi.get(offset_key)?;
        let bytes = record
            .bytes
            .get(offset..offset + width)
            .ok_or(ForeignError::Outside { key: offset_key })?;
        let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let value = if self.little_endian {
            bytes.iter().rev().fold(0, join)
        } else {
            bytes.iter().fold(0, join)
        };
        if let Some(trace) = &mut self.trace {
            let at = record.start + offset as u64;
            writeln!(
                trace,
                "get {width_key} = {width} bytes @ {offset_key} = {at:x} :  = {value}"
            )
            .map_err(ForeignError::Trace)?;
        }
        Ok(value)
    }

    /// A number that has to fit into 32 bits.
    fn word(&mut self, record: &Record, offset_key: &'static str) -> Result<u32, ForeignError> {
        let value = self.number(record, offset_key, "sizeof_u32")?;
        u32::try_from(value).map_err(|_| ForeignError::TooLarge {
            key: offset_key,
            value,
        })
    }

    /// The header; its speed becomes 0, as OProfile leaves it.
    fn header(&mut self, record: &Record) -> Result<Header, ForeignError> {
        let offset = self.abi.get("offsetof_header_magic")?;
        if record.bytes.get(offset..offset + MAGIC.len()) != Some(&MAGIC) {
            return Err(ForeignError::BadMagic);
        }
        let version = self.word(record, "offsetof_header_version")?;
        let cpu_type = self.word(record, "offsetof_header_cpu_type")?;
        let ctr_event = self.word(record, "offsetof_header_ctr_event")?;
        let ctr_um = self.word(record, "offsetof_header_ctr_um")?;
        let ctr_count = self.word(record, "offsetof_header_ctr_count")?;
        let is_kernel = self.word(record, "offsetof_header_is_kernel")?;
        let mtime = self.number(record, "offsetof_header_mtime", "sizeof_u64")?;
        let cg_to_is_kernel = self.word(record, "offsetof_header_cg_to_is_kernel")?;
        // OProfile reads 32 bits of these two and loses every address above 4 GiB.
        let anon_start = self.number(record, "offsetof_header_anon_start", "sizeof_u64")?;
        let cg_to_anon_start =
            self.number(record, "offsetof_header_cg_to_anon_start", "sizeof_u64")?;
        Ok(Header {
            version,
            cpu_type,
            ctr_event,
            is_kernel,
            cg_to_is_kernel,
            anon_start,
            cg_to_anon_start,
            ..Header::timer(ctr_count, ctr_um, mtime)
        })
    }
}

/// Reads a sample file of the layout `abi` from `reader`. Each field that is read is told to `trace`.
///
/// Nothing in the file is trusted: memory is bounded by [`MAX_DISTINCT_KEYS`], time by the length of the file.
///
/// # Errors
/// When the file is cut off, no sample file, or does not fit `abi`.
pub fn read<'a>(
    mut reader: impl Read,
    abi: &'a Abi,
    trace: Option<&'a mut (dyn Write + 'a)>,
) -> Result<SampleFile, ForeignError> {
    let mut fields = Fields {
        abi,
        little_endian: abi.is_little_endian()?,
        trace,
    };
    if let Some(trace) = &mut fields.trace {
        let order = if fields.little_endian {
            "little"
        } else {
            "big"
        };
        writeln!(trace, "source byte order is: {order} endian").map_err(ForeignError::Trace)?;
    }
    let mut position = 0;
    let mut next = |size: usize, what| {
        let mut bytes = vec![0; size];
        reader
            .read_exact(&mut bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ForeignError::TooShort { what },
                _ => ForeignError::Io(error),
            })?;
        let record = Record {
            bytes,
            start: position,
        };
        position += size as u64;
        Ok::<_, ForeignError>(record)
    };
    let header = next(abi.get("sizeof_struct_opd_header")?, "header")?;
    let header = fields.header(&header)?;
    let descriptor = next(abi.get("sizeof_odb_descr_t")?, "descriptor")?;
    let used = fields.number(
        &descriptor,
        "offsetof_descr_current_size",
        "sizeof_odb_node_nr_t",
    )?;
    let node_size = match abi.get("sizeof_odb_node_t")? {
        // Without a length, a few bytes could claim any number of nodes.
        0 => {
            return Err(ForeignError::Outside {
                key: "sizeof_odb_node_t",
            });
        }
        size => size,
    };
    if let Some(trace) = &mut fields.trace {
        writeln!(trace, "extracting {used} nodes of {node_size} bytes each ")
            .map_err(ForeignError::Trace)?;
    }
    let mut counts = BTreeMap::new();
    for index in 0..used {
        let node = next(node_size, "nodes")?;
        // Node 0 is never used.
        if index == 0 {
            continue;
        }
        let key = fields.number(&node, "offsetof_node_key", "sizeof_odb_key_t")?;
        let value = fields.number(&node, "offsetof_node_value", "sizeof_odb_value_t")?;
        let count: &mut u64 = counts.entry(key).or_default();
        *count = count.saturating_add(value);
        if counts.len() > MAX_DISTINCT_KEYS {
            return Err(ForeignError::TooManyKeys);
        }
    }
    Ok(SampleFile { header, counts })
}

/// Whether report tools of this machine take files with this header.
pub fn is_readable_version(header: &Header) -> bool {
    header.version == VERSION
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A machine with 32-bit words, big end first, and records of its own shape.
    const STRANGE: &str = "\
sizeof_double 8\nsizeof_u64 8\nsizeof_u32 4\nsizeof_odb_key_t 8\nsizeof_odb_value_t 4\n\
sizeof_odb_node_nr_t 4\nsizeof_odb_descr_t 12\nsizeof_odb_node_t 20\nsizeof_struct_opd_header 64\n\
offsetof_node_key 4\noffsetof_node_value 12\noffsetof_descr_size 4\noffsetof_descr_current_size 8\n\
offsetof_header_magic 0\noffsetof_header_version 4\noffsetof_header_cpu_type 8\n\
offsetof_header_ctr_event 12\noffsetof_header_ctr_um 16\noffsetof_header_ctr_count 20\n\
offsetof_header_is_kernel 24\noffsetof_header_cpu_speed 28\noffsetof_header_mtime 36\n\
offsetof_header_cg_to_is_kernel 44\noffsetof_header_anon_start 48\noffsetof_header_cg_to_anon_start 56\n\
little_endian 0\n";

    fn strange() -> Abi {
        Abi::parse(STRANGE.as_bytes()).unwrap()
    }

    fn file(used: u32, nodes: &[(u64, u32)]) -> Vec<u8> {
        let mut bytes = b"DAE\n".to_vec();
        for word in [0x13u32, 57, 60, 1, 100_000, 1] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(2400f64.to_be_bytes());
        bytes.extend(1_234_567_890u64.to_be_bytes());
        bytes.extend(1u32.to_be_bytes());
        bytes.extend(0x7f00_0000_1000u64.to_be_bytes());
        bytes.extend(0x7f00_0000_2000u64.to_be_bytes());
        for word in [0, 128, used] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend([0xee; 20]);
        for (key, value) in nodes {
            bytes.extend([0xaa; 4]);
            bytes.extend(key.to_be_bytes());
            bytes.extend(value.to_be_bytes());
            bytes.extend([0xbb; 4]);
        }
        bytes
    }

    #[test]
    fn every_field_is_converted() {
        let bytes = file(4, &[(5, 7), (1 << 40, 9), (5, u32::MAX)]);
        let read = read(&bytes[..], &strange(), None).unwrap();
        let expected = Header {
            cpu_type: 57,
            ctr_event: 60,
            is_kernel: 1,
            cg_to_is_kernel: 1,
            anon_start: 0x7f00_0000_1000,
            cg_to_anon_start: 0x7f00_0000_2000,
            ..Header::timer(100_000, 1, 1_234_567_890)
        };
        assert_eq!(read.header, expected);
        let counts = [(5, u64::from(u32::MAX) + 7), (1 << 40, 9)];
        assert_eq!(read.counts, BTreeMap::from(counts));
    }

    #[test]
    fn fields_are_told_with_their_place_in_the_file() {
        let mut told = Vec::new();
        read(&file(2, &[(5, 7)])[..], &strange(), Some(&mut told)).unwrap();
        let told = String::from_utf8(told).unwrap();
        for line in [
            "source byte order is: big endian",
            "get sizeof_u32 = 4 bytes @ offsetof_header_version = 4 :  = 19",
            "extracting 2 nodes of 20 bytes each ",
            "get sizeof_odb_value_t = 4 bytes @ offsetof_node_value = 6c :  = 7",
        ] {
            assert!(told.lines().any(|found| found == line), "{line}\n{told}");
        }
    }

    #[test]
    fn cut_and_foreign_files_are_refused() {
        let good = file(3, &[(5, 7), (6, 8)]);
        for (length, part) in [
            (0, "header"),
            (63, "header"),
            (70, "descriptor"),
            (100, "nodes"),
        ] {
            let error = read(&good[..length], &strange(), None).unwrap_err();
            assert!(
                matches!(error, ForeignError::TooShort { what } if what == part),
                "{length}: {error}"
            );
        }
        assert!(matches!(
            read(&b"nothing to see here".repeat(20)[..], &strange(), None),
            Err(ForeignError::BadMagic)
        ));
        let claims = file(u32::MAX, &[(5, 7)]);
        assert!(matches!(
            read(&claims[..], &strange(), None),
            Err(ForeignError::TooShort { what: "nodes" })
        ));
    }

    #[test]
    fn layouts_that_contradict_themselves_are_refused() {
        for (entry, other) in [
            ("offsetof_node_key 4", "offsetof_node_key 13"),
            ("sizeof_odb_node_t 20", "sizeof_odb_node_t 0"),
            ("offsetof_header_mtime 36", "offsetof_header_mtime 4096"),
        ] {
            let abi = Abi::parse(STRANGE.replace(entry, other).as_bytes()).unwrap();
            let error = read(&file(2, &[(5, 7)])[..], &abi, None).unwrap_err();
            assert!(
                matches!(error, ForeignError::Outside { .. }),
                "{other}: {error}"
            );
        }
        let abi = Abi::parse(STRANGE.replace("sizeof_u32 4", "sizeof_u32 8").as_bytes()).unwrap();
        assert!(matches!(
            read(&file(2, &[(5, 7)])[..], &abi, None),
            Err(ForeignError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_file_and_no_layout_do_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            values in prop::collection::vec(0u64..80, 40),
        ) {
            let text: String = STRANGE
                .lines()
                .zip(values)
                .map(|(line, value)| {
                    let (name, old) = line.split_once(' ').unwrap();
                    // Half of them as they are, so that some files get far.
                    match value % 2 {
                        0 => format!("{name} {value}\n"),
                        _ => format!("{name} {old}\n"),
                    }
                })
                .collect();
            let mut file = file(8, &[]);
            file.extend(bytes);
            if let Ok(abi) = Abi::parse(text.as_bytes()) {
                let _ = read(&file[..], &abi, None);
            }
        }
    }
}
