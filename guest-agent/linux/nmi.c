// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host's clock: NMIs, which also reach code that runs with interrupts off.
 *
 *   host ──NMI──> handle ──> nmi_ring
 *
 * The clock cell (docs/virtio-oprofile.md) tells the host's NMIs from others, which are left to their own handlers, and tells
 * the host that a CPU idles.
 */

#include <linux/gfp.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/virtio_config.h>
#include <asm/nmi.h>

#include "virtio_oprofile.h"

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
};

static struct oprofile_device *device;
static struct nmi_clock **clocks;
static void *cells;
static size_t cell_bytes;

/* In the NMI. */

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
	if (READ_ONCE(clock->sampling) && clock->cell->busy)
		nmi_ring_take(cpu, regs);
	/* Two: one that the host gave up and sent again may follow at once, and is then no unknown one. */
	return min(ours, 2u);
}
NOKPROBE_SYMBOL(handle);

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
	nmi_ring_sync(cpu);
}

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
	return take_nmis && !dev->cycles && (dev->settings.capabilities & OPROFILE_CAPABILITY_HOST_NMI);
}

int nmi_clock_init(struct oprofile_device *dev)
{
	int error = -ENOMEM;
	u32 cpu;

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
	free_clocks(dev);
	device = NULL;
}
