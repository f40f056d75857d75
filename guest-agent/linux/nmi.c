// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host's clock: NMIs, which also reach code that runs with interrupts off.
 *
 *   host ──NMI──> handle ──> ring of the CPU ──irq_work, or whoever posts for the CPU──> cpu_buffer
 *
 * The clock cell (docs/virtio-oprofile.md) tells the host's NMIs from others, which are left to their own handlers, and tells
 * the host that a CPU idles. A handler may take no lock, so a sample with its call chain goes to a ring that one NMI writes at a time,
 * and that is read under the CPU buffer's lock.
 *
 * A task in a ring stays what it is: it was the current one, with interrupts off until the irq_work has run, or the irq_work runs
 * at once; and a task is freed a grace period after it has left its CPU for good, which waits for that.
 */

#include <linux/gfp.h>
#include <linux/irq_work.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/virtio_config.h>
#include <asm/nmi.h>

#include "virtio_oprofile.h"

/* Samples that wait at most: a CPU at 1 kHz may have its interrupts off for 64 ms. A power of two. */
#define RING_ENTRIES 64u
/* A cache line for each CPU's cell. */
#define CELL_STRIDE 64u

static_assert(sizeof(struct oprofile_clock_cell) <= CELL_STRIDE);

static bool take_nmis = true;
module_param_named(host_nmi, take_nmis, bool, 0444);
MODULE_PARM_DESC(host_nmi, "take the host's NMIs as the sampling clock, if it offers them");

struct nmi_clock {
	struct oprofile_clock_cell *cell;
	/* The host has been asked for NMIs; they are samples. */
	bool armed, sampling;
	/* Entries written and read since the start, wrapping; samples that found the ring full. */
	u32 written, read;
	atomic_t lost;
	struct taken_sample entries[RING_ENTRIES];
};

static struct oprofile_device *device;
static struct nmi_clock **clocks;
static void *cells;
static size_t cell_bytes;

static void drain(struct irq_work *work)
{
	cpu_buffer_drain(device);
}

/* Initialised when it is used first: pointers in a module's per-CPU data are not relocated (6.1). */
static DEFINE_PER_CPU(struct irq_work, drain_work);

/* In the NMI. */

static void take_sample(struct nmi_clock *clock, u32 cpu, struct pt_regs *regs)
{
	struct taken_sample *sample = &clock->entries[clock->written % RING_ENTRIES];
	struct chain chain = {
		.entries = sample->callers,
		.most = min(cpu_buffer_depth(device, cpu), MAX_BACKTRACE_DEPTH),
	};

	if (clock->written - smp_load_acquire(&clock->read) >= RING_ENTRIES) {
		atomic_inc(&clock->lost);
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
	smp_store_release(&clock->written, clock->written + 1);
}
NOKPROBE_SYMBOL(take_sample);

static int handle(unsigned int type, struct pt_regs *regs)
{
	u32 cpu = raw_smp_processor_id(), sent, ours;
	struct nmi_clock *clock;

	if (cpu >= device->vcpus)
		return NMI_DONE;
	clock = clocks[cpu];
	sent = le32_to_cpu(READ_ONCE(clock->cell->sent));
	ours = sent - le32_to_cpu(clock->cell->taken);
	if (!ours)
		return NMI_DONE;
	WRITE_ONCE(clock->cell->taken, cpu_to_le32(sent));
	if (READ_ONCE(clock->sampling) && clock->cell->busy) {
		take_sample(clock, cpu, regs);
		irq_work_queue(this_cpu_ptr(&drain_work));
	}
	/* Two: one that the host gave up and sent again may follow at once, and is then no unknown one. */
	return min(ours, 2u);
}
NOKPROBE_SYMBOL(handle);

/* Under the CPU buffer's lock. */

const struct taken_sample *nmi_clock_next(u32 cpu)
{
	struct nmi_clock *clock;

	if (!clocks)
		return NULL;
	clock = clocks[cpu];
	if (clock->read == smp_load_acquire(&clock->written))
		return NULL;
	return &clock->entries[clock->read % RING_ENTRIES];
}

void nmi_clock_done(u32 cpu)
{
	struct nmi_clock *clock = clocks[cpu];

	smp_store_release(&clock->read, clock->read + 1);
}

u32 nmi_clock_lost(u32 cpu)
{
	return clocks && atomic_read(&clocks[cpu]->lost) ? atomic_xchg(&clocks[cpu]->lost, 0) : 0;
}

/* Begin and end. */

/* Interrupts are off. */
void nmi_clock_busy(u32 cpu, bool busy)
{
	WRITE_ONCE(clocks[cpu]->cell->busy, cpu_to_le32(busy));
}

static void tell_busy(void *unused)
{
	nmi_clock_busy(smp_processor_id(), !is_idle_task(current));
}

static int ask(u32 cpu, u64 cell)
{
	struct oprofile_host_clock request = {
		.vcpu = cpu_to_le32(cpu),
		.apic_id = cpu_to_le32(cpu_physical_id(cpu)),
		.cell = cpu_to_le64(cell),
	};
	int error;

	mutex_lock(&device->control_lock);
	request_start(device);
	request_push(device, &request, sizeof(request));
	error = request_submit(device, OPROFILE_KIND_HOST_CLOCK, 0);
	mutex_unlock(&device->control_lock);
	return error;
}

bool nmi_clock_has(u32 cpu)
{
	return clocks && cpu < device->vcpus;
}

bool nmi_clock_start(u32 cpu)
{
	struct nmi_clock *clock = clocks[cpu];

	if (!clock->armed) {
		memset(clock->cell, 0, sizeof(*clock->cell));
		smp_call_function_single(cpu, tell_busy, NULL, true);
		clock->armed = !ask(cpu, virt_to_phys(clock->cell));
	}
	WRITE_ONCE(clock->sampling, clock->armed);
	return clock->armed;
}

static void nothing(void *unused)
{
}

void nmi_clock_stop(u32 cpu)
{
	struct nmi_clock *clock;

	if (!nmi_clock_has(cpu))
		return;
	clock = clocks[cpu];
	WRITE_ONCE(clock->sampling, false);
	if (clock->armed && !ask(cpu, 0)) {
		clock->armed = false;
		/* One that was sent before comes before the CPU does anything else. */
		smp_call_function_single(cpu, nothing, NULL, true);
	}
	irq_work_sync(per_cpu_ptr(&drain_work, cpu));
}

/* What is left in the rings is with the CPU buffers: they are read there. */
static void free_clocks(struct oprofile_device *dev)
{
	u32 cpu;

	for (cpu = 0; clocks && cpu < dev->vcpus; cpu++)
		kvfree(clocks[cpu]);
	kfree(clocks);
	if (cells)
		free_pages_exact(cells, cell_bytes);
	clocks = NULL;
	cells = NULL;
}

bool nmi_clock_wanted(const struct oprofile_device *dev)
{
	return take_nmis && (dev->settings.capabilities & OPROFILE_CAPABILITY_HOST_NMI);
}

int nmi_clock_init(struct oprofile_device *dev)
{
	int error = -ENOMEM;
	int cpu;

	if (!(dev->capabilities & OPROFILE_CAPABILITY_HOST_NMI))
		return 0;
	device = dev;
	cell_bytes = PAGE_ALIGN(dev->vcpus * CELL_STRIDE);
	cells = alloc_pages_exact(cell_bytes, GFP_KERNEL | __GFP_ZERO);
	clocks = kcalloc(dev->vcpus, sizeof(*clocks), GFP_KERNEL);
	if (!cells || !clocks)
		goto free;
	for (cpu = 0; cpu < dev->vcpus; cpu++) {
		clocks[cpu] = kvzalloc(sizeof(**clocks), GFP_KERNEL);
		if (!clocks[cpu])
			goto free;
		clocks[cpu]->cell = cells + cpu * CELL_STRIDE;
	}
	for_each_possible_cpu(cpu)
		per_cpu(drain_work, cpu) = IRQ_WORK_INIT_HARD(drain);
	error = register_nmi_handler(NMI_LOCAL, handle, 0, DRIVER_NAME);
	if (!error)
		return 0;
free:
	free_clocks(dev);
	return error;
}

void nmi_clock_exit(void)
{
	struct oprofile_device *dev = device;
	bool answered = true;
	u32 cpu;

	if (!clocks)
		return;
	for (cpu = 0; cpu < dev->vcpus; cpu++) {
		nmi_clock_stop(cpu);
		answered &= !clocks[cpu]->armed;
	}
	if (!answered) {
		/* Without a handler an NMI may be the end of this kernel: the device must stop, asked or not. */
		dev->dead = true;
		virtio_reset_device(dev->vdev);
		on_each_cpu(nothing, NULL, true);
	}
	unregister_nmi_handler(NMI_LOCAL, DRIVER_NAME);
	for (cpu = 0; cpu < dev->vcpus; cpu++)
		irq_work_sync(per_cpu_ptr(&drain_work, cpu));
	free_clocks(dev);
	device = NULL;
}
