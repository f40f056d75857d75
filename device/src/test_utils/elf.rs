//! Files that hold what a build-id is read from.

/// An ELF file of 64 or 32 bits whose program headers lead to a segment of two notes, aligned as told (4 or 8): one of
/// another kind, then the build-id.
#[must_use]
pub fn elf_with_build_id(is_wide: bool, alignment: u8, build_id: &[u8]) -> Vec<u8> {
    let aligned = |bytes: &mut Vec<u8>| {
        while !bytes.len().is_multiple_of(usize::from(alignment)) {
            bytes.push(0);
        }
    };
    let mut notes = Vec::new();
    for (kind, content) in [(5u32, &[0; 16][..]), (3, build_id)] {
        notes.extend_from_slice(&4u32.to_le_bytes());
        notes.extend_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
        notes.extend_from_slice(&kind.to_le_bytes());
        notes.extend_from_slice(b"GNU\0");
        aligned(&mut notes);
        notes.extend_from_slice(content);
        aligned(&mut notes);
    }
    let (header_bytes, entry_bytes) = if is_wide { (64, 56) } else { (64, 32) };
    let start = header_bytes + 2 * entry_bytes;
    let mut file = vec![0; start];
    let mut put = |at: usize, value: u64, bytes: usize| {
        file[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    };
    put(0, u64::from(u32::from_le_bytes(*b"\x7fELF")), 4);
    put(4, if is_wide { 2 } else { 1 }, 1);
    put(5, 1, 1);
    put(6, 1, 1);
    let word = if is_wide { 8 } else { 4 };
    let (offset, size, count) = if is_wide { (32, 54, 56) } else { (28, 42, 44) };
    put(offset, header_bytes as u64, word);
    put(size, entry_bytes as u64, 2);
    put(count, 2, 2);
    // A segment of another kind first.
    put(header_bytes, 1, 4);
    let note = header_bytes + entry_bytes;
    put(note, 4, 4);
    let (offset, bytes, align) = if is_wide { (8, 32, 48) } else { (4, 16, 28) };
    put(note + offset, start as u64, word);
    put(note + bytes, notes.len() as u64, word);
    put(note + align, alignment.into(), word);
    file.extend_from_slice(&notes);
    file
}
