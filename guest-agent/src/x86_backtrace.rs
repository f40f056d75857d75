//! Call chains of x86 tasks by frame pointers, after OProfile's walker (Linux 4.7).
//!
//! A frame is two words: the caller's frame pointer, and the return address. The walk of a user stack asks for **two**
//! frames at each step, so one whose follower cannot be read adds nothing. The walk of a kernel stack is the kernel's
//! own; what comes of it goes through [`KernelDepth`], which does not bound it.
//!
//! `frame` is offered the return addresses, nearest caller first, and says whether it wants more: a
//! [`Tracer`](crate::writer::Tracer) does not once a chain is cut. The original walks on then and adds nothing; here the
//! walk ends.

/// Memory of the task that was interrupted, for an interrupt handler: nothing in it waits or faults.
pub trait StackMemory {
    /// Copies what is at `address` into `bytes`; false when any of it cannot be read, or the range wraps.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool;
}

/// What is at a frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The caller's frame pointer.
    pub next: u64,
    /// Where the caller goes on.
    pub return_address: u64,
}

/// How wide a task's words are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// A 32-bit task under a 64-bit kernel.
    Bits32,
    /// A 64-bit task.
    Bits64,
}

impl Width {
    /// The frame at `pointer`, if it and another one behind it can be read.
    fn frame<M: StackMemory>(self, memory: &mut M, pointer: u64) -> Option<Frame> {
        match self {
            Self::Bits32 => {
                let mut bytes = [0; 16];
                let &[[next, return_address], _] = two_frames(memory, pointer, &mut bytes)?;
                Some(Frame {
                    next: u32::from_le_bytes(next).into(),
                    return_address: u32::from_le_bytes(return_address).into(),
                })
            }
            Self::Bits64 => {
                let mut bytes = [0; 32];
                let &[[next, return_address], _] = two_frames(memory, pointer, &mut bytes)?;
                Some(Frame {
                    next: u64::from_le_bytes(next),
                    return_address: u64::from_le_bytes(return_address),
                })
            }
        }
    }
}

/// Two frames of two words of `WORD` bytes, read into `bytes`.
fn two_frames<'a, M: StackMemory, const WORD: usize>(
    memory: &mut M,
    pointer: u64,
    bytes: &'a mut [u8],
) -> Option<&'a [[[u8; WORD]; 2]; 2]> {
    if !memory.read(pointer, bytes) {
        return None;
    }
    let (words, _) = bytes.as_chunks();
    let (frames, _) = words.as_chunks();
    frames.first_chunk()
}

/// Follows frame pointers from `pointer` on, at most `depth` frames: until one is 0 or does not lead upwards, `read` has no
/// frame, or `frame` wants no more.
#[inline]
pub fn follow(
    mut pointer: u64,
    depth: u32,
    mut read: impl FnMut(u64) -> Option<Frame>,
    mut frame: impl FnMut(u64) -> bool,
) {
    for _ in 0..depth {
        if pointer == 0 {
            return;
        }
        let Some(found) = read(pointer) else {
            return;
        };
        // The stack grows down, so callers' frames lie above; anything else would be a loop.
        if !frame(found.return_address) || found.next <= pointer {
            return;
        }
        pointer = found.next;
    }
}

/// Walks the user stack of a task that was interrupted in user mode with this frame pointer (RBP), at most `depth` frames.
pub fn walk_user<M: StackMemory>(
    memory: &mut M,
    width: Width,
    frame_pointer: u64,
    depth: u32,
    frame: impl FnMut(u64) -> bool,
) {
    follow(
        frame_pointer,
        depth,
        |pointer| width.frame(memory, pointer),
        frame,
    );
}

/// OProfile's bound of kernel chains, which is none: the first `depth` addresses pass, the next does not, and then the
/// counter has wrapped and lets 2³² − 1 more pass.
#[derive(Clone, Copy, Debug)]
pub struct KernelDepth {
    left: u32,
}

impl KernelDepth {
    /// Counts down from `depth`.
    #[must_use]
    pub const fn new(depth: u32) -> Self {
        Self { left: depth }
    }

    /// Whether the next address belongs to the chain.
    pub const fn admits(&mut self) -> bool {
        let admitted = self.left != 0;
        self.left = self.left.wrapping_sub(1);
        admitted
    }
}

/// Offers the addresses that a kernel's stack dumper reports for a task that was interrupted in kernel mode. With a
/// `depth` of 0 there are none. The chain never goes on into the user stack.
pub fn walk_kernel(
    addresses: impl IntoIterator<Item = u64>,
    depth: u32,
    mut frame: impl FnMut(u64) -> bool,
) {
    if depth == 0 {
        return;
    }
    let mut bound = KernelDepth::new(depth);
    for address in addresses {
        if bound.admits() && !frame(address) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One readable area.
    struct Area {
        start: u64,
        bytes: Vec<u8>,
    }

    impl Area {
        fn of_words(start: u64, words: &[u64]) -> Self {
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            Self { start, bytes }
        }
    }

    impl StackMemory for Area {
        fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool {
            let range = address.checked_sub(self.start).and_then(|offset| {
                let offset = usize::try_from(offset).ok()?;
                self.bytes.get(offset..offset.checked_add(bytes.len())?)
            });
            range.is_some_and(|range| {
                bytes.copy_from_slice(range);
                true
            })
        }
    }

    fn user(memory: &mut Area, width: Width, pointer: u64, depth: u32) -> Vec<u64> {
        let mut frames = Vec::new();
        walk_user(memory, width, pointer, depth, |address| {
            frames.push(address);
            true
        });
        frames
    }

    #[test]
    fn a_chain_ends_where_a_pointer_does_not_lead_upwards() {
        let words = [0x1010, 1, 0x1020, 2, 0x1000, 3, 0, 0];
        let mut memory = Area::of_words(0x1000, &words);
        assert_eq!(user(&mut memory, Width::Bits64, 0x1000, 8), [1, 2, 3]);
        assert_eq!(user(&mut memory, Width::Bits64, 0x1000, 2), [1, 2]);
        assert_eq!(user(&mut memory, Width::Bits64, 0x1000, 0), [0; 0]);
        assert_eq!(user(&mut memory, Width::Bits64, 0, 8), [0; 0]);
    }

    #[test]
    fn a_frame_that_leads_to_itself_is_the_last() {
        let mut memory = Area::of_words(0x1000, &[0x1000, 1, 0, 0]);
        assert_eq!(user(&mut memory, Width::Bits64, 0x1000, 8), [1]);
    }

    #[test]
    fn a_frame_without_readable_memory_behind_it_adds_nothing() {
        let mut memory = Area::of_words(0x1000, &[0x1010, 1, 0x1020, 2, 0x1030]);
        assert_eq!(user(&mut memory, Width::Bits64, 0x1000, 8), [1]);
    }

    #[test]
    fn frames_of_a_32_bit_task_are_two_half_words() {
        let words = [0x8008 | 0x11 << 32, 0x8010 | 0x22 << 32, 0x33 << 32, 0];
        let mut memory = Area::of_words(0x8000, &words);
        assert_eq!(
            user(&mut memory, Width::Bits32, 0x8000, 8),
            [0x11, 0x22, 0x33]
        );
    }

    #[test]
    fn a_pointer_need_not_be_aligned() {
        let mut memory = Area::of_words(0x1000, &[5, 6, 7, 8, 9]);
        assert_eq!(user(&mut memory, Width::Bits64, 0x1001, 8), [7 << 56]);
    }

    #[test]
    fn a_pointer_near_the_end_of_memory_is_not_readable() {
        let mut memory = Area::of_words(u64::MAX - 31, &[0, 7, 0, 0]);
        assert_eq!(user(&mut memory, Width::Bits64, u64::MAX - 31, 8), [7]);
        assert_eq!(user(&mut memory, Width::Bits64, u64::MAX - 8, 8), [0; 0]);
    }

    #[test]
    fn kernel_depth_skips_one_address_and_lets_the_rest_pass() {
        let mut frames = Vec::new();
        walk_kernel(1..=7, 3, |address| {
            frames.push(address);
            true
        });
        assert_eq!(frames, [1, 2, 3, 5, 6, 7]);
        walk_kernel(1..=7, 0, |_| panic!("a depth of 0 has no frames"));
    }

    #[test]
    fn nothing_is_offered_after_a_refusal() {
        let mut offered = 0;
        let mut refuse = |_| {
            offered += 1;
            false
        };
        walk_kernel(1..=7, 3, &mut refuse);
        let mut memory = Area::of_words(0x1000, &[0x1010, 1, 0x1020, 2, 0, 0]);
        walk_user(&mut memory, Width::Bits64, 0x1000, 8, refuse);
        assert_eq!(offered, 2);
    }

    proptest! {
        /// Pointers mostly lead into the area, so that many walks are long.
        #[test]
        fn any_stack_ends_the_walk_within_its_depth_and_its_memory(
            words in prop::collection::vec(prop_oneof![3 => 0u64..0x220, 1 => any::<u64>()], 0..64),
            start in prop_oneof![Just(0u64), Just(8), Just(0x7fff_f000), Just(u64::MAX - 0x1ff)],
            pointer in prop_oneof![0u64..0x220, any::<u64>()],
            depth in prop_oneof![0u32..80, any::<u32>()],
            narrow: bool)
        {
            let width = if narrow { Width::Bits32 } else { Width::Bits64 };
            let frame_bytes = if narrow { 8 } else { 16 };
            let words: Vec<_> = words.iter().map(|&word| {
                if word < 0x220 { start.wrapping_add(word) } else { word }
            }).collect();
            let mut memory = Area::of_words(start, &words);
            let count = user(&mut memory, width, start.wrapping_add(pointer), depth).len();
            prop_assert!(count <= depth as usize);
            // Each step goes up by a byte at least, and needs two frames of memory.
            prop_assert!(count <= (memory.bytes.len() + 1).saturating_sub(2 * frame_bytes));
        }

        /// A well-formed chain is found whole, whatever lies between its frames.
        #[test]
        fn a_chain_is_found_whole(
            gaps in prop::collection::vec(0usize..5, 1..20), returns in prop::collection::vec(any::<u64>(), 20), fill: u64)
        {
            let base = 0x7ffd_0000_0000u64;
            let mut words = Vec::new();
            let mut expected = Vec::new();
            for (index, &gap) in gaps.iter().enumerate() {
                let next = base + 8 * (words.len() + 2 + gap) as u64;
                words.extend([if index + 1 == gaps.len() { 0 } else { next }, returns[index]]);
                words.extend(std::iter::repeat_n(fill, gap));
                expected.push(returns[index]);
            }
            words.extend([fill; 2]);
            let mut memory = Area::of_words(base, &words);
            prop_assert_eq!(user(&mut memory, Width::Bits64, base, 64), expected);
        }

        #[test]
        fn all_but_one_address_of_a_kernel_chain_pass(depth in 1u32..50, count in 0u64..100) {
            let mut frames = Vec::new();
            walk_kernel(0..count, depth, |address| {
                frames.push(address);
                true
            });
            let expected: Vec<_> = (0..count).filter(|&index| index != u64::from(depth)).collect();
            prop_assert_eq!(frames, expected);
        }
    }
}
