// SPDX-License-Identifier: GPL-2.0-only
/* OProfile's rules of writing a CPU's samples, whichever clock takes them, and when its buffers are posted (buffer_pool.c). */

#include <linux/fs.h>
#include <linux/maple_tree.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/ptrace.h>
#include <linux/timekeeping.h>

#include "buffer_pool.h"

/* Code of an IBS fetch record (OProfile's event buffer). */
#define OPROFILE_TRUTH_CODE 13
/* An idle CPU posts its open buffer when it is older. */
#define IDLE_POST_AGE_NS (100 * NSEC_PER_MSEC)

/* For tests: see write_truth. */
static bool truth;
module_param(truth, bool, 0444);
MODULE_PARM_DESC(truth, "for tests: tell behind each user sample what file it lies in");

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
	    !pool_can_hold(buffer, task, mm))
		pool_next(buffer);
	if (!has_room(buffer, SAMPLE_WORDS) || !pool_can_hold(buffer, task, mm)) {
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
	pool_hold(buffer, task, mm);
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
	u32 lost = nmi_ring_lost(buffer->cpu), count;

	for (; (taken = nmi_ring_next(buffer->cpu)); nmi_ring_done(buffer->cpu)) {
		struct mm_struct *mm = taken->mm;

		if (!buffer->active)
			continue;
		/* Only the current task's address space is sure to be there for the taking. */
		if (taken->task != current && pool_keeps_spaces(buffer->dev))
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
		pool_post(buffer);
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
	pool_post(buffer);
	if (pool_has_news(buffer)) {
		pool_reap(buffer);
		told = pool_open(buffer) && pool_post(buffer);
	}
	raw_spin_unlock_irqrestore(&buffer->lock, flags);
	return told;
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
		pool_reap(buffer);
		held = pool_holds(buffer, mm);
		raw_spin_unlock_irqrestore(&buffer->lock, flags);
	}
	return held;
}

void cpu_buffer_reap(struct oprofile_device *dev, u32 cpu)
{
	struct cpu_buffer *buffer = &dev->buffers[cpu];
	unsigned long flags;

	raw_spin_lock_irqsave(&buffer->lock, flags);
	pool_reap(buffer);
	raw_spin_unlock_irqrestore(&buffer->lock, flags);
}

bool cpu_buffer_post_space(struct oprofile_device *dev, u32 cpu, u64 mm, u64 note)
{
	struct cpu_buffer *buffer = &dev->buffers[cpu];
	unsigned long flags;
	bool held;

	raw_spin_lock_irqsave(&buffer->lock, flags);
	drain(buffer);
	pool_reap(buffer);
	held = pool_holds(buffer, mm);
	if (held) {
		/* Without room for the note the device finds out by itself. */
		if (buffer->open && buffer_holds(buffer->open, mm))
			write_note(buffer, note, (const void *)mm);
		pool_post(buffer);
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

