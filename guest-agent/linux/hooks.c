// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where mappings go away: the device must have resolved their samples before. At these places the address space can still
 * be walked, and waiting is not allowed (Linux 6.1 and 6.12, tried).
 */

#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/ptrace.h>
#include <linux/uaccess.h>
#include <linux/virtio_config.h>
#include <uapi/linux/shm.h>

#include "virtio_oprofile.h"

/* Mappings of a range that are looked at; more of them are taken for code. Bounds the time without preemption. */
#define MAX_AREAS 64

bool unprotected;
module_param(unprotected, bool, 0444);
MODULE_PARM_DESC(unprotected, "for tests: let mappings go before their samples are resolved");

static struct oprofile_device *device;

static void ring(struct oprofile_device *dev, u32 cpu)
{
	__le32 index = cpu_to_le32(cpu);

	/* Returns when the device has drained the queue. Not virtio_cwrite: that may sleep. */
	dev->vdev->config->set(dev->vdev, OPROFILE_CONFIG_FLUSH_DOORBELL, &index, sizeof(index));
}

static void flush(u64 mm, u64 note)
{
	struct oprofile_device *dev = device;
	u32 cpu;

	if (!mm || dev->dead || unprotected || !(dev->capabilities & OPROFILE_CAPABILITY_FLUSH_DOORBELL))
		return;
	for (cpu = 0; cpu < dev->vcpus; cpu++)
		if (cpu_buffer_post_space(dev, cpu, mm, note))
			ring(dev, cpu);
}

/* exit_mm_release(task, mm), exec_mm_release(task, mm). */
static int before_release(struct kprobe *probe, struct pt_regs *regs)
{
	flush(regs_get_kernel_argument(regs, 1), OPROFILE_NOTE_SPACE_RELEASED);
	if (device->capabilities & OPROFILE_CAPABILITY_PERF_MAPS)
		perf_map_process_ends();
	return 0;
}

/* Whether a range holds code. Yes when it cannot be told without waiting: a needless flush costs little. */
static bool may_be_executable(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct vm_area_struct *area;
	bool executable = false;
	u32 seen = 0;

	if (!mmap_read_trylock(mm))
		return true;
	for (area = find_vma(mm, start); area && area->vm_start < end && !executable;
	     area = find_vma(mm, area->vm_end))
		executable = area->vm_flags & VM_EXEC || ++seen == MAX_AREAS;
	mmap_read_unlock(mm);
	return executable;
}

/* A range of the current task's address space is about to lose what is mapped there. */
static void before_change(unsigned long start, unsigned long length)
{
	unsigned long end = start + PAGE_ALIGN(length);

	/* A range that wraps changes nothing: the system call fails. */
	if (end > start && may_be_executable(current->mm, start, end))
		flush((u64)current->mm, OPROFILE_NOTE_SPACE_CHANGES);
}

/* System calls that change mappings, by their arguments. */

static void before_munmap(const unsigned long *arguments)
{
	before_change(arguments[0], arguments[1]);
}

/* old address, old length, new length, flags, new address */
static void before_mremap(const unsigned long *arguments)
{
	unsigned long flags = arguments[3];

	/* It grows in place or not at all. */
	if (arguments[2] >= arguments[1] && !(flags & MREMAP_MAYMOVE))
		return;
	before_change(arguments[0], arguments[1]);
	if (flags & MREMAP_FIXED)
		before_change(arguments[4], arguments[2]);
}

/* address, length, protection, flags, … */
static void before_mmap(const unsigned long *arguments)
{
	if ((arguments[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == MAP_FIXED)
		before_change(arguments[0], arguments[1]);
}

/* The same for 32-bit programs of old, with the address of six arguments. */
static void before_mmap_by_address(const unsigned long *arguments)
{
	unsigned long copy[6];
	u32 words[6], i;

	if (copy_from_user_nofault(words, (const void __user *)arguments[0], sizeof(words))) {
		/* It can be read when it may be waited for. */
		flush((u64)current->mm, OPROFILE_NOTE_SPACE_CHANGES);
		return;
	}
	for (i = 0; i < ARRAY_SIZE(words); i++)
		copy[i] = words[i];
	before_mmap(copy);
}

/* start, length, protection: what is no code any more may become a part of another mapping. */
static void before_mprotect(const unsigned long *arguments)
{
	if (!(arguments[2] & PROT_EXEC))
		before_change(arguments[0], arguments[1]);
}

static void before_brk(const unsigned long *arguments)
{
	unsigned long end = READ_ONCE(current->mm->brk);

	if (arguments[0] < end && arguments[0] >= current->mm->start_brk)
		before_change(arguments[0], end - arguments[0]);
}

static void before_shmdt(const unsigned long *arguments)
{
	before_change(arguments[0], PAGE_SIZE);
}

/* identifier, address, flags: the length is the segment's, so everything behind the address may go. */
static void before_shmat(const unsigned long *arguments)
{
	if (arguments[2] & SHM_REMAP && arguments[1] < TASK_SIZE_MAX)
		before_change(arguments[1], TASK_SIZE_MAX - arguments[1]);
}

struct hook {
	struct kprobe probe;
	bool registered;
	/* Of a system call: what it does to the current task's mappings. */
	void (*before)(const unsigned long *arguments);
	/* 32-bit arguments. */
	bool narrow;
	/* Not in every kernel. */
	bool optional;
};

/* The entry of a system call, FUNCTION(registers of the call). */
static int on_call(struct kprobe *probe, struct pt_regs *regs)
{
	const struct hook *hook = container_of(probe, struct hook, probe);
	const struct pt_regs *call = (const void *)regs_get_kernel_argument(regs, 0);
	unsigned long arguments[] = { call->di, call->si, call->dx, call->r10, call->r8, call->r9 };

	if (!current->mm || !cpu_buffers_hold(device, (u64)current->mm))
		return 0;
	if (hook->narrow) {
		arguments[0] = (u32)call->bx;
		arguments[1] = (u32)call->cx;
		arguments[2] = (u32)call->dx;
		arguments[3] = (u32)call->si;
		arguments[4] = (u32)call->di;
		arguments[5] = (u32)call->bp;
	}
	hook->before(arguments);
	return 0;
}

#define RELEASE(function) { .probe = { .symbol_name = function, .pre_handler = before_release } }
#define CALL(name, handler)                                                              \
	{ .probe = { .symbol_name = "__x64_sys_" name, .pre_handler = on_call },         \
	  .before = handler }
#define OPTIONAL_CALL(function, handler, is_narrow)                                      \
	{ .probe = { .symbol_name = function, .pre_handler = on_call },                  \
	  .before = handler, .narrow = is_narrow, .optional = true }

static struct hook hooks[] = {
	RELEASE("exit_mm_release"),
	RELEASE("exec_mm_release"),
	CALL("munmap", before_munmap),
	CALL("mremap", before_mremap),
	CALL("mmap", before_mmap),
	CALL("mprotect", before_mprotect),
	CALL("brk", before_brk),
	OPTIONAL_CALL("__x64_sys_pkey_mprotect", before_mprotect, false),
	OPTIONAL_CALL("__x64_sys_remap_file_pages", before_munmap, false),
	OPTIONAL_CALL("__x64_sys_shmdt", before_shmdt, false),
	OPTIONAL_CALL("__x64_sys_shmat", before_shmat, false),
	OPTIONAL_CALL("__ia32_sys_munmap", before_munmap, true),
	OPTIONAL_CALL("__ia32_sys_mremap", before_mremap, true),
	OPTIONAL_CALL("__ia32_sys_mmap_pgoff", before_mmap, true),
	OPTIONAL_CALL("__ia32_compat_sys_ia32_mmap", before_mmap_by_address, true),
	OPTIONAL_CALL("__ia32_sys_mprotect", before_mprotect, true),
	OPTIONAL_CALL("__ia32_sys_pkey_mprotect", before_mprotect, true),
	OPTIONAL_CALL("__ia32_sys_brk", before_brk, true),
	OPTIONAL_CALL("__ia32_sys_remap_file_pages", before_munmap, true),
};

int hooks_init(struct oprofile_device *dev)
{
	u32 i;
	int error;

	device = dev;
	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		struct hook *hook = &hooks[i];

		error = register_kprobe(&hook->probe);
		if (!error) {
			hook->registered = true;
			object_taken(OBJECT_PROBE);
		} else if (error == -ENOENT && hook->optional) {
			dev_dbg(&dev->vdev->dev, "this kernel has no %s\n",
				hook->probe.symbol_name);
		} else {
			dev_err(&dev->vdev->dev, "no probe at %s: error %d\n",
				hook->probe.symbol_name, error);
			hooks_exit();
			return error;
		}
	}
	return 0;
}

void hooks_exit(void)
{
	struct kprobe *probes[ARRAY_SIZE(hooks)];
	u32 count = 0, i;

	for (i = 0; i < ARRAY_SIZE(hooks); i++)
		if (hooks[i].registered)
			probes[count++] = &hooks[i].probe;
	/* Together: it waits for all other CPUs. */
	unregister_kprobes(probes, count);
	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		struct hook *hook = &hooks[i];

		if (hook->registered) {
			hook->registered = false;
			object_gone(OBJECT_PROBE);
		}
		/* So that it can be registered again. */
		hook->probe.addr = NULL;
		hook->probe.flags = 0;
	}
	device = NULL;
}
