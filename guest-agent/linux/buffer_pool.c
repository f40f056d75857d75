// SPDX-License-Identifier: GPL-2.0-only
/*
 * A CPU's sample buffers. One is open, the others are free, with the device, or back from it and waiting for process
 * context, where what they held is let go:
 *
 *   free ──> open ──> in flight ──> used ──(work)──> free
 *
 * The lock is taken with interrupts off by the timer, and by others that post for this CPU.
 */

#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>

#include "buffer_pool.h"

/* Each buffer in flight takes a descriptor. */
#define MAX_BUFFERS OPROFILE_QUEUE_SIZE
/* One to write to, one with the device, and some that wait to be let go. */
#define MIN_BUFFERS 4u

static bool hold_mm;
module_param(hold_mm, bool, 0444);
MODULE_PARM_DESC(hold_mm,
		 "keep address spaces alive until their samples are resolved, also where the device has a flush doorbell");

/* For tests: so many references to tasks are never given back; they must see that. */
static unsigned int leak;
module_param(leak, uint, 0444);
MODULE_PARM_DESC(leak, "for tests: leave so many references to tasks behind");
static atomic_t leaked;

bool pool_keeps_spaces(const struct oprofile_device *dev)
{
	return hold_mm || (!(dev->capabilities & OPROFILE_CAPABILITY_FLUSH_DOORBELL) && !unprotected);
}

/* Buffers. The lock is held. */

bool pool_has_news(const struct cpu_buffer *buffer)
{
	const struct cpu_counters *now = &buffer->counters, *told = &buffer->told;

	return now->received != told->received || now->lost != told->lost ||
	       now->aborted != told->aborted || now->invalid != told->invalid;
}

/* Makes the open buffer available; the device looks at each queue ten times a second, so nobody is notified. */
bool pool_post(struct cpu_buffer *buffer)
{
	struct sample_buffer *open = buffer->open;
	struct oprofile_buffer_header *header;
	struct scatterlist sg;

	if (!open || buffer->dev->dead || (open->used == HEADER_WORDS && !pool_has_news(buffer)))
		return false;
	header = (void *)open->words;
	*header = (struct oprofile_buffer_header){
		.magic = cpu_to_le32(OPROFILE_SAMPLE_MAGIC),
		.version = cpu_to_le16(OPROFILE_PROTOCOL_VERSION),
		.header_bytes = cpu_to_le16(sizeof(*header)),
		.vcpu = cpu_to_le32(buffer->cpu),
		.entry_bytes = cpu_to_le32((open->used - HEADER_WORDS) * sizeof(u64)),
		.sequence = cpu_to_le64(buffer->sequence),
		.clock_ns = cpu_to_le64(ktime_get_mono_fast_ns()),
		.received = cpu_to_le64(buffer->counters.received),
		.lost = cpu_to_le64(buffer->counters.lost),
		.aborted = cpu_to_le64(buffer->counters.aborted),
		.invalid = cpu_to_le64(buffer->counters.invalid),
		.samples = cpu_to_le32(open->samples),
	};
	sg_init_one(&sg, open->words, open->used * sizeof(u64));
	/* A single descriptor needs no memory. */
	if (virtqueue_add_outbuf(buffer->vq, &sg, 1, open, GFP_ATOMIC))
		return false;
	list_move_tail(&open->link, &buffer->in_flight);
	buffer->open = NULL;
	buffer->sequence++;
	buffer->told = buffer->counters;
	buffer->counters.posted++;
	return true;
}

void pool_reap(struct cpu_buffer *buffer)
{
	struct sample_buffer *done;
	unsigned int length;

	if (buffer->dev->dead)
		return;
	while ((done = virtqueue_get_buf(buffer->vq, &length))) {
		/* What it holds may have to be freed, which may wait. */
		if (done->task_count || done->mm_count)
			list_move_tail(&done->link, &buffer->used);
		else
			list_move_tail(&done->link, &buffer->free);
	}
	if (!list_empty(&buffer->used))
		schedule_work(&buffer->release_work);
}

bool pool_open(struct cpu_buffer *buffer)
{
	struct sample_buffer *next;

	if (buffer->open)
		return true;
	next = list_first_entry_or_null(&buffer->free, struct sample_buffer, link);
	if (!next)
		return false;
	list_del_init(&next->link);
	next->used = HEADER_WORDS;
	next->samples = 0;
	next->opened_ns = ktime_get_mono_fast_ns();
	buffer->open = next;
	/* It must be understood without the one before. */
	buffer->last_is_kernel = -1;
	buffer->last_task = NULL;
	return true;
}

static void kick_if_pressed(struct cpu_buffer *buffer)
{
	if (list_is_singular(&buffer->free) || list_empty(&buffer->free)) {
		virtqueue_kick(buffer->vq);
		buffer->counters.kicks++;
	}
}

void pool_next(struct cpu_buffer *buffer)
{
	if (buffer->open && buffer->open->used > HEADER_WORDS)
		pool_post(buffer);
	pool_reap(buffer);
	pool_open(buffer);
	kick_if_pressed(buffer);
}

/* Process context: the last reference to an address space may have to wait. */
static void let_go(struct cpu_buffer *buffer, struct sample_buffer *done)
{
	u32 i;

	for (i = 0; i < done->task_count; i++) {
		if (leak && atomic_add_unless(&leaked, 1, leak))
			continue;
		put_task_struct(done->tasks[i]);
		object_gone(OBJECT_TASK);
	}
	for (i = 0; i < done->mm_count && pool_keeps_spaces(buffer->dev); i++) {
		mmput(done->mms[i]);
		object_gone(OBJECT_SPACE);
	}
	done->task_count = done->mm_count = 0;
}

/* Lets go of what used buffers held. */
static void release_used(struct work_struct *work)
{
	struct cpu_buffer *buffer = container_of(work, struct cpu_buffer, release_work);
	struct sample_buffer *done;
	unsigned long flags;

	for (;;) {
		raw_spin_lock_irqsave(&buffer->lock, flags);
		done = list_first_entry_or_null(&buffer->used, struct sample_buffer, link);
		if (done)
			list_del_init(&done->link);
		raw_spin_unlock_irqrestore(&buffer->lock, flags);
		if (!done)
			return;
		let_go(buffer, done);
		raw_spin_lock_irqsave(&buffer->lock, flags);
		list_add_tail(&done->link, &buffer->free);
		raw_spin_unlock_irqrestore(&buffer->lock, flags);
	}
}

/* What a buffer refers to must stay what it is until the device has looked. */

static bool is_held(void *const *held, u32 count, const void *pointer)
{
	u32 i;

	for (i = count; i-- > 0;)
		if (held[i] == pointer)
			return true;
	return false;
}

bool pool_can_hold(const struct cpu_buffer *buffer, struct task_struct *task, struct mm_struct *mm)
{
	const struct sample_buffer *open = buffer->open;

	return (open->task_count < MAX_HELD ||
		is_held((void *const *)open->tasks, open->task_count, task)) &&
	       (!mm || open->mm_count < MAX_HELD ||
		is_held((void *const *)open->mms, open->mm_count, mm));
}

void pool_hold(struct cpu_buffer *buffer, struct task_struct *task, struct mm_struct *mm)
{
	struct sample_buffer *open = buffer->open;

	if (!is_held((void *const *)open->tasks, open->task_count, task)) {
		get_task_struct(task);
		object_taken(OBJECT_TASK);
		open->tasks[open->task_count++] = task;
	}
	if (mm && !is_held((void *const *)open->mms, open->mm_count, mm)) {
		/* The current task has a count of its own. */
		if (pool_keeps_spaces(buffer->dev)) {
			mmget(mm);
			object_taken(OBJECT_SPACE);
		}
		open->mms[open->mm_count++] = mm;
	}
}

bool buffer_holds(const struct sample_buffer *samples, u64 mm)
{
	return is_held((void *const *)samples->mms, samples->mm_count, (const void *)mm);
}

bool pool_holds(struct cpu_buffer *buffer, u64 mm)
{
	struct sample_buffer *samples;

	if (buffer->open && buffer_holds(buffer->open, mm))
		return true;
	list_for_each_entry(samples, &buffer->in_flight, link)
		if (buffer_holds(samples, mm))
			return true;
	return false;
}

static u32 buffer_count(const struct settings *settings)
{
	u64 bytes = (u64)settings->cpu_buffer_entries * OPROFILE_ENTRY_BYTES;
	u64 room = settings->sample_buffer_bytes - sizeof(struct oprofile_buffer_header);

	return clamp_t(u64, DIV_ROUND_UP_ULL(bytes, room), MIN_BUFFERS, MAX_BUFFERS);
}

static int init_one(struct oprofile_device *dev, u32 cpu)
{
	struct cpu_buffer *buffer = &dev->buffers[cpu];
	u32 count, i;

	raw_spin_lock_init(&buffer->lock);
	INIT_LIST_HEAD(&buffer->free);
	INIT_LIST_HEAD(&buffer->in_flight);
	INIT_LIST_HEAD(&buffer->used);
	INIT_WORK(&buffer->release_work, release_used);
	buffer->dev = dev;
	buffer->cpu = cpu;
	buffer->vq = dev->queues[1 + cpu];
	buffer->capacity = dev->settings.sample_buffer_bytes / sizeof(u64);
	buffer->last_is_kernel = -1;
	count = min(buffer_count(&dev->settings), virtqueue_get_vring_size(buffer->vq));
	buffer->all = kcalloc(count, sizeof(*buffer->all), GFP_KERNEL);
	if (!buffer->all)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct sample_buffer *one = &buffer->all[i];

		one->words = kmalloc(dev->settings.sample_buffer_bytes, GFP_KERNEL);
		if (!one->words)
			return -ENOMEM;
		object_taken(OBJECT_BUFFER);
		list_add_tail(&one->link, &buffer->free);
		buffer->count++;
	}
	return 0;
}

int cpu_buffers_init(struct oprofile_device *dev)
{
	u32 cpu;
	int error = 0;

	dev->buffers = kcalloc(dev->vcpus, sizeof(*dev->buffers), GFP_KERNEL);
	if (!dev->buffers)
		return -ENOMEM;
	for (cpu = 0; cpu < dev->vcpus && !error; cpu++)
		error = init_one(dev, cpu);
	return error;
}

/* The device has been reset: it holds nothing any more. */
void cpu_buffers_free(struct oprofile_device *dev)
{
	u32 cpu, i;

	if (!dev->buffers)
		return;
	for (cpu = 0; cpu < dev->vcpus; cpu++) {
		struct cpu_buffer *buffer = &dev->buffers[cpu];

		if (!buffer->all)
			continue;
		cancel_work_sync(&buffer->release_work);
		for (i = 0; i < buffer->count; i++) {
			let_go(buffer, &buffer->all[i]);
			kfree(buffer->all[i].words);
			object_gone(OBJECT_BUFFER);
		}
		kfree(buffer->all);
	}
	kfree(dev->buffers);
	dev->buffers = NULL;
}
