//! What a sample buffer refers to, remembered so that nothing it refers to goes away first.

/// Address spaces that a buffer remembers one by one. A buffer lasts about as long as a few time slices, so it sees few.
const SPACES: usize = 8;

/// Tasks that a buffer remembers one by one; threads make them more than address spaces.
const TASKS: usize = 16;

/// A small set of pointers that answers "maybe" to everything once it has overflowed: a needless flush costs a
/// little, a missing one a wrong sample.
#[derive(Clone, Copy, Debug)]
struct PointerSet<const N: usize> {
    members: [u64; N],
    len: usize,
    overflowed: bool,
}

impl<const N: usize> PointerSet<N> {
    const fn new() -> Self {
        Self {
            members: [0; N],
            len: 0,
            overflowed: false,
        }
    }

    fn insert(&mut self, pointer: u64) {
        if self.members[..self.len].contains(&pointer) {
            return;
        }
        match self.members.get_mut(self.len) {
            Some(free) => {
                *free = pointer;
                self.len += 1;
            }
            None => self.overflowed = true,
        }
    }

    fn may_contain(&self, pointer: u64) -> bool {
        self.overflowed || self.members[..self.len].contains(&pointer)
    }

    fn clear(&mut self) {
        self.len = 0;
        self.overflowed = false;
    }
}

/// The tasks and address spaces that a buffer's samples belong to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mentions {
    spaces: PointerSet<SPACES>,
    tasks: PointerSet<TASKS>,
    /// What was inserted last, to make a run of samples of one task cheap.
    last: Option<(u64, u64)>,
}

impl Mentions {
    pub(crate) const fn new() -> Self {
        Self {
            spaces: PointerSet::new(),
            tasks: PointerSet::new(),
            last: None,
        }
    }

    #[inline]
    pub(crate) fn insert(&mut self, task: u64, space: u64) {
        if self.last != Some((task, space)) {
            self.insert_new(task, space);
        }
    }

    #[cold]
    fn insert_new(&mut self, task: u64, space: u64) {
        self.last = Some((task, space));
        self.tasks.insert(task);
        if space != 0 {
            self.spaces.insert(space);
        }
    }

    pub(crate) fn may_contain_space(&self, space: u64) -> bool {
        self.spaces.may_contain(space)
    }

    pub(crate) fn may_contain_task(&self, task: u64) -> bool {
        self.tasks.may_contain(task)
    }

    pub(crate) fn clear(&mut self) {
        self.spaces.clear();
        self.tasks.clear();
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_each_space_once_and_forgets_on_clear() {
        let mut mentions = Mentions::new();
        for _ in 0..100 {
            mentions.insert(1, 10);
            mentions.insert(2, 10);
        }
        assert!(mentions.may_contain_space(10) && mentions.may_contain_task(2));
        assert!(!mentions.may_contain_space(11) && !mentions.may_contain_task(3));
        mentions.clear();
        assert!(!mentions.may_contain_space(10) && !mentions.may_contain_task(1));
        mentions.insert(2, 10);
        assert!(mentions.may_contain_space(10));
    }

    #[test]
    fn overflow_answers_maybe_to_everything() {
        let mut mentions = Mentions::new();
        for space in 1..=SPACES as u64 + 1 {
            mentions.insert(1, space);
        }
        assert!(mentions.may_contain_space(0xdead));
        assert!(!mentions.may_contain_task(2));
    }

    #[test]
    fn kernel_threads_have_no_space() {
        let mut mentions = Mentions::new();
        mentions.insert(1, 0);
        assert!(!mentions.may_contain_space(0));
    }
}
