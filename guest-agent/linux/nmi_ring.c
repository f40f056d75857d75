// SPDX-License-Identifier: GPL-2.0-only
/*
 * Samples taken where no lock may be taken: in an NMI, or in whatever else a counter's overflow comes by.
 *
 *   nmi, perf_clock ──> ring of the CPU ──irq_work, or whoever posts for the CPU──> cpu_buffer
 *
 * One handler of a CPU writes at a time, as it has one clock and NMIs do not nest; it is read under the CPU buffer's lock.
 *
 * A task in a ring stays what it is: it was the current one, with interrupts off until the irq_work has run, or the irq_work runs
 * at once; and a task is freed a grace period after it has left its CPU for good, which waits for that.
 */

#include <linux/irq_work.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/ptrace.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "virtio_oprofile.h"

/* Samples that wait at most: a CPU at 1 kHz may have its interrupts off for 64 ms. A power of two. */
#define RING_ENTRIES 64u

struct nmi_ring {
	/* Entries written and read since the start, wrapping; samples that found the ring full. */
	u32 written, read;
	atomic_t lost;
	struct taken_sample entries[RING_ENTRIES];
};

static struct oprofile_device *device;
static struct nmi_ring **rings;

static void drain(struct irq_work *work)
{
	cpu_buffer_drain(device);
}

/* Initialised when it is used first: pointers in a module's per-CPU data are not relocated (6.1). */
static DEFINE_PER_CPU(struct irq_work, drain_work);

static void take(struct nmi_ring *ring, u32 cpu, struct pt_regs *regs)
{
	struct taken_sample *sample = &ring->entries[ring->written % RING_ENTRIES];
	struct chain chain = {
		.entries = sample->callers,
		.most = min(cpu_buffer_depth(device, cpu), MAX_BACKTRACE_DEPTH),
	};

	if (ring->written - smp_load_acquire(&ring->read) >= RING_ENTRIES) {
		atomic_inc(&ring->lost);
		return;
	}
	sample->pc = instruction_pointer(regs);
	sample->is_kernel = !user_mode(regs);
	sample->task = current;
	sample->mm = current->mm;
	if (chain.most)
		backtrace_walk(regs, &chain);
	sample->count = chain.count;
	sample->aborted = chain.aborted;
	smp_store_release(&ring->written, ring->written + 1);
}
NOKPROBE_SYMBOL(take);

void nmi_ring_take(u32 cpu, struct pt_regs *regs)
{
	take(rings[cpu], cpu, regs);
	irq_work_queue(this_cpu_ptr(&drain_work));
}
NOKPROBE_SYMBOL(nmi_ring_take);

/* Under the CPU buffer's lock. */

const struct taken_sample *nmi_ring_next(u32 cpu)
{
	struct nmi_ring **all = READ_ONCE(rings), *ring;

	if (!all)
		return NULL;
	ring = all[cpu];
	if (ring->read == smp_load_acquire(&ring->written))
		return NULL;
	return &ring->entries[ring->read % RING_ENTRIES];
}

void nmi_ring_done(u32 cpu)
{
	struct nmi_ring **all = READ_ONCE(rings);

	if (all)
		smp_store_release(&all[cpu]->read, all[cpu]->read + 1);
}

u32 nmi_ring_lost(u32 cpu)
{
	struct nmi_ring **all = READ_ONCE(rings);

	return all && atomic_read(&all[cpu]->lost) ? atomic_xchg(&all[cpu]->lost, 0) : 0;
}

/* Begin and end. */

static void free_rings(struct nmi_ring **all)
{
	u32 cpu;

	for (cpu = 0; cpu < device->vcpus; cpu++)
		kvfree(all[cpu]);
	kfree(all);
}

void nmi_ring_sync(u32 cpu)
{
	if (rings)
		irq_work_sync(per_cpu_ptr(&drain_work, cpu));
}

int nmi_ring_init(struct oprofile_device *dev)
{
	struct nmi_ring **all = kcalloc(dev->vcpus, sizeof(*all), GFP_KERNEL);
	int cpu;

	device = dev;
	for_each_possible_cpu(cpu)
		per_cpu(drain_work, cpu) = IRQ_WORK_INIT_HARD(drain);
	if (!all)
		return -ENOMEM;
	for (cpu = 0; cpu < dev->vcpus; cpu++) {
		all[cpu] = kvzalloc(sizeof(**all), GFP_KERNEL);
		if (!all[cpu]) {
			free_rings(all);
			return -ENOMEM;
		}
	}
	WRITE_ONCE(rings, all);
	return 0;
}

void nmi_ring_exit(void)
{
	struct nmi_ring **all = rings;
	u32 cpu;

	if (!all)
		return;
	for (cpu = 0; cpu < device->vcpus; cpu++)
		nmi_ring_sync(cpu);
	WRITE_ONCE(rings, NULL);
	/* Whoever flushes looks into the rings with interrupts off. */
	synchronize_rcu();
	free_rings(all);
}
