//! VMAs, in every store that the layout has fields for.

use oprofile_wire::layout::Field;

use super::{ObjectKind, SyntheticGuest};

/// Colour bit of a red-black node's first word.
const BLACK: u64 = 1;

/// Offset of the right and of the left child in Linux's red-black node.
const RB_RIGHT: u64 = 8;
const RB_LEFT: u64 = 16;

/// A mapping to be made.
#[derive(Clone, Copy, Debug)]
pub struct VmaSpec {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Offset in the file in pages.
    pub page_offset: u64,
    /// The file, or 0.
    pub file: u64,
}

/// What an address space keeps its mappings in.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    pub(super) vmas: Vec<u64>,
    /// Nodes of the maple tree, each behind those below it.
    pub(super) maple_nodes: Vec<u64>,
}

impl SyntheticGuest {
    /// Gives `mm` other mappings, ascending, in new structures, and returns these. They have no flags. The old structures
    /// keep their memory, but nothing leads to them: maple nodes are dead, the generation has gone up. The sequence number is
    /// left alone.
    pub fn set_vmas(&mut self, mm: u64, vmas: &[VmaSpec]) -> Vec<u64> {
        let (made, _) = self.put_vmas(mm, vmas);
        made
    }

    /// As [`SyntheticGuest::set_vmas`], and gives the memory of the old structures back, so that the next ones take it.
    pub fn replace_vmas(&mut self, mm: u64, vmas: &[VmaSpec]) -> Vec<u64> {
        let (made, old) = self.put_vmas(mm, vmas);
        for vma in old.vmas {
            self.free(ObjectKind::Vma, vma);
        }
        for node in old.maple_nodes {
            self.free(ObjectKind::MapleNode, node);
        }
        made
    }

    /// Returns the new VMAs, and the store before.
    fn put_vmas(&mut self, mm: u64, vmas: &[VmaSpec]) -> (Vec<u64>, Store) {
        let made: Vec<u64> = vmas
            .iter()
            .map(|spec| {
                let vma = self.object_of(ObjectKind::Vma);
                self.set(vma, Field::VmaStart, spec.start);
                self.set(vma, Field::VmaEnd, spec.end);
                self.set(vma, Field::VmaPageOffset, spec.page_offset);
                self.set(vma, Field::VmaFile, spec.file);
                self.set(vma, Field::VmaMm, mm);
                vma
            })
            .collect();
        self.link_list(mm, &made);
        if self.has(Field::MmVmaRoot) {
            let root = self.link_rb_tree(&made);
            self.set(mm, Field::MmVmaRoot, root);
        }
        let maple_nodes = match self.has(Field::MmMapleTree) {
            true => self.build_maple_tree(mm, &made, vmas),
            false => Vec::new(),
        };
        self.set(mm, Field::MmVmaCount, made.len() as u64);
        let store = Store {
            vmas: made.clone(),
            maple_nodes,
        };
        let old = self.stores.insert(mm, store).unwrap_or_default();
        for &node in &old.maple_nodes {
            self.kill_maple_node(node);
        }
        let generation = self.get(mm, Field::MmGeneration);
        self.set(mm, Field::MmGeneration, generation.wrapping_add(1));
        (made, old)
    }

    /// Marks a VMA as executable or not.
    pub fn set_executable(&self, vma: u64, executable: bool) {
        let mask = self.offset(Field::VmaFlagExec);
        let flags = self.get(vma, Field::VmaFlags) & !mask;
        let flags = if executable { flags | mask } else { flags };
        self.set(vma, Field::VmaFlags, flags);
    }

    fn link_list(&self, mm: u64, vmas: &[u64]) {
        for (index, vma) in vmas.iter().enumerate() {
            let next = vmas.get(index + 1).copied().unwrap_or(0);
            self.set(*vma, Field::VmaNext, next);
        }
        self.set(mm, Field::MmVmaList, vmas.first().copied().unwrap_or(0));
    }

    /// Links ascending VMAs to a red-black tree, and returns its root.
    fn link_rb_tree(&self, vmas: &[u64]) -> u64 {
        // Every level that is full is black; what is below the last full one is red. So each path has as many black nodes, and
        // no red one has a red child.
        let black_levels = (vmas.len() + 1).ilog2();
        self.link_rb_branch(vmas, 0, black_levels)
    }

    fn link_rb_branch(&self, vmas: &[u64], parent: u64, black_levels: u32) -> u64 {
        let middle = vmas.len() / 2;
        let Some(vma) = vmas.get(middle) else {
            return 0;
        };
        let node = vma + self.offset(Field::VmaRb);
        let below = black_levels.saturating_sub(1);
        let (right, left) = (
            self.link_rb_branch(&vmas[middle + 1..], node, below),
            self.link_rb_branch(&vmas[..middle], node, below),
        );
        let colour = if black_levels > 0 { BLACK } else { 0 };
        self.poke(node, parent | colour);
        self.poke(self.rb_right(*vma), right);
        self.poke(self.rb_left(*vma), left);
        node
    }

    /// GVA of the pointer to the right child of a VMA's red-black node.
    #[must_use]
    pub fn rb_right(&self, vma: u64) -> u64 {
        let in_node = match self.has(Field::RbRight) {
            true => self.offset(Field::RbRight),
            false => RB_RIGHT,
        };
        vma + self.offset(Field::VmaRb) + in_node
    }

    /// GVA of the pointer to the left child of a VMA's red-black node.
    #[must_use]
    pub fn rb_left(&self, vma: u64) -> u64 {
        let in_node = match self.has(Field::RbLeft) {
            true => self.offset(Field::RbLeft),
            false => RB_LEFT,
        };
        vma + self.offset(Field::VmaRb) + in_node
    }
}
