//! Build-ids: the start of an ELF file as a process has it mapped, whole, cut, damaged, or with parts that are not in memory.
//!
//! What is found is compared with what the session's reader, which is another one, finds in the whole file.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_device::guest::build_id::{self, Image};
use oprofile_device::test_utils::elf_with_build_id;
use oprofile_session::BuildId;

/// Most reads that a file may cost: its header, its program headers, eight segments of notes.
const MAX_READS: usize = 10;

/// Number of program headers that says it is elsewhere; only the session's reader looks there.
const COUNT_IS_ELSEWHERE: [u8; 2] = [0xff; 2];

#[derive(Arbitrary, Debug)]
struct Input {
    is_wide: bool,
    is_aligned_to_8: bool,
    build_id: Vec<u8>,
    /// Where, mostly in the headers, and what.
    damage: Vec<(u16, u8)>,
    behind: Vec<u8>,
    cut: Option<u16>,
    /// First byte and number of bytes that are not in memory.
    absent: Option<(u16, u16)>,
}

/// A file that is mapped from its start.
struct Mapped<'a> {
    bytes: &'a [u8],
    absent: Option<(u16, u16)>,
    reads: usize,
}

/// A part is not in memory.
struct Absent;

impl Image for Mapped<'_> {
    type Error = Absent;

    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Absent> {
        self.reads += 1;
        let start = usize::try_from(offset).unwrap();
        let end = start + into.len();
        into.copy_from_slice(&self.bytes[start..end]);
        let is_absent = self.absent.is_some_and(|(from, count)| {
            let (from, count) = (usize::from(from), usize::from(count));
            start < from + count && from < end
        });
        if is_absent { Err(Absent) } else { Ok(()) }
    }
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let alignment = if input.is_aligned_to_8 { 8 } else { 4 };
    let mut file = elf_with_build_id(input.is_wide, alignment, &input.build_id);
    file.extend_from_slice(&input.behind);
    for (at, byte) in &input.damage {
        let at = usize::from(*at) % file.len();
        file[at] = *byte;
    }
    let is_of_other_class = file[4] != if input.is_wide { 2 } else { 1 };
    if let Some(cut) = input.cut {
        file.truncate(cut.into());
    }
    let mut image = Mapped {
        bytes: &file,
        absent: input.absent,
        reads: 0,
    };
    let found = build_id::find(&mut image);
    assert!(image.reads <= MAX_READS, "{} reads", image.reads);
    let count = if input.is_wide { 56..58 } else { 44..46 };
    if let Ok(Some(id)) = found
        && file.get(count) != Some(&COUNT_IS_ELSEWHERE[..])
        && !is_of_other_class
    {
        let session = BuildId::of_elf(&file);
        assert_eq!(session.as_ref().map(BuildId::as_bytes), Some(id.as_bytes()));
    }
}
