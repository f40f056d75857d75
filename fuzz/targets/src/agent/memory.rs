//! Memory that the kernel gives to the agent and the device sees by GPA.

use std::ptr::NonNull;

use oprofile_guest_agent::DmaMemory;

const FIRST_GPA: u64 = 0x10_0000;

/// All pieces that were handed out. They live as long as this does, so it goes last.
#[derive(Debug, Default)]
pub struct Arena {
    pieces: Vec<Piece>,
    next_gpa: u64,
}

#[derive(Debug)]
struct Piece {
    gpa: u64,
    bytes: u64,
    /// Of a leaked box.
    memory: NonNull<[u128]>,
}

impl Arena {
    /// A new piece, zeroed. A gap behind each catches what reads past one.
    pub fn allocate(&mut self, bytes: usize) -> Option<DmaMemory> {
        let gpa = FIRST_GPA + self.next_gpa;
        self.next_gpa += (bytes as u64).next_multiple_of(16) + 16;
        let memory = NonNull::from(Box::leak(
            vec![0u128; bytes.div_ceil(16)].into_boxed_slice(),
        ));
        self.pieces.push(Piece {
            gpa,
            bytes: bytes as u64,
            memory,
        });
        // SAFETY: zeroed, aligned to 16, and used by the agent and by this arena's copies only, until the arena is dropped,
        // which it is behind the agent (see `Kernel`).
        unsafe { DmaMemory::new(memory.cast(), bytes, gpa) }
    }

    /// Where `bytes` at `gpa` are, if they are in one piece.
    fn at(&self, gpa: u64, bytes: u64) -> Option<NonNull<u8>> {
        let end = gpa.checked_add(bytes)?;
        let inside = |piece: &&Piece| gpa >= piece.gpa && end <= piece.gpa + piece.bytes;
        let piece = self.pieces.iter().find(inside)?;
        let offset = usize::try_from(gpa - piece.gpa).ok()?;
        // SAFETY: the offset is inside the piece.
        Some(unsafe { piece.memory.cast::<u8>().add(offset) })
    }

    /// Copies `bytes` from `gpa` on; `None` unless they are in one piece.
    pub fn read(&self, gpa: u64, bytes: u32) -> Option<Vec<u8>> {
        let from = self.at(gpa, bytes.into())?;
        let mut copy = vec![0; bytes as usize];
        // SAFETY: `at` checked the range; the agent does not run meanwhile, and holds no reference between its calls.
        unsafe { from.copy_to_nonoverlapping(NonNull::from(&mut copy[..]).cast(), copy.len()) };
        Some(copy)
    }

    /// Copies an integer.
    pub fn read_u16(&self, gpa: u64) -> Option<u16> {
        let bytes = self.read(gpa, 2)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Writes `bytes`; false unless they fit into one piece.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        let Some(to) = self.at(gpa, bytes.len() as u64) else {
            return false;
        };
        // SAFETY: as in `read`; any bytes are valid there.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        true
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for piece in self.pieces.drain(..) {
            // SAFETY: the piece was leaked by `allocate` and nobody uses it any more.
            drop(unsafe { Box::from_raw(piece.memory.as_ptr()) });
        }
    }
}
