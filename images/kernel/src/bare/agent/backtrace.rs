//! Call chains by frame pointers: the pushed RBP leads to the caller's, the return address is next to it.

use oprofile_guest_agent::x86_backtrace::{Frame, follow};

use crate::arch::context::Context;
use crate::mm::MODULE_AREA;
use crate::mm::boot::image;
use crate::task::Task;

/// Offers up to `depth` return addresses, nearest caller first, until `frame` refuses one. A kernel chain ends where the kernel was
/// entered: it is not continued into user mode. A return address of 0 ends a chain as well.
pub fn walk(context: &Context, task: &Task, depth: u32, frame: impl FnMut(u64) -> bool) {
    let user = context.is_user();
    let read = |pointer| {
        let words = if user {
            task.space().and_then(|mm| mm.two_words(pointer))
        } else {
            kernel_words(task, pointer)
        };
        let [next, return_address] = words?;
        (return_address != 0).then_some(Frame {
            next,
            return_address,
        })
    };
    follow(context.rbp, depth, read, frame);
}

fn kernel_words(task: &Task, pointer: u64) -> Option<[u64; 2]> {
    let stack = task.kernel_stack.range();
    let inside = stack.contains(&pointer) && stack.end - pointer >= 16;
    if !inside || !pointer.is_multiple_of(8) {
        return None;
    }
    // SAFETY: two aligned words on the stack of a task that is interrupted, so nothing writes there now.
    let words = unsafe { (pointer as *const [u64; 2]).read_volatile() };
    let [text, rodata, ..] = image();
    let code = (text..rodata).contains(&words[1]) || MODULE_AREA.contains(&words[1]);
    code.then_some(words)
}
