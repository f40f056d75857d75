//! Frames with files' code, one for everybody who maps it.
//!
//! As in Linux, a program that is started again finds its code where it was. An emulated processor then keeps what it made of
//! it; otherwise each function would be charged for its translation in each process, however little it runs.

use alloc::collections::BTreeMap;
use core::ptr;

use crate::fs::Inode;
use crate::mm::{PAGE, frames};
use crate::sync::Mutex;

/// Frames by the file's address and the page's number in it. Files are never written to and never go, so neither do their
/// frames: at most the initrd's size once more.
static PAGES: Mutex<BTreeMap<(usize, u64), u64>> = Mutex::new(BTreeMap::new());

/// Physical address of the frame with page `number` of the file, to be mapped read-only; `None` when it lies outside the file
/// or no memory is left.
pub fn page(inode: &'static Inode, number: u64) -> Option<u64> {
    let mut pages = PAGES.lock();
    let key = (ptr::from_ref(inode).addr(), number);
    if let Some(frame) = pages.get(&key) {
        return Some(*frame);
    }
    let start = usize::try_from(number.checked_mul(PAGE)?).ok()?;
    let contents = inode.data().get(start..).filter(|rest| !rest.is_empty())?;
    let frame = frames::allocate_holding(contents)?;
    pages.insert(key, frame);
    Some(frame)
}
