// SPDX-License-Identifier: GPL-2.0-only
/* Call chains: the kernel's by its unwinder, user mode's by frame pointers. */

#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/uaccess.h>
#include <asm/unwind.h>

#include "virtio_oprofile.h"

static void walk_kernel(struct pt_regs *regs, u32 depth, struct tracer *tracer)
{
	struct unwind_state state;
	bool first = true;

	for (unwind_start(&state, current, regs, NULL); !unwind_done(&state) && depth;
	     unwind_next_frame(&state)) {
		unsigned long address = unwind_get_return_address(&state);

		if (!address)
			break;
		/* The sample itself. */
		if (first) {
			first = false;
			continue;
		}
		if (!tracer->frame(tracer, address))
			return;
		depth--;
	}
}

/* The two words at a frame pointer. Nothing may fault in: the copy fails instead. */
static bool read_frame(u64 pointer, bool wide, u64 *next, u64 *address)
{
	u64 words[2];
	u32 halves[2];

	if (wide) {
		if (copy_from_user_nofault(words, (const void __user *)pointer, sizeof(words)))
			return false;
		*next = words[0];
		*address = words[1];
		return true;
	}
	if (copy_from_user_nofault(halves, (const void __user *)pointer, sizeof(halves)))
		return false;
	*next = halves[0];
	*address = halves[1];
	return true;
}

static void walk_user(struct pt_regs *regs, u32 depth, struct tracer *tracer)
{
	bool wide = user_64bit_mode(regs);
	u64 pointer = regs->bp, next, address;

	/* Stacks grow down, so callers' frames lie above: no chain goes in circles. */
	for (; depth && pointer && read_frame(pointer, wide, &next, &address); depth--) {
		if (!address || !tracer->frame(tracer, address) || next <= pointer)
			return;
		pointer = next;
	}
}

void backtrace_walk(struct pt_regs *regs, u32 depth, struct tracer *tracer)
{
	if (user_mode(regs))
		walk_user(regs, depth, tracer);
	else
		walk_kernel(regs, depth, tracer);
}
