/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The parts of the driver and what they are to each other.
 *
 *   nmi, perf_clock ──> nmi_ring ──> cpu_buffer
 *   clock ──> cpu_buffer ──> sample queue of the CPU ──> device
 *   hooks ──> cpu_buffer (posts), doorbell
 *   driver ──> control queue: hello (describe), CPUs, modules and symbols, quiesced
 *   perf_map ──> control queue: functions of compiled code, when the device asks
 */
#ifndef VIRTIO_OPROFILE_H
#define VIRTIO_OPROFILE_H

#include <linux/completion.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include <linux/virtio.h>
#include <linux/workqueue.h>

#include "oprofile_wire.h"

#define DRIVER_NAME "virtio_oprofile"

/* Capabilities that this driver uses where they are offered. */
#define USED_CAPABILITIES                                             \
	(OPROFILE_CAPABILITY_FLUSH_DOORBELL | OPROFILE_CAPABILITY_BACKTRACE | \
	 OPROFILE_CAPABILITY_KERNEL_SYMBOLS | OPROFILE_CAPABILITY_PERF_MAPS)

/* Longest call chain, whatever the host asks for: bounds the time in the timer's interrupt. */
#define MAX_BACKTRACE_DEPTH 64u
/* Words of a caller in a sample buffer. */
#define FRAME_WORDS 2u

/* What the host wants; of one configuration generation. */
struct settings {
	u64 capabilities;
	u32 vcpus;
	bool enabled;
	u64 period_ns;
	u32 backtrace_depth;
	u32 cpu_buffer_entries;
	u32 sample_buffer_bytes;
	u32 wanted_maps;
};

struct cpu_buffer;

/* objects.c: what the driver takes and must give back. */
enum object_kind {
	OBJECT_DEVICE,
	OBJECT_REQUEST,
	OBJECT_BUFFER,
	OBJECT_TASK,
	OBJECT_SPACE,
	OBJECT_PROBE,
	OBJECT_EVENT,
	OBJECT_FILE,
	OBJECT_KINDS,
};

void object_taken(enum object_kind kind);
void object_gone(enum object_kind kind);
/* A line for each kind, for sysfs. */
ssize_t objects_describe(char *text);
/* Complains of what is out. */
void objects_check(void);

/* The device: there is one at most. */
struct oprofile_device {
	struct virtio_device *vdev;
	struct settings settings;
	/* In force since hello; 0 before. */
	u64 capabilities;
	/* Of the guest's own counter between samples; 0: the clock is another. */
	u32 cycles;
	/* CPUs that have a queue: 0 to vcpus - 1. */
	u32 vcpus;
	bool ready;
	/* The device is gone: nothing is posted or asked any more. */
	bool dead;
	struct virtqueue **queues;
	struct work_struct config_work;
	/* Sends perf maps; one at a time. */
	struct work_struct maps_work;
	struct mutex maps_lock;
	/* Looks whether the device still works. */
	struct delayed_work watch;
	/* It is being started anew. */
	bool failed;

	/* The control queue: one request at a time. */
	struct mutex control_lock;
	struct completion answered;
	struct oprofile_response *response;
	u8 *request;
	u32 request_used;

	struct cpu_buffer *buffers;
};

/* buffer_pool.c: a CPU's sample buffers; cpu_buffer.c: OProfile's rules of writing them. */
struct cpu_counters {
	u64 received, lost, aborted, invalid, posted, kicks, doorbells;
	/* Of those received, what no posted buffer has told the device of. */
	u64 untold;
};

int cpu_buffers_init(struct oprofile_device *dev);
void cpu_buffers_free(struct oprofile_device *dev);
void cpu_buffer_sample(struct oprofile_device *dev, struct pt_regs *regs);
void cpu_buffer_idle(struct oprofile_device *dev);
void cpu_buffers_activate(struct oprofile_device *dev, bool active, u32 depth);
bool cpu_buffer_post_everything(struct oprofile_device *dev, u32 cpu);
/* Posts what CPU's buffers hold of an address space, with a note of what becomes of it; whether there was any. */
bool cpu_buffer_post_space(struct oprofile_device *dev, u32 cpu, u64 mm, u64 note);
bool cpu_buffers_hold(struct oprofile_device *dev, u64 mm);
/* Lets go of what the device has used; nothing of the CPU's NMIs waits, as posting and flushing take that along. */
void cpu_buffer_reap(struct oprofile_device *dev, u32 cpu);
void cpu_buffers_count(struct oprofile_device *dev, struct cpu_counters *sum);

/* Takes what the CPU's NMIs have sampled, in the irq_work that they ask for. */
void cpu_buffer_drain(struct oprofile_device *dev);
/* Frames that a call chain of this CPU may have; to be asked from an NMI. */
u32 cpu_buffer_depth(const struct oprofile_device *dev, u32 cpu);

/* backtrace.c: a sample's callers, nearest first, as entries of a sample buffer. */
struct chain {
	u64 *entries;
	/* Entries that there are, and room for. */
	u32 count, most;
	/* It held what is no address. */
	bool aborted;
};
void backtrace_walk(struct pt_regs *regs, struct chain *chain);

/* clock.c: a timer on each CPU that rests while the CPU idles. */
int clock_init(struct oprofile_device *dev);
void clock_exit(void);
void clock_run(u64 period_ns);
void clock_stop(void);
void clock_cpu_online(u32 cpu);
void clock_cpu_offline(u32 cpu);

/* nmi_ring.c: samples that an NMI has taken. Where no clock needs it nothing waits. */
struct taken_sample {
	u64 pc;
	struct task_struct *task;
	struct mm_struct *mm;
	bool is_kernel;
	/* Its callers, as `struct chain` has them. */
	bool aborted;
	u32 count;
	u64 callers[FRAME_WORDS * MAX_BACKTRACE_DEPTH];
};

int nmi_ring_init(struct oprofile_device *dev);
/* Nobody takes samples any more. */
void nmi_ring_exit(void);
/* Takes a sample of this CPU; in an NMI, or with interrupts off. */
void nmi_ring_take(u32 cpu, struct pt_regs *regs);
/* When it returns, all that the CPU's handlers have taken before is in its buffers. */
void nmi_ring_sync(u32 cpu);
/* The oldest sample that waits in the CPU's ring, and that it has been read; samples that found no room. */
const struct taken_sample *nmi_ring_next(u32 cpu);
void nmi_ring_done(u32 cpu);
u32 nmi_ring_lost(u32 cpu);

/* perf_clock.c: the guest's own counter as the clock. Settles dev->cycles, before hello. */
void perf_clock_init(struct oprofile_device *dev);
/* Has the counter of a CPU that is online count; false: it cannot. */
bool perf_clock_start(u32 cpu);
/* When it returns, all samples of that CPU's counter are in its buffers. */
void perf_clock_stop(u32 cpu);
/* This CPU begins or ends idling; interrupts are off. */
void perf_clock_busy(bool busy);

/* nmi.c: the host's clock. Where it is not in force no CPU can start. */
bool nmi_clock_wanted(const struct oprofile_device *dev);
int nmi_clock_init(struct oprofile_device *dev);
void nmi_clock_exit(void);
/* Whether the host can give the clock of a CPU. */
bool nmi_clock_has(u32 cpu);
/* Has the host send NMIs to a CPU that is online; false: it does not. */
bool nmi_clock_start(u32 cpu);
/* When it returns, all that the CPU's NMIs have sampled is in its buffers. */
void nmi_clock_stop(u32 cpu);
void nmi_clock_busy(u32 cpu, bool busy);

/* For tests: neither flush before mappings go nor keep them, so that it shows what that is good for. */
extern bool unprotected;

/* hooks.c: what the device must know before mappings go away. */
int hooks_init(struct oprofile_device *dev);
void hooks_exit(void);

/* control.c: requests. The caller holds control_lock. */
int control_init(struct oprofile_device *dev);
void control_free(struct oprofile_device *dev);
void control_answered(struct virtqueue *vq);
void request_start(struct oprofile_device *dev);
/* Appends to the payload; false when there is no room. */
bool request_push(struct oprofile_device *dev, const void *bytes, u32 length);
int request_submit(struct oprofile_device *dev, u16 kind, u32 flags);

/* perf_map.c: what just-in-time compilers say of their code, when the device wants to know. */
void perf_maps_init(struct oprofile_device *dev);
/* The device wants some: they are sent by a work of their own. */
void perf_maps_wanted(struct oprofile_device *dev);
/* Sends what is wanted now; with `last`, also what would be a little later. */
void perf_maps_send(struct oprofile_device *dev, bool last);
/* The current task is about to give up its address space. */
void perf_map_process_ends(void);

/* describe.c */
int describe_hello(struct oprofile_device *dev);

/* btf.c: offsets of a structure's members, from the running kernel's type information. */
int btf_offsets(const char *structure, const char *const *members, u32 *offsets, u32 count);

/* symbols.c */
void symbols_image_range(u64 *start, u64 *end);
int symbols_send_kernel(struct oprofile_device *dev);
int symbols_send_modules(struct oprofile_device *dev, const struct module *coming,
			 const struct module *going);
int symbols_send_module(struct oprofile_device *dev, const struct module *module);
int symbols_send_all_modules(struct oprofile_device *dev);

#endif
