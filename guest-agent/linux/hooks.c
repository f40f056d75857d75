// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where mappings go away: the device must have resolved their samples before. At these places the address space can still
 * be walked, and waiting is not allowed (Linux 6.1 and 6.12, tried).
 */

#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/ptrace.h>
#include <linux/virtio_config.h>

#include "virtio_oprofile.h"

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
	return 0;
}

/* Whether a range holds code. Yes when it cannot be told without waiting: a needless flush costs little. */
static bool may_be_executable(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct vm_area_struct *area;
	bool executable = false;

	if (!mmap_read_trylock(mm))
		return true;
	for (area = find_vma(mm, start); area && area->vm_start < end && !executable;
	     area = find_vma(mm, area->vm_end))
		executable = area->vm_flags & VM_EXEC;
	mmap_read_unlock(mm);
	return executable;
}

/* __x64_sys_munmap(registers of the system call). */
static int before_munmap(struct kprobe *probe, struct pt_regs *regs)
{
	const struct pt_regs *call = (const void *)regs_get_kernel_argument(regs, 0);
	struct mm_struct *mm = current->mm;
	unsigned long start = call->di, length = call->si;

	if (mm && cpu_buffers_hold(device, (u64)mm) &&
	    may_be_executable(mm, start, start + PAGE_ALIGN(length)))
		flush((u64)mm, OPROFILE_NOTE_SPACE_CHANGES);
	return 0;
}

static struct kprobe probes[] = {
	{ .symbol_name = "exit_mm_release", .pre_handler = before_release },
	{ .symbol_name = "exec_mm_release", .pre_handler = before_release },
	{ .symbol_name = "__x64_sys_munmap", .pre_handler = before_munmap },
};
static unsigned int registered;

int hooks_init(struct oprofile_device *dev)
{
	int error;

	device = dev;
	for (registered = 0; registered < ARRAY_SIZE(probes); registered++) {
		struct kprobe *probe = &probes[registered];

		error = register_kprobe(probe);
		if (error) {
			dev_err(&dev->vdev->dev, "no probe at %s: error %d\n", probe->symbol_name,
				error);
			hooks_exit();
			return error;
		}
	}
	return 0;
}

void hooks_exit(void)
{
	while (registered > 0) {
		struct kprobe *probe = &probes[--registered];

		unregister_kprobe(probe);
		/* So that it can be registered again. */
		probe->addr = NULL;
		probe->flags = 0;
	}
	device = NULL;
}
