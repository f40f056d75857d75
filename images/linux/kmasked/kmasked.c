// SPDX-License-Identifier: GPL-2.0-only
/*
 * A load for tests of the sampling clocks: a kernel thread that has interrupts off for 30 percent of its time. Both functions run
 * the same instructions, so a share of iterations is a share of time. While they are off it is for less than a sampling period of 1 ms,
 * so that a timer's interrupts come late, and none of them twice in one.
 */

#include <linux/err.h>
#include <linux/irqflags.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched.h>

#define SPIN(name)                                                                       \
	static __attribute__((__noipa__)) __aligned(64) u64 name(u64 count)                                \
	{                                                                                \
		u64 a = 1, x = 0;                                                        \
											 \
		asm volatile("# " #name "\n"                                             \
			     ".p2align 6\n"                                              \
			     "1: imul $0x6c078965, %0, %0\n"                             \
			     "add %2, %0\n"                                              \
			     "xor %0, %1\n"                                              \
			     "ror $9, %1\n"                                              \
			     "dec %2\n"                                                  \
			     "jnz 1b"                                                    \
			     : "+r"(a), "+r"(x), "+r"(count)                             \
			     :                                                           \
			     : "cc");                                                    \
		return x;                                                                \
	}

SPIN(kmasked_off)
SPIN(kmasked_on)

/* Iterations of the shortest and of the longest tenth of a round. */
#define LEAST 2000u
#define MOST 10000u

static struct task_struct *thread;

static int kmasked_work(void *unused)
{
	u64 random = 1;

	while (!kthread_should_stop()) {
		/* Rounds of unequal length, which fall in step with nothing. */
		u64 tenth = LEAST + (random >> 33) % (MOST - LEAST);

		random = random * 6364136223846793005ull + 1442695040888963407ull;
		local_irq_disable();
		kmasked_off(3 * tenth);
		local_irq_enable();
		kmasked_on(7 * tenth);
		cond_resched();
	}
	return 0;
}

static int __init start(void)
{
	thread = kthread_run(kmasked_work, NULL, "kmasked");
	return PTR_ERR_OR_ZERO(thread);
}
module_init(start);

static void __exit finish(void)
{
	kthread_stop(thread);
}
module_exit(finish);

MODULE_DESCRIPTION("Load with interrupts off, for tests of the paravirtual profiling device");
MODULE_LICENSE("GPL");
