//! Page tables and kernel pointers: any tables, any root, any address.
//!
//! The walk is compared with a second one that is written for clarity only; what is remembered and the linear map with plain
//! walks.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_device::guest::memory::Ram;
use oprofile_device::guest::paging::{self, Levels, Translation};
use oprofile_device::guest::space::{Description, KernelSpace, ObjectError};
use oprofile_device::guest::translator::Translator;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::ram::{ACCESSES_PER_READ, WatchedRam};

/// RAM: tables and pages below the hole, another page behind it.
const LOW_PAGES: u64 = 8;
const HIGH_START: u64 = 0xa000;
const HIGH_PAGES: u64 = 2;
const PAGE: u64 = 0x1000;

/// Entries that addresses lead to; the others of a table stay empty. 256 begins the kernel's half.
const INDICES: [u64; 6] = [0, 1, 255, 256, 510, 511];

/// Where user space ends.
const USER_END: u64 = 0x0000_8000_0000_0000;

/// Work for one read: more than any of them may take.
const WORK: u32 = 10_000;

#[derive(Arbitrary, Debug)]
struct Input {
    five_levels: bool,
    root: Entry,
    tables: Vec<(u8, Slot, Entry)>,
    linear_base: Option<Gva>,
    questions: Vec<Question>,
}

/// Which entry of a table.
#[derive(Arbitrary, Debug)]
struct Slot(u8);

impl Slot {
    const fn index(&self) -> u64 {
        INDICES[self.0 as usize % INDICES.len()]
    }
}

/// What an entry says.
#[derive(Arbitrary, Debug)]
enum Entry {
    /// A table or page of this RAM, with these low bits besides present.
    Page(u8, u8),
    Raw(u64),
}

impl Entry {
    fn word(&self) -> u64 {
        match *self {
            Self::Page(page, flags) => (u64::from(page) % 14 * PAGE) | u64::from(flags) | 1,
            Self::Raw(word) => word,
        }
    }
}

/// An address, mostly one that leads through entries that are there.
#[derive(Arbitrary, Debug)]
enum Gva {
    Path([Slot; 5], u16),
    Raw(u64),
}

impl Gva {
    fn address(&self, levels: Levels) -> u64 {
        match self {
            Self::Path(slots, offset) => {
                let low = u64::from(*offset) & 0xfff;
                let address = slots
                    .iter()
                    .fold(0, |address, slot| address << 9 | slot.index());
                let address = address << 12 | low;
                // Sign-extended, so that it is canonical.
                let unused = if levels == Levels::Five { 7 } else { 16 };
                ((address << unused).cast_signed() >> unused).cast_unsigned()
            }
            Self::Raw(address) => *address,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Question {
    Translate(Gva),
    /// Also from RAM of which the regions are remembered.
    Read(Gva, u16, bool),
    Kernel(Gva, u16),
    Field(Gva, u32, bool),
    Prove(Gva),
    Flush,
    Change(u8, Slot, Entry),
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) {
        answer(&input);
    }
}

fn answer(input: &Input) {
    let ranges = [
        (GuestAddress(0), (LOW_PAGES * PAGE) as usize),
        (GuestAddress(HIGH_START), (HIGH_PAGES * PAGE) as usize),
    ];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let levels = match input.five_levels {
        true => Levels::Five,
        false => Levels::Four,
    };
    let root = input.root.word();
    for (table, slot, entry) in &input.tables {
        set(&memory, *table, slot, entry);
    }
    let mut space = KernelSpace::new(Description {
        root,
        levels,
        linear_base: input
            .linear_base
            .as_ref()
            .map_or(0, |base| base.address(levels) & !0xfff),
        kernel_start: 0xffff_ffff_8000_0000,
        kernel_end: 0xffff_ffff_8000_1000,
        user_end: USER_END,
    });
    let mut translator = Translator::new(levels);
    let watched = WatchedRam::new(&memory);
    let mut plain = Ram::new(&memory, 0);
    let mut stale = false;
    for question in &input.questions {
        let mut ram = Ram::new(&watched, WORK);
        plain.set_work(WORK);
        match question {
            Question::Translate(gva) => {
                let gva = gva.address(levels);
                let (found, accesses) =
                    watched.count(|| paging::translate(&mut ram, levels, root, gva));
                assert!(accesses <= 5 * ACCESSES_PER_READ && ram.work_left() >= WORK - 5);
                assert_eq!(found, paging::translate(&mut plain, levels, root, gva));
                assert_eq!(found.ok(), walk(&memory, levels, root, gva), "{gva:#x}");
                if let Ok(found) = found {
                    assert_eq!(found.gpa % found.page_bytes, gva % found.page_bytes);
                    assert!((1..=found.page_bytes).contains(&found.bytes_left()));
                }
            }
            Question::Read(gva, bytes, through_plain) => {
                let gva = gva.address(levels);
                let mut read = vec![0xee; usize::from(bytes % 9_000)];
                let found = translator.translate(&mut ram, root, gva);
                let result = match through_plain {
                    true => translator.read(&mut plain, root, gva, &mut read),
                    false => translator.read(&mut ram, root, gva, &mut read),
                };
                let together = [0, 1, 512].map(|pages| gva.wrapping_add(pages * PAGE));
                let mut all = together.map(|_| found);
                translator.translate_all(&mut plain, root, &together, &mut all);
                let each = together.map(|gva| translator.translate(&mut plain, root, gva));
                assert_eq!(all, each, "{gva:#x}");
                if !stale {
                    assert_eq!(found.ok(), walk(&memory, levels, root, gva), "{gva:#x}");
                    for (gva, found) in together.into_iter().zip(all) {
                        assert_eq!(found.ok(), walk(&memory, levels, root, gva), "{gva:#x}");
                    }
                    let expected = read_bytes(&memory, levels, root, gva, read.len());
                    assert_eq!(result.is_ok(), expected.is_some(), "{gva:#x}: {result:?}");
                    if let Some(expected) = expected {
                        assert_eq!(read, expected);
                    }
                }
            }
            Question::Kernel(gva, bytes) => {
                let gva = gva.address(levels);
                let mut read = vec![0xee; usize::from(bytes % 9_000)];
                let result = space.read(&mut ram, gva, &mut read);
                if gva < USER_END {
                    assert_eq!(result, Err(ObjectError::NotKernel(gva)));
                }
                // With a linear map or a TLB that may be old, the answer may be another one.
                if space.linear_base().is_none() && !stale && gva >= USER_END {
                    let expected = read_bytes(&memory, levels, root, gva, read.len());
                    // The last byte of the address space is never read.
                    let wraps = gva.checked_add(read.len() as u64).is_none();
                    assert_eq!(
                        result.is_ok(),
                        expected.is_some() && !wraps,
                        "{gva:#x}: {result:?}"
                    );
                    if let Some(expected) = expected.filter(|_| !wraps) {
                        assert_eq!(read, expected);
                    }
                }
            }
            Question::Field(gva, offset, wide) => {
                let object = gva.address(levels);
                let offset = offset % 0x1_0000;
                let mut bytes = [0; 8];
                let whole = object
                    .checked_add(u64::from(offset))
                    .filter(|_| object >= USER_END)
                    .ok_or(ObjectError::NotKernel(object));
                let read = match wide {
                    true => space.read_u64(&mut ram, object, offset),
                    false => space.read_u32(&mut ram, object, offset).map(u64::from),
                };
                let size = if *wide { 8 } else { 4 };
                let again = whole.and_then(|at| space.read(&mut ram, at, &mut bytes[..size]));
                // Errors name the object or the field, as it happens.
                let again = again.map(|()| u64::from_le_bytes(bytes));
                assert_eq!(read.ok(), again.ok(), "{read:?}");
            }
            Question::Prove(gva) => {
                let (_, accesses) =
                    watched.count(|| space.prove_linear(&mut ram, gva.address(levels)));
                assert!(
                    accesses <= 4 * 5 * ACCESSES_PER_READ,
                    "{accesses} accesses for one proof"
                );
            }
            Question::Flush => {
                space.flush();
                translator.flush();
                stale = false;
            }
            Question::Change(table, slot, entry) => {
                set(&memory, *table, slot, entry);
                stale = true;
            }
        }
        // A read of 9,000 bytes crosses three pages: as many walks, and pieces.
        assert!(ram.work_left() >= WORK - 2 * (4 * 6 + 9_000 / 256 + 3));
    }
}

fn set(memory: &GuestMemoryMmap, table: u8, slot: &Slot, entry: &Entry) {
    let gpa = u64::from(table) % LOW_PAGES * PAGE + slot.index() * 8;
    memory
        .write_obj(entry.word().to_le(), GuestAddress(gpa))
        .unwrap();
}

/// The word at `gpa`, if all of it is RAM.
fn word(memory: &GuestMemoryMmap, gpa: u64) -> Option<u64> {
    memory.read_obj(GuestAddress(gpa)).ok().map(u64::from_le)
}

/// Intel SDM volume 3, figure 4-11 and its like, as they stand there; and no table twice.
fn walk(memory: &GuestMemoryMmap, levels: Levels, root: u64, gva: u64) -> Option<Translation> {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    let (top, bits) = match levels {
        Levels::Four => (4, 48),
        Levels::Five => (5, 57),
    };
    let high = gva >> (bits - 1);
    if high != 0 && high != u64::MAX >> (bits - 1) {
        return None;
    }
    let mut tables = vec![root & ADDRESS];
    for level in (1..=top).rev() {
        let table = *tables.last()?;
        let page_bits = 12 + 9 * (level - 1);
        let entry = word(memory, table + (gva >> page_bits) % 512 * 8)?;
        let (present, large) = (entry & 1 != 0, entry & 0x80 != 0);
        if !present || large && level > 3 {
            return None;
        }
        if level == 1 || large {
            let page_bytes = 1 << page_bits;
            return Some(Translation {
                gpa: (entry & ADDRESS) / page_bytes * page_bytes + gva % page_bytes,
                page_bytes,
            });
        }
        if tables.contains(&(entry & ADDRESS)) {
            return None;
        }
        tables.push(entry & ADDRESS);
    }
    None
}

/// Byte by byte, a walk for each small page.
fn read_bytes(
    memory: &GuestMemoryMmap,
    levels: Levels,
    root: u64,
    gva: u64,
    bytes: usize,
) -> Option<Vec<u8>> {
    let mut page = None;
    (0..bytes as u64)
        .map(|offset| {
            let gva = gva.wrapping_add(offset);
            if gva % PAGE == 0 || page.is_none() {
                page = Some(walk(memory, levels, root, gva)?.gpa - gva % PAGE);
            }
            memory.read_obj(GuestAddress(page? + gva % PAGE)).ok()
        })
        .collect()
}
