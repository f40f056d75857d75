/* SPDX-License-Identifier: GPL-2.0-only */
/* What buffer_pool.c and cpu_buffer.c share: a CPU's sample buffers. */
#ifndef BUFFER_POOL_H
#define BUFFER_POOL_H

#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "virtio_oprofile.h"

/* Tasks and address spaces that a buffer holds; when it has so many it is posted. */
#define MAX_HELD 16u
/* Words of the longest sample, its callers aside: with its note, and what a test adds. */
#define SAMPLE_WORDS 5u
#define TRUTH_WORDS 10u
#define HEADER_WORDS (sizeof(struct oprofile_buffer_header) / sizeof(u64))

struct sample_buffer {
	struct list_head link;
	u64 *words;
	u32 used;
	u32 samples;
	u64 opened_ns;
	struct task_struct *tasks[MAX_HELD];
	struct mm_struct *mms[MAX_HELD];
	u32 task_count, mm_count;
};

struct cpu_buffer {
	raw_spinlock_t lock;
	struct oprofile_device *dev;
	struct virtqueue *vq;
	u32 cpu;
	u32 capacity;
	bool active;
	u32 depth;

	struct sample_buffer *all;
	u32 count;
	struct sample_buffer *open;
	struct list_head free, in_flight, used;
	struct work_struct release_work;

	/* What the last note told; -1: nothing. */
	int last_is_kernel;
	struct task_struct *last_task;

	u64 sequence;
	struct cpu_counters counters, told;
};

/* buffer_pool.c. The lock is held. */
bool pool_keeps_spaces(const struct oprofile_device *dev);
bool pool_has_news(const struct cpu_buffer *buffer);
bool pool_post(struct cpu_buffer *buffer);
void pool_reap(struct cpu_buffer *buffer);
bool pool_open(struct cpu_buffer *buffer);
void pool_next(struct cpu_buffer *buffer);
/* What the open buffer refers to must stay what it is until the device has looked. */
bool pool_can_hold(const struct cpu_buffer *buffer, struct task_struct *task, struct mm_struct *mm);
void pool_hold(struct cpu_buffer *buffer, struct task_struct *task, struct mm_struct *mm);
bool buffer_holds(const struct sample_buffer *samples, u64 mm);
/* Whether the open buffer or one in flight has samples of an address space. */
bool pool_holds(struct cpu_buffer *buffer, u64 mm);

#endif
