//! Page-frame allocator: binary buddies over a side table, so that free memory itself is never touched.

/// Bytes of a page frame.
pub const FRAME_BYTES: usize = 4096;

/// Number of orders: the largest block is 2^(`ORDERS` − 1) frames, 8 MiB.
pub const ORDERS: usize = 12;

const NONE: u32 = u32::MAX;
const FREE: u8 = 0x40;
const USED: u8 = 0x80;

/// What the allocator knows of one frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    next: u32,
    previous: u32,
    /// [`FREE`] or [`USED`] with the order, at the first frame of a block; 0 elsewhere.
    state: u8,
}

impl Frame {
    /// A frame that the allocator does not own.
    pub const RESERVED: Self = Self {
        next: NONE,
        previous: NONE,
        state: 0,
    };
}

/// The allocator. Frames are named by index (address / [`FRAME_BYTES`]).
#[derive(Debug)]
pub struct Buddy<'a> {
    frames: &'a mut [Frame],
    heads: [u32; ORDERS],
    free_frames: usize,
}

impl<'a> Buddy<'a> {
    /// An allocator that owns nothing yet; `frames` has an entry for each frame up to the highest.
    pub fn new(frames: &'a mut [Frame]) -> Self {
        frames.fill(Frame::RESERVED);
        Self {
            frames,
            heads: [NONE; ORDERS],
            free_frames: 0,
        }
    }

    /// Frames not in use.
    #[must_use]
    pub fn free_frames(&self) -> usize {
        self.free_frames
    }

    /// Hands the frames `start..end` over to the allocator; they must not have been handed over before.
    pub fn add(&mut self, start: usize, end: usize) {
        let end = end.min(self.frames.len());
        let mut index = start;
        while index < end {
            let mut order = (index.trailing_zeros() as usize).min(ORDERS - 1);
            while index + (1 << order) > end {
                order -= 1;
            }
            self.push(index as u32, order);
            self.free_frames += 1 << order;
            index += 1 << order;
        }
    }

    /// Takes 2^`order` frames, aligned to their size; `None` when there is no such block.
    pub fn allocate(&mut self, order: usize) -> Option<usize> {
        let from = (order..ORDERS).find(|&o| self.heads[o] != NONE)?;
        let index = self.heads[from];
        self.remove(index, from);
        for half in (order..from).rev() {
            self.push(index + (1 << half), half);
        }
        self.frames[index as usize].state = USED | order as u8;
        self.free_frames -= 1 << order;
        Some(index as usize)
    }

    /// Gives a block back. Returns `false`, and does nothing, when no block in use starts at `index`.
    pub fn free(&mut self, index: usize) -> bool {
        let Some(frame) = self.frames.get_mut(index) else {
            return false;
        };
        if frame.state & USED == 0 {
            return false;
        }
        let mut order = usize::from(frame.state & !USED);
        frame.state = 0;
        self.free_frames += 1 << order;
        let mut index = index;
        while order + 1 < ORDERS {
            let buddy = index ^ (1 << order);
            match self.frames.get(buddy) {
                Some(other) if other.state == FREE | order as u8 => {
                    self.remove(buddy as u32, order);
                    index &= !(1 << order);
                    order += 1;
                }
                _ => break,
            }
        }
        self.push(index as u32, order);
        true
    }

    fn push(&mut self, index: u32, order: usize) {
        let next = self.heads[order];
        if next != NONE {
            self.frames[next as usize].previous = index;
        }
        self.frames[index as usize] = Frame {
            next,
            previous: NONE,
            state: FREE | order as u8,
        };
        self.heads[order] = index;
    }

    fn remove(&mut self, index: u32, order: usize) {
        let Frame { next, previous, .. } = self.frames[index as usize];
        if previous == NONE {
            self.heads[order] = next;
        } else {
            self.frames[previous as usize].next = next;
        }
        if next != NONE {
            self.frames[next as usize].previous = previous;
        }
        self.frames[index as usize] = Frame::RESERVED;
    }
}

/// The order of the smallest block that holds `bytes`; `None` when no block is that large.
#[must_use]
pub fn order_for(bytes: usize) -> Option<usize> {
    let frames = bytes.div_ceil(FRAME_BYTES).max(1);
    let order = frames.checked_next_power_of_two()?.trailing_zeros() as usize;
    (order < ORDERS).then_some(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_do_not_overlap() {
        let mut frames = [Frame::RESERVED; 300];
        let mut buddy = Buddy::new(&mut frames);
        buddy.add(3, 290);
        let mut owner = [false; 300];
        let mut order = 0;
        while let Some(index) = buddy.allocate(order % 5).or_else(|| buddy.allocate(0)) {
            let taken = if buddy.frames[index].state == USED | (order % 5) as u8 {
                1 << (order % 5)
            } else {
                1
            };
            assert_eq!(index % taken, 0);
            for frame in &mut owner[index..index + taken] {
                assert!(!*frame);
                *frame = true;
            }
            order += 1;
        }
        assert_eq!(owner.iter().filter(|taken| **taken).count(), 287);
        assert_eq!(buddy.free_frames(), 0);
    }

    #[test]
    fn freed_buddies_join_to_the_block_they_came_from() {
        let mut frames = [Frame::RESERVED; 64];
        let mut buddy = Buddy::new(&mut frames);
        buddy.add(0, 64);
        let all: Vec<_> = core::iter::from_fn(|| buddy.allocate(0)).collect();
        assert_eq!(all.len(), 64);
        for index in all.iter().rev().step_by(2).chain(all.iter().step_by(2)) {
            assert!(buddy.free(*index));
        }
        assert_eq!(buddy.allocate(6), Some(0));
    }

    #[test]
    fn a_block_is_freed_only_once() {
        let mut frames = [Frame::RESERVED; 8];
        let mut buddy = Buddy::new(&mut frames);
        buddy.add(0, 8);
        let index = buddy.allocate(1).unwrap();
        assert!(!buddy.free(index + 1));
        assert!(buddy.free(index));
        assert!(!buddy.free(index));
        assert!(!buddy.free(1000));
        assert_eq!(buddy.free_frames(), 8);
    }

    #[test]
    fn orders_cover_their_bytes() {
        assert_eq!(order_for(0), Some(0));
        assert_eq!(order_for(4096), Some(0));
        assert_eq!(order_for(4097), Some(1));
        assert_eq!(order_for(8 << 20), Some(11));
        assert_eq!(order_for((8 << 20) + 1), None);
    }
}
