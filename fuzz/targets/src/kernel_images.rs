//! Kernel files: any bytes, and good images with changes. One that is accepted is loaded as its headers say.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_vmm::acpi::Machine;
use oprofile_vmm::boot::{BootFiles, Entry, KernelImage, KernelKind, cmdline, map};
use oprofile_vmm::memory::{LOW_END, Layout};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// A sector, the unit of a kernel image's real-mode code.
const SECTOR: usize = 512;
/// Sizes of an ELF file's headers.
const ELF_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// `PT_LOAD` and `PT_NOTE`.
const LOAD: u32 = 1;
const NOTE: u32 = 4;

#[derive(Arbitrary, Debug)]
struct Input {
    file: FilePlan,
    edits: Vec<Edit>,
    /// Bytes that are cut off.
    cut: u16,
    /// Guest memory: 2 MiB and so many pages.
    pages: u16,
    initrd: Option<u16>,
}

#[derive(Arbitrary, Debug)]
enum FilePlan {
    Bytes(Vec<u8>),
    Elf {
        is_pvh: bool,
        segments: Vec<Segment>,
    },
    Linux {
        sectors: u8,
        code: u16,
    },
}

/// A segment: pages from 1 MiB on, bytes in the file, bytes behind them.
#[derive(Arbitrary, Debug)]
struct Segment {
    page: u8,
    bytes: u8,
    more: u16,
}

#[derive(Arbitrary, Debug)]
enum Edit {
    Byte(u16, u8),
    Word(u16, u64),
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) {
        boot(&input);
    }
}

impl FilePlan {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Elf { is_pvh, segments } => elf_file(*is_pvh, segments),
            Self::Linux { sectors, code } => linux_image(*sectors, *code),
        }
    }
}

fn elf_file(is_pvh: bool, segments: &[Segment]) -> Vec<u8> {
    let segments = &segments[..segments.len().min(8)];
    let count = segments.len() + 1;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    let entry = segments.first().map_or(LOW_END, Segment::start);
    for word in [entry, ELF_HEADER as u64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64, 56, count as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut note = Vec::new();
    for word in [4_u32, 8, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());
    let mut offset = ELF_HEADER + count * PROGRAM_HEADER;
    let mut header = |kind: u32, start: u64, bytes: usize, more: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        let bytes = bytes as u64;
        for word in [offset as u64, start, start, bytes, bytes + more, 4] {
            file.extend(word.to_le_bytes());
        }
        offset += bytes as usize;
    };
    header(if is_pvh { NOTE } else { 0 }, 0, note.len(), 0);
    for segment in segments {
        header(
            LOAD,
            segment.start(),
            segment.bytes.into(),
            segment.more.into(),
        );
    }
    file.extend(note);
    for (index, segment) in segments.iter().enumerate() {
        file.extend(vec![index as u8 + 1; segment.bytes.into()]);
    }
    file
}

impl Segment {
    fn start(&self) -> u64 {
        LOW_END + u64::from(self.page) * 0x1000
    }
}

fn linux_image(sectors: u8, code: u16) -> Vec<u8> {
    let sectors = sectors % 4 + 1;
    let code = usize::from(code) % 2048 + 0x201;
    let mut image = vec![0; (usize::from(sectors) + 1) * SECTOR];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[sectors]);
    put(0x1f4, &(code as u32 / 16).to_le_bytes());
    put(0x201, &[0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &1_u16.to_le_bytes());
    put(0x258, &LOW_END.to_le_bytes());
    put(0x260, &0x1_0000_u32.to_le_bytes());
    image.resize(image.len() + code, 0x90);
    image
}

impl Edit {
    fn apply(&self, file: &mut [u8]) {
        let (at, bytes) = match self {
            Self::Byte(at, byte) => (at, vec![*byte]),
            Self::Word(at, word) => (at, word.to_le_bytes().to_vec()),
        };
        if file.is_empty() {
            return;
        }
        let at = usize::from(*at) % file.len();
        let end = file.len().min(at + bytes.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
    }
}

fn boot(input: &Input) {
    let mut file = input.file.bytes();
    for edit in input.edits.iter().take(32) {
        edit.apply(&mut file);
    }
    file.truncate(file.len().saturating_sub(input.cut.into()));
    let Ok(kernel) = KernelImage::new(file.clone().into()) else {
        return;
    };
    assert!(kernel.end() > LOW_END);
    let kind = *kernel.kind();
    let end = kernel.end();
    let initrd = input.initrd.map(|bytes| vec![0xee; usize::from(bytes) + 1]);
    let files = BootFiles::new(kernel, initrd.clone().map(Into::into));
    let layout = Layout::new((2 << 20) + u64::from(input.pages) * 0x1000).expect("in range");
    let Ok(placement) = files.place(layout) else {
        return;
    };
    let memory = layout.reserve().expect("the host has memory");
    let line = cmdline::build("quiet", None, &[], None).expect("it is short");
    let machine = Machine {
        cpus: 1,
        devices: &[],
    };
    files
        .load(&memory, &placement, &line, machine)
        .expect("what was checked can be loaded");

    match (kind, files.entry()) {
        (KernelKind::Pvh(entry), Entry::Pvh(same)) => {
            assert_eq!(entry, same);
            assert!((LOW_END..end).contains(&u64::from(entry)));
            check_segments(&memory, &file);
        }
        (KernelKind::Elf64(entry), Entry::Linux(same)) => {
            assert_eq!(entry, same);
            assert!((LOW_END..end).contains(&entry));
            check_segments(&memory, &file);
        }
        (KernelKind::BzImage(image), Entry::Linux(entry)) => {
            assert!((LOW_END..end).contains(&entry));
            assert!(holds(&memory, image.load, &file[image.code..]));
        }
        (kind, entry) => panic!("{kind:?} is not entered by {entry:?}"),
    }
    assert!(holds(&memory, map::CMDLINE, b"quiet\0"));
    if let Some(initrd) = initrd {
        let start = placement.initrd().expect("it was placed");
        assert!(start.0 >= end && start.0 + initrd.len() as u64 <= layout.low_end());
        assert!(holds(&memory, start.0, &initrd));
    }
}

fn holds(memory: &GuestMemoryMmap, at: u64, expected: &[u8]) -> bool {
    let mut found = vec![0; expected.len()];
    memory.read_slice(&mut found, GuestAddress(at)).is_ok() && found == expected
}

/// Each segment of the ELF file is in memory, and nothing behind it but zeros. Read without the loader's own reader.
fn check_segments(memory: &GuestMemoryMmap, file: &[u8]) {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight"));
    let half = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().expect("two"));
    let table = word(32) as usize;
    for index in 0..usize::from(half(56)) {
        let header = table + index * PROGRAM_HEADER;
        let kind = u32::from_le_bytes(file[header..header + 4].try_into().expect("four"));
        let (offset, address) = (word(header + 8) as usize, word(header + 24));
        let (bytes, size) = (word(header + 32) as usize, word(header + 40) as usize);
        if kind != LOAD || size == 0 {
            continue;
        }
        // Where nothing comes from the file, its place there says nothing.
        if bytes > 0 {
            assert!(holds(memory, address, &file[offset..offset + bytes]));
        }
        assert!(holds(
            memory,
            address + bytes as u64,
            &vec![0; size - bytes]
        ));
    }
}
