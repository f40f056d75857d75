// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's own counter as the clock: a sample each so many cycles of the PMU that the hypervisor gives this machine, by a perf
 * event for each CPU. Its overflow comes as an NMI, so samples go through the NMI ring.
 *
 * A halted CPU has no cycles, so the clock rests by itself. That of the event `cpu-clock`, which is a timer of perf's and there for tests
 * and for machines without a PMU, does not, and is stopped.
 */

#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/perf_event.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "virtio_oprofile.h"

/* At least so many: 30,000 samples a second of a CPU at 3 GHz, a third of what perf itself lets through. */
#define MIN_CYCLES 100000u

static unsigned int cycles;
module_param(cycles, uint, 0444);
MODULE_PARM_DESC(cycles, "take a sample each so many cycles of this machine's PMU, not by time; 0: by time (default), else 100000 or more");

static char *cycles_event = "cycles";
module_param(cycles_event, charp, 0444);
MODULE_PARM_DESC(cycles_event, "what cycles= counts: cycles, or cpu-clock (nanoseconds), for tests and machines without a PMU");

static struct oprofile_device *device;
/* The event is perf's timer, which does not rest where a CPU idles. */
static bool is_timer;

static DEFINE_PER_CPU(struct perf_event *, events);

/* In an NMI, or for cpu-clock in a timer's interrupt. */
static void overflowed(struct perf_event *event, struct perf_sample_data *data,
		       struct pt_regs *regs)
{
	u32 cpu = raw_smp_processor_id();

	/* One that is just tried, or on its way out, is not ours. An idle CPU is not sampled, as by the other clocks. */
	if (this_cpu_read(events) != event || is_idle_task(current) || !regs)
		return;
	nmi_ring_take(cpu, regs);
}
NOKPROBE_SYMBOL(overflowed);

static void put_event(struct perf_event *event)
{
	perf_event_release_kernel(event);
	object_gone(OBJECT_EVENT);
}

/* An event of a CPU that does not count yet. */
static struct perf_event *get_event(u32 cpu)
{
	struct perf_event_attr attr = {
		.type = is_timer ? PERF_TYPE_SOFTWARE : PERF_TYPE_HARDWARE,
		.config = is_timer ? PERF_COUNT_SW_CPU_CLOCK : PERF_COUNT_HW_CPU_CYCLES,
		.size = sizeof(attr),
		.sample_period = device->cycles,
		/* All of the time: a share of it would be another rate. */
		.pinned = 1,
		.disabled = 1,
	};
	struct perf_event *event =
		perf_event_create_kernel_counter(&attr, cpu, NULL, overflowed, NULL);

	if (!IS_ERR(event))
		object_taken(OBJECT_EVENT);
	return event;
}

/* Has an event count; an error where others have all counters. */
static int enable(struct perf_event *event)
{
	perf_event_enable(event);
	return READ_ONCE(event->state) == PERF_EVENT_STATE_ACTIVE ? 0 : -EBUSY;
}

static void complain(u32 cpu, int error)
{
	dev_warn(&device->vdev->dev,
		 "cycles=%u: CPU %u cannot count %s (error %d), so time is the clock. %s\n", cycles,
		 cpu, cycles_event, error,
		 error == -EBUSY ?
			 "All counters are taken: end perf or the NMI watchdog, then unload and load the module" :
			 "This machine has no such PMU: have the hypervisor give it one, or load without cycles=");
}

bool perf_clock_start(u32 cpu)
{
	struct perf_event *event = per_cpu(events, cpu);
	int error;

	if (event)
		return true;
	event = get_event(cpu);
	if (IS_ERR(event)) {
		complain(cpu, PTR_ERR(event));
		return false;
	}
	WRITE_ONCE(per_cpu(events, cpu), event);
	error = enable(event);
	if (!error)
		return true;
	perf_clock_stop(cpu);
	complain(cpu, error);
	return false;
}

/* Whoever stops the event meanwhile, or is in its handler, has interrupts off on its CPU, which the release waits for. */
void perf_clock_stop(u32 cpu)
{
	struct perf_event *event = per_cpu(events, cpu);

	if (!event)
		return;
	WRITE_ONCE(per_cpu(events, cpu), NULL);
	put_event(event);
	nmi_ring_sync(cpu);
}

void perf_clock_busy(bool busy)
{
	struct perf_event *event = this_cpu_read(events);

	if (!is_timer || !event || event->state != PERF_EVENT_STATE_ACTIVE)
		return;
	if (busy)
		event->pmu->start(event, 0);
	else
		event->pmu->stop(event, PERF_EF_UPDATE);
}

/* What can go wrong does so here, before the host is told. */
void perf_clock_init(struct oprofile_device *dev)
{
	u32 cpu = raw_smp_processor_id();
	struct perf_event *event;
	int error;

	dev->cycles = 0;
	if (!cycles)
		return;
	device = dev;
	is_timer = sysfs_streq(cycles_event, "cpu-clock");
	if (!is_timer && !sysfs_streq(cycles_event, "cycles")) {
		dev_warn(&dev->vdev->dev,
			 "cycles_event=%s is neither cycles nor cpu-clock; time is the clock instead\n",
			 cycles_event);
		return;
	}
	if (cycles < MIN_CYCLES)
		dev_warn(&dev->vdev->dev, "cycles=%u are too few; a sample is taken each %u\n",
			 cycles, MIN_CYCLES);
	dev->cycles = max(cycles, MIN_CYCLES);
	event = get_event(cpu);
	error = PTR_ERR_OR_ZERO(event);
	if (!error) {
		error = enable(event);
		put_event(event);
	}
	if (error) {
		complain(cpu, error);
		dev->cycles = 0;
		return;
	}
	dev_info(&dev->vdev->dev, "a sample each %u of %s\n", dev->cycles, cycles_event);
}
