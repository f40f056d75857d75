// SPDX-License-Identifier: GPL-2.0-only
/* The sampling clock of each CPU: a counter of its own, the host's NMIs, or else a timer; all rest while the CPU idles. */

#include <linux/cpu.h>
#include <linux/hrtimer.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/smp.h>
#include <linux/version.h>
#include <asm/irq_regs.h>
#include <trace/events/power.h>

#include "virtio_oprofile.h"

static struct oprofile_device *device;
/* Nanoseconds between samples; 0: the clocks are off. */
static u64 period;

/* Where another gives the clock the timer stays off. */
enum source {
	BY_TIMER,
	BY_HOST,
	BY_COUNTER,
};

struct cpu_clock {
	struct hrtimer timer;
	bool online;
	enum source source;
};

/* Clocks begin and end one after the other: by the host's wish, and as CPUs come and go. */
static DEFINE_MUTEX(switching);

static DEFINE_PER_CPU(struct cpu_clock, clocks);

static enum hrtimer_restart expired(struct hrtimer *timer)
{
	struct cpu_clock *clock = container_of(timer, struct cpu_clock, timer);
	u64 now = READ_ONCE(period);

	/* It may have been started on the way out of the idle loop while another clock took its place. */
	if (!now || READ_ONCE(clock->source) != BY_TIMER)
		return HRTIMER_NORESTART;
	cpu_buffer_sample(device, get_irq_regs());
	hrtimer_forward_now(timer, ns_to_ktime(now));
	return HRTIMER_RESTART;
}

/* Keeps to the grid of the time before, so that a CPU that is busy for less than a period is sampled as often as it deserves. */
static void start_here(void *unused)
{
	struct cpu_clock *clock = this_cpu_ptr(&clocks);
	u64 now = READ_ONCE(period);

	if (!now || !clock->online || READ_ONCE(clock->source) != BY_TIMER)
		return;
	hrtimer_try_to_cancel(&clock->timer);
	hrtimer_forward_now(&clock->timer, ns_to_ktime(now));
	hrtimer_start_expires(&clock->timer, HRTIMER_MODE_ABS_PINNED_HARD);
}

static void stop_here(void *unused)
{
	hrtimer_try_to_cancel(&this_cpu_ptr(&clocks)->timer);
}

/* Interrupts are off. */
static void on_idle(void *unused, unsigned int state, unsigned int cpu)
{
	struct cpu_clock *clock = this_cpu_ptr(&clocks);
	enum source source = READ_ONCE(clock->source);
	bool busy = state == (u32)PWR_EVENT_EXIT;

	if (!READ_ONCE(period) || !clock->online)
		return;
	if (source != BY_TIMER) {
		if (source == BY_HOST)
			nmi_clock_busy(cpu, busy);
		else
			perf_clock_busy(busy);
		if (!busy)
			cpu_buffer_idle(device);
	} else if (busy) {
		if (!hrtimer_active(&clock->timer))
			start_here(NULL);
	} else if (hrtimer_active(&clock->timer)) {
		stop_here(NULL);
		cpu_buffer_idle(device);
	}
}

/*
 * Begins what is better than the timer. The source is told before the host is asked, so that the CPU tells it from the beginning
 * whether it idles.
 */
static void start_others(u32 cpu)
{
	struct cpu_clock *clock = &per_cpu(clocks, cpu);

	if (!READ_ONCE(period) || !clock->online)
		return;
	if (cpu < device->vcpus && device->cycles) {
		hrtimer_cancel(&clock->timer);
		WRITE_ONCE(clock->source, BY_COUNTER);
		if (perf_clock_start(cpu))
			return;
		WRITE_ONCE(clock->source, BY_TIMER);
	} else if (nmi_clock_has(cpu)) {
		hrtimer_cancel(&clock->timer);
		WRITE_ONCE(clock->source, BY_HOST);
		if (!nmi_clock_start(cpu))
			WRITE_ONCE(clock->source, BY_TIMER);
	}
}

static void stop_all(u32 cpu)
{
	hrtimer_cancel(&per_cpu(clocks, cpu).timer);
	nmi_clock_stop(cpu);
	perf_clock_stop(cpu);
}

void clock_cpu_online(u32 cpu)
{
	mutex_lock(&switching);
	per_cpu(clocks, cpu).online = true;
	start_others(cpu);
	smp_call_function_single(cpu, start_here, NULL, true);
	mutex_unlock(&switching);
}

void clock_cpu_offline(u32 cpu)
{
	mutex_lock(&switching);
	per_cpu(clocks, cpu).online = false;
	stop_all(cpu);
	mutex_unlock(&switching);
}

void clock_run(u64 period_ns)
{
	int cpu;

	mutex_lock(&switching);
	WRITE_ONCE(period, period_ns);
	for_each_possible_cpu(cpu)
		start_others(cpu);
	on_each_cpu(start_here, NULL, true);
	mutex_unlock(&switching);
}

void clock_stop(void)
{
	int cpu;

	mutex_lock(&switching);
	WRITE_ONCE(period, 0);
	for_each_possible_cpu(cpu)
		stop_all(cpu);
	mutex_unlock(&switching);
}

int clock_init(struct oprofile_device *dev)
{
	int cpu, error;

	device = dev;
	for_each_possible_cpu(cpu) {
		struct hrtimer *timer = &per_cpu(clocks, cpu).timer;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
		hrtimer_setup(timer, expired, CLOCK_MONOTONIC, HRTIMER_MODE_ABS_PINNED_HARD);
#else
		hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS_PINNED_HARD);
		timer->function = expired;
#endif
		per_cpu(clocks, cpu).online = false;
		per_cpu(clocks, cpu).source = BY_TIMER;
	}
	if (dev->cycles || dev->capabilities & OPROFILE_CAPABILITY_HOST_NMI) {
		error = nmi_ring_init(dev);
		if (error)
			return error;
	}
	error = nmi_clock_init(dev);
	if (error)
		goto rings;
	error = register_trace_cpu_idle(on_idle, NULL);
	if (!error)
		return 0;
	nmi_clock_exit();
rings:
	nmi_ring_exit();
	return error;
}

void clock_exit(void)
{
	clock_stop();
	unregister_trace_cpu_idle(on_idle, NULL);
	tracepoint_synchronize_unregister();
	/* A CPU that left its idle loop meanwhile may have seen the period of before. */
	clock_stop();
	nmi_clock_exit();
	nmi_ring_exit();
	device = NULL;
}
