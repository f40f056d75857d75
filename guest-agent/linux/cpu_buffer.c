// SPDX-License-Identifier: GPL-2.0-only
/*
 * A CPU's sample buffers. One is open, the others are free, with the device, or back from it and waiting for process
 * context, where what they held is let go:
 *
 *   free ──> open ──> in flight ──> used ──(work)──> free
 *
 * The lock is taken with interrupts off by the timer, and by others that post for this CPU.
 */

#include <linux/fs.h>
#include <linux/maple_tree.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/version.h>

#include "virtio_oprofile.h"

/* Each buffer in flight takes a descriptor. */
#define MAX_BUFFERS OPROFILE_QUEUE_SIZE
/* One to write to, one with the device, and some that wait to be let go. */
#define MIN_BUFFERS 4u
/* Tasks and address spaces that a buffer holds; when it has so many it is posted. */
#define MAX_HELD 16u
/* Code of an IBS fetch record (OProfile's event buffer). */
#define OPROFILE_TRUTH_CODE 13
/* An idle CPU posts its open buffer when it is older. */
#define IDLE_POST_AGE_NS (100 * NSEC_PER_MSEC)

/* Words of a sample with its note. */
#define SAMPLE_WORDS 5u
#define TRUTH_WORDS 10u
#define HEADER_WORDS (sizeof(struct oprofile_buffer_header) / sizeof(u64))

static bool hold_mm;
module_param(hold_mm, bool, 0444);
MODULE_PARM_DESC(hold_mm,
		 "keep address spaces alive until their samples are resolved, also where the device has a flush doorbell");

/* For tests: see write_truth. */
static bool truth;
module_param(truth, bool, 0444);
MODULE_PARM_DESC(truth, "for tests: tell behind each user sample what file it lies in");

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

static bool holds_mms(const struct oprofile_device *dev)
{
	return hold_mm || (!(dev->capabilities & OPROFILE_CAPABILITY_FLUSH_DOORBELL) && !unprotected);
}

/* Entries. The caller has seen to room for a sample with all its frames. */

static bool has_room(const struct cpu_buffer *buffer, u32 words)
{
	return buffer->open && buffer->capacity - buffer->open->used >= words;
}

static bool write_entry(struct cpu_buffer *buffer, u64 eip, u64 event)
{
	if (!has_room(buffer, 2))
		return false;
	buffer->open->words[buffer->open->used++] = eip;
	buffer->open->words[buffer->open->used++] = event;
	return true;
}

static bool write_note(struct cpu_buffer *buffer, u64 flags, const void *pointer)
{
	u32 data = pointer ? 1 : 0;

	if (!has_room(buffer, 2 + data))
		return false;
	write_entry(buffer, OPROFILE_ESCAPE, flags | (u64)data << 32);
	if (pointer)
		buffer->open->words[buffer->open->used++] = (u64)pointer;
	return true;
}

/* Buffers. The lock is held. */

static bool has_news(const struct cpu_buffer *buffer)
{
	const struct cpu_counters *now = &buffer->counters, *told = &buffer->told;

	return now->received != told->received || now->lost != told->lost ||
	       now->aborted != told->aborted || now->invalid != told->invalid;
}

/* Makes the open buffer available; the device looks at each queue ten times a second, so nobody is notified. */
static bool post(struct cpu_buffer *buffer)
{
	struct sample_buffer *open = buffer->open;
	struct oprofile_buffer_header *header;
	struct scatterlist sg;

	if (!open || buffer->dev->dead || (open->used == HEADER_WORDS && !has_news(buffer)))
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

static void reap(struct cpu_buffer *buffer)
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

static bool ensure_open(struct cpu_buffer *buffer)
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

static void next_buffer(struct cpu_buffer *buffer)
{
	if (buffer->open && buffer->open->used > HEADER_WORDS)
		post(buffer);
	reap(buffer);
	ensure_open(buffer);
	kick_if_pressed(buffer);
}

/* Process context: the last reference to an address space may have to wait. */
static void let_go(struct cpu_buffer *buffer, struct sample_buffer *done)
{
	u32 i;

	for (i = 0; i < done->task_count; i++) {
		put_task_struct(done->tasks[i]);
		object_gone(OBJECT_TASK);
	}
	for (i = 0; i < done->mm_count && holds_mms(buffer->dev); i++) {
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

static bool can_hold(const struct sample_buffer *open, struct task_struct *task,
		     struct mm_struct *mm)
{
	return (open->task_count < MAX_HELD ||
		is_held((void *const *)open->tasks, open->task_count, task)) &&
	       (!mm || open->mm_count < MAX_HELD ||
		is_held((void *const *)open->mms, open->mm_count, mm));
}

static void hold(struct cpu_buffer *buffer, struct task_struct *task, struct mm_struct *mm)
{
	struct sample_buffer *open = buffer->open;

	if (!is_held((void *const *)open->tasks, open->task_count, task)) {
		get_task_struct(task);
		object_taken(OBJECT_TASK);
		open->tasks[open->task_count++] = task;
	}
	if (mm && !is_held((void *const *)open->mms, open->mm_count, mm)) {
		/* The current task has a count of its own. */
		if (holds_mms(buffer->dev)) {
			mmget(mm);
			object_taken(OBJECT_SPACE);
		}
		open->mms[open->mm_count++] = mm;
	}
}

/*
 * For tests: where the sample lies, seen from inside at this moment, as a data record with the address once more. The device
 * resolves that as it does the sample's, so a reader of its events can compare the two. The record is that of an IBS fetch
 * sample, which six values fit: inode, offset in the file (or the address, without a file), device, start and end of the mapping, process.
 */
static void write_truth(struct cpu_buffer *buffer, struct mm_struct *mm, u64 pc)
{
	const struct vm_area_struct *area;
	const struct file *file;
	u64 *words;

	if (!mm || !has_room(buffer, TRUTH_WORDS))
		return;
	/* The interrupted task is in user mode, so its address space holds still but for other threads. */
	area = mtree_load(&mm->mm_mt, pc);
	if (!area)
		return;
	file = area->vm_file;
	write_entry(buffer, OPROFILE_ESCAPE, 8ull << 32);
	words = buffer->open->words + buffer->open->used;
	words[0] = OPROFILE_TRUTH_CODE;
	words[1] = pc;
	words[2] = file ? file_inode(file)->i_ino : 0;
	words[3] = file ? ((u64)area->vm_pgoff << PAGE_SHIFT) + (pc - area->vm_start) : pc;
	words[4] = file ? file_inode(file)->i_sb->s_dev : 0;
	words[5] = area->vm_start;
	words[6] = area->vm_end;
	words[7] = current->tgid;
	buffer->open->used += 8;
}

/* Sampling. */

/* Room for callers behind the sample that was just written. */
static u32 room_for_callers(const struct cpu_buffer *buffer)
{
	return min(buffer->depth, (buffer->capacity - buffer->open->used) / FRAME_WORDS);
}

/* `count` callers have been written, of all that there were but for want of room. */
static void wrote_callers(struct cpu_buffer *buffer, u32 count, bool aborted)
{
	buffer->open->used += count * FRAME_WORDS;
	if (aborted)
		buffer->counters.aborted++;
}

/* Writes a sample; whether its call chain may follow. */
static bool write_sample(struct cpu_buffer *buffer, struct task_struct *task, struct mm_struct *mm,
			 u64 pc, bool is_kernel)
{
	u32 depth = buffer->depth;
	u64 flags = depth ? OPROFILE_NOTE_TRACE_BEGIN : 0;
	bool task_changed;

	buffer->counters.received++;
	if (pc == OPROFILE_ESCAPE) {
		buffer->counters.invalid++;
		return false;
	}
	if (!has_room(buffer, SAMPLE_WORDS + TRUTH_WORDS + FRAME_WORDS * depth) ||
	    !can_hold(buffer->open, task, mm))
		next_buffer(buffer);
	if (!has_room(buffer, SAMPLE_WORDS) || !can_hold(buffer->open, task, mm)) {
		buffer->counters.lost++;
		return false;
	}
	if (buffer->last_is_kernel != is_kernel) {
		buffer->last_is_kernel = is_kernel;
		flags |= OPROFILE_NOTE_KERNEL_CTX_SWITCH;
		if (is_kernel)
			flags |= OPROFILE_NOTE_IS_KERNEL;
	}
	task_changed = buffer->last_task != task;
	if (task_changed) {
		buffer->last_task = task;
		flags |= OPROFILE_NOTE_USER_CTX_SWITCH;
	}
	if (flags)
		write_note(buffer, flags, task_changed ? task : NULL);
	write_entry(buffer, pc, 0);
	hold(buffer, task, mm);
	buffer->open->samples++;
	if (!depth && truth && !is_kernel && task == current)
		write_truth(buffer, mm, pc);
	return depth;
}

static void sample(struct cpu_buffer *buffer, struct pt_regs *regs)
{
	struct chain chain = { 0 };

	if (!write_sample(buffer, current, current->mm, instruction_pointer(regs), !user_mode(regs)))
		return;
	chain.entries = buffer->open->words + buffer->open->used;
	chain.most = room_for_callers(buffer);
	backtrace_walk(regs, &chain);
	wrote_callers(buffer, chain.count,
		      chain.aborted || (chain.count == chain.most && chain.most < buffer->depth));
}

/* Takes what the CPU's NMIs have sampled. Whoever holds the lock does so first, so samples stay in order and none comes late. */
static void drain(struct cpu_buffer *buffer)
{
	const struct taken_sample *taken;
	u32 lost = nmi_clock_lost(buffer->cpu), count;

	for (; (taken = nmi_clock_next(buffer->cpu)); nmi_clock_done(buffer->cpu)) {
		struct mm_struct *mm = taken->mm;

		if (!buffer->active)
			continue;
		/* Only the current task's address space is sure to be there for the taking. */
		if (taken->task != current && holds_mms(buffer->dev))
			mm = NULL;
		if (!write_sample(buffer, taken->task, mm, taken->pc, taken->is_kernel))
			continue;
		count = min(taken->count, room_for_callers(buffer));
		memcpy(buffer->open->words + buffer->open->used, taken->callers,
		       count * FRAME_WORDS * sizeof(u64));
		wrote_callers(buffer, count,
			      taken->aborted || count < min(taken->count, buffer->depth));
	}
	if (buffer->active) {
		buffer->counters.received += lost;
		buffer->counters.lost += lost;
	}
}

void cpu_buffer_drain(struct oprofile_device *dev)
{
	u32 cpu = smp_processor_id();
	unsigned long flags;

	if (cpu >= dev->vcpus)
		return;
	raw_spin_lock_irqsave(&dev->buffers[cpu].lock, flags);
	drain(&dev->buffers[cpu]);
	raw_spin_unlock_irqrestore(&dev->buffers[cpu].lock, flags);
}

u32 cpu_buffer_depth(const struct oprofile_device *dev, u32 cpu)
{
	return READ_ONCE(dev->buffers[cpu].depth);
}

void cpu_buffer_sample(struct oprofile_device *dev, struct pt_regs *regs)
{
	u32 cpu = smp_processor_id();
	struct cpu_buffer *buffer;
	unsigned long flags;

	if (cpu >= dev->vcpus || !regs)
		return;
	buffer = &dev->buffers[cpu];
	raw_spin_lock_irqsave(&buffer->lock, flags);
	if (buffer->active)
		sample(buffer, regs);
	raw_spin_unlock_irqrestore(&buffer->lock, flags);
}

void cpu_buffer_idle(struct oprofile_device *dev)
{
	u32 cpu = smp_processor_id();
	struct cpu_buffer *buffer;
	unsigned long flags;

	if (cpu >= dev->vcpus)
		return;
	buffer = &dev->buffers[cpu];
	raw_spin_lock_irqsave(&buffer->lock, flags);
	drain(buffer);
	if (buffer->open && buffer->open->used > HEADER_WORDS &&
	    ktime_get_mono_fast_ns() - buffer->open->opened_ns >= IDLE_POST_AGE_NS)
		post(buffer);
	raw_spin_unlock_irqrestore(&buffer->lock, flags);
}

void cpu_buffers_activate(struct oprofile_device *dev, bool active, u32 depth)
{
	unsigned long flags;
	u32 cpu;

	for (cpu = 0; cpu < dev->vcpus; cpu++) {
		struct cpu_buffer *buffer = &dev->buffers[cpu];
		/* A chain must fit a buffer. */
		u32 most = (buffer->capacity - HEADER_WORDS - SAMPLE_WORDS - TRUTH_WORDS) / FRAME_WORDS;

		raw_spin_lock_irqsave(&buffer->lock, flags);
		drain(buffer);
		buffer->active = active;
		buffer->depth = min3(depth, MAX_BACKTRACE_DEPTH, most);
		raw_spin_unlock_irqrestore(&buffer->lock, flags);
	}
}

bool cpu_buffer_post_everything(struct oprofile_device *dev, u32 cpu)
{
	struct cpu_buffer *buffer = &dev->buffers[cpu];
	unsigned long flags;
	bool told = true;

	raw_spin_lock_irqsave(&buffer->lock, flags);
	drain(buffer);
	post(buffer);
	if (has_news(buffer)) {
		reap(buffer);
		told = ensure_open(buffer) && post(buffer);
	}
	raw_spin_unlock_irqrestore(&buffer->lock, flags);
	return told;
}

static bool buffer_holds(const struct sample_buffer *samples, u64 mm)
{
	return is_held((void *const *)samples->mms, samples->mm_count, (const void *)mm);
}

static bool holds(struct cpu_buffer *buffer, u64 mm)
{
	struct sample_buffer *samples;

	if (buffer->open && buffer_holds(buffer->open, mm))
		return true;
	list_for_each_entry(samples, &buffer->in_flight, link)
		if (buffer_holds(samples, mm))
			return true;
	return false;
}

bool cpu_buffers_hold(struct oprofile_device *dev, u64 mm)
{
	unsigned long flags;
	bool held = false;
	u32 cpu;

	for (cpu = 0; cpu < dev->vcpus && !held; cpu++) {
		struct cpu_buffer *buffer = &dev->buffers[cpu];

		raw_spin_lock_irqsave(&buffer->lock, flags);
		drain(buffer);
		reap(buffer);
		held = holds(buffer, mm);
		raw_spin_unlock_irqrestore(&buffer->lock, flags);
	}
	return held;
}

void cpu_buffer_reap(struct oprofile_device *dev, u32 cpu)
{
	struct cpu_buffer *buffer = &dev->buffers[cpu];
	unsigned long flags;

	raw_spin_lock_irqsave(&buffer->lock, flags);
	reap(buffer);
	raw_spin_unlock_irqrestore(&buffer->lock, flags);
}

bool cpu_buffer_post_space(struct oprofile_device *dev, u32 cpu, u64 mm, u64 note)
{
	struct cpu_buffer *buffer = &dev->buffers[cpu];
	unsigned long flags;
	bool held;

	raw_spin_lock_irqsave(&buffer->lock, flags);
	drain(buffer);
	reap(buffer);
	held = holds(buffer, mm);
	if (held) {
		/* Without room for the note the device finds out by itself. */
		if (buffer->open && buffer_holds(buffer->open, mm))
			write_note(buffer, note, (const void *)mm);
		post(buffer);
		buffer->counters.doorbells++;
	}
	raw_spin_unlock_irqrestore(&buffer->lock, flags);
	return held;
}

void cpu_buffers_count(struct oprofile_device *dev, struct cpu_counters *sum)
{
	unsigned long flags;
	u32 cpu;

	memset(sum, 0, sizeof(*sum));
	for (cpu = 0; cpu < dev->vcpus; cpu++) {
		struct cpu_buffer *buffer = &dev->buffers[cpu];

		raw_spin_lock_irqsave(&buffer->lock, flags);
		sum->received += buffer->counters.received;
		sum->untold += buffer->counters.received - buffer->told.received;
		sum->lost += buffer->counters.lost;
		sum->aborted += buffer->counters.aborted;
		sum->invalid += buffer->counters.invalid;
		sum->posted += buffer->counters.posted;
		sum->kicks += buffer->counters.kicks;
		sum->doorbells += buffer->counters.doorbells;
		raw_spin_unlock_irqrestore(&buffer->lock, flags);
	}
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
