// SPDX-License-Identifier: GPL-2.0-only
/* Call chains: the kernel's by its unwinder, user mode's by frame pointers. */

#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/uaccess.h>
#include <asm/unwind.h>

#include "virtio_oprofile.h"

/* Whether there was room for a caller, and it is one. */
static __always_inline bool add(struct chain *chain, u64 caller)
{
	if (unlikely(caller == OPROFILE_ESCAPE))
		chain->aborted = true;
	if (chain->count == chain->most || chain->aborted)
		return false;
	chain->entries[2 * chain->count] = caller;
	chain->entries[2 * chain->count + 1] = 0;
	chain->count++;
	return true;
}

static void walk_kernel(struct pt_regs *regs, struct chain *chain)
{
	struct unwind_state state;
	bool first = true;

	for (unwind_start(&state, current, regs, NULL); !unwind_done(&state);
	     unwind_next_frame(&state)) {
		unsigned long address = unwind_get_return_address(&state);

		/* The first is the sample itself. */
		if (!address || !(first || add(chain, address)))
			break;
		first = false;
	}
}

/*
 * Frames are a caller's frame pointer and a return address, each of `type`. Page faults are disabled: what is not there ends the
 * walk. Stacks grow down, so callers' frames lie above: no chain goes in circles.
 */
#define WALK_FRAMES(type, chain, pointer)                                                          \
	do {                                                                                       \
		const type __user *frame = (const type __user *)(pointer);                         \
		const u64 last = TASK_SIZE_MAX - 2 * sizeof(type);                                 \
		type next, caller;                                                                 \
												   \
		if (!user_access_begin(frame, 2 * sizeof(type)))                                   \
			break;                                                                     \
		for (;;) {                                                                         \
			unsafe_get_user(next, &frame[0], end);                                     \
			unsafe_get_user(caller, &frame[1], end);                                   \
			if (!caller || !add(chain, caller) || next <= (u64)frame || next > last)   \
				break;                                                             \
			frame = (const type __user *)(u64)next;                                    \
		}                                                                                  \
end:                                                                                               \
		user_access_end();                                                                 \
	} while (0)

static void walk_wide(u64 pointer, struct chain *chain)
{
	WALK_FRAMES(u64, chain, pointer);
}

static void walk_narrow(u64 pointer, struct chain *chain)
{
	WALK_FRAMES(u32, chain, pointer);
}

void backtrace_walk(struct pt_regs *regs, struct chain *chain)
{
	if (!user_mode(regs)) {
		walk_kernel(regs, chain);
		return;
	}
	/* The processor was in user mode, so what it has loaded is the address space of the current task. */
	pagefault_disable();
	if (user_64bit_mode(regs))
		walk_wide(regs->bp, chain);
	else
		walk_narrow(regs->bp, chain);
	pagefault_enable();
}
