// SPDX-License-Identifier: GPL-2.0-only
/* The sampling clock: on each CPU the host's NMIs where it offers them, or a timer; both rest while the CPU idles. */

#include <linux/cpu.h>
#include <linux/hrtimer.h>
#include <linux/percpu.h>
#include <linux/smp.h>
#include <linux/version.h>
#include <asm/irq_regs.h>
#include <trace/events/power.h>

#include "virtio_oprofile.h"

static struct oprofile_device *device;
/* Nanoseconds between samples; 0: the clocks are off. */
static u64 period;

struct cpu_clock {
	struct hrtimer timer;
	bool online;
	/* The host gives the clock, so the timer stays off. */
	bool by_host;
};

static DEFINE_PER_CPU(struct cpu_clock, clocks);

static enum hrtimer_restart expired(struct hrtimer *timer)
{
	u64 now = READ_ONCE(period);

	if (!now)
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

	if (!now || !clock->online || clock->by_host)
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

	if (!READ_ONCE(period) || !clock->online)
		return;
	if (clock->by_host) {
		nmi_clock_busy(cpu, state == (u32)PWR_EVENT_EXIT);
		if (state != (u32)PWR_EVENT_EXIT)
			cpu_buffer_idle(device);
		return;
	}
	if (state == (u32)PWR_EVENT_EXIT) {
		if (!hrtimer_active(&clock->timer))
			start_here(NULL);
	} else if (hrtimer_active(&clock->timer)) {
		stop_here(NULL);
		cpu_buffer_idle(device);
	}
}

/* Before the host is asked, so that the CPU tells it from the beginning whether it idles. */
static void start_by_host(u32 cpu)
{
	struct cpu_clock *clock = &per_cpu(clocks, cpu);

	if (!READ_ONCE(period) || !clock->online || !nmi_clock_has(cpu))
		return;
	hrtimer_cancel(&clock->timer);
	clock->by_host = true;
	if (!nmi_clock_start(cpu))
		clock->by_host = false;
}

void clock_cpu_online(u32 cpu)
{
	per_cpu(clocks, cpu).online = true;
	start_by_host(cpu);
	smp_call_function_single(cpu, start_here, NULL, true);
}

void clock_cpu_offline(u32 cpu)
{
	per_cpu(clocks, cpu).online = false;
	hrtimer_cancel(&per_cpu(clocks, cpu).timer);
	nmi_clock_stop(cpu);
}

void clock_run(u64 period_ns)
{
	int cpu;

	WRITE_ONCE(period, period_ns);
	for_each_possible_cpu(cpu)
		start_by_host(cpu);
	on_each_cpu(start_here, NULL, true);
}

void clock_stop(void)
{
	int cpu;

	WRITE_ONCE(period, 0);
	for_each_possible_cpu(cpu)
		hrtimer_cancel(&per_cpu(clocks, cpu).timer);
	for_each_possible_cpu(cpu)
		nmi_clock_stop(cpu);
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
		per_cpu(clocks, cpu).by_host = false;
	}
	error = nmi_clock_init(dev);
	if (error)
		return error;
	error = register_trace_cpu_idle(on_idle, NULL);
	if (error)
		nmi_clock_exit();
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
	device = NULL;
}
