//! The smallest kernel file.

/// Where [`kernel`] loads its code.
pub const LOAD: u64 = 0x10_0000;

/// An ELF file with one loadable segment of `code` at [`LOAD`], where its PVH note, if there shall be one, says to enter.
pub fn kernel(code: &[u8], pvh: bool) -> Vec<u8> {
    const HEADER: u64 = 64;
    const SEGMENT: u64 = 56;
    const NOTE: u64 = 24;
    let (note, load) = (if pvh { 4_u32 } else { 0 }, 1_u32);
    let note_offset = HEADER + 2 * SEGMENT;
    let segments = [
        (note, note_offset, NOTE),
        (load, note_offset + NOTE, code.len() as u64),
    ];

    // Class, byte order, version; executable for x86-64; entry, segments, sections; counts.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [LOAD, HEADER, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for (kind, offset, length) in segments {
        file.extend(kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        for word in [offset, LOAD, LOAD, length, length, 4] {
            file.extend(word.to_le_bytes());
        }
    }
    // Sizes of name and address, XEN_ELFNOTE_PHYS32_ENTRY, the name.
    for word in [4_u32, 8, 18] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"Xen\0");
    file.extend(LOAD.to_le_bytes());
    file.extend(code);
    file
}
