// SPDX-License-Identifier: GPL-2.0-only
/* Hello: what this kernel is and where it keeps what the host walks. */

#include <linux/crash_core.h>
#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/maple_tree.h>
#include <linux/mm_types.h>
#include <linux/mount.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/utsname.h>
#include <linux/version.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
#include <linux/vmcore_info.h>
#endif

#include "virtio_oprofile.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "address spaces are kept in another way before Linux 6.1, which this driver does not describe"
#endif

#define FIELD(id, type, member)                                                  \
	{ .field = cpu_to_le16(OPROFILE_FIELD_##id),                             \
	  .size = cpu_to_le16(sizeof_field(type, member)),                       \
	  .offset = cpu_to_le32(offsetof(type, member)) }
/* A member of which only the address counts, or a part of it is meant. */
#define FIELD_OF(id, bytes, place)                                               \
	{ .field = cpu_to_le16(OPROFILE_FIELD_##id), .size = cpu_to_le16(bytes), \
	  .offset = cpu_to_le32(place) }
#define CONSTANT(id, value)                                                      \
	{ .field = cpu_to_le16(OPROFILE_FIELD_##id), .offset = cpu_to_le32(value) }

static const struct oprofile_layout_entry fixed_layout[] = {
	FIELD(TASK_MM, struct task_struct, mm),
	FIELD(TASK_PID, struct task_struct, pid),
	FIELD(TASK_TGID, struct task_struct, tgid),
	FIELD(TASK_FLAGS, struct task_struct, flags),
	FIELD(TASK_COMM, struct task_struct, comm),
	CONSTANT(TASK_FLAG_KERNEL_THREAD, PF_KTHREAD),
	CONSTANT(TASK_FLAG_EXITING, PF_EXITING),
	FIELD(MM_PAGE_TABLE, struct mm_struct, pgd),
	FIELD(MM_EXE_FILE, struct mm_struct, exe_file),
	FIELD(MM_VMA_COUNT, struct mm_struct, map_count),
	FIELD(MM_MAPLE_TREE, struct mm_struct, mm_mt),
#if defined(CONFIG_PER_VMA_LOCK) && LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
	FIELD(MM_SEQUENCE, struct mm_struct, mm_lock_seq.sequence),
#elif defined(CONFIG_PER_VMA_LOCK)
	FIELD(MM_GENERATION, struct mm_struct, mm_lock_seq),
#endif
	FIELD(VMA_START, struct vm_area_struct, vm_start),
	FIELD(VMA_END, struct vm_area_struct, vm_end),
	FIELD(VMA_FLAGS, struct vm_area_struct, vm_flags),
	FIELD(VMA_PAGE_OFFSET, struct vm_area_struct, vm_pgoff),
	FIELD(VMA_FILE, struct vm_area_struct, vm_file),
	FIELD(VMA_MM, struct vm_area_struct, vm_mm),
	CONSTANT(VMA_FLAG_EXEC, VM_EXEC),
	CONSTANT(PAGE_SHIFT, PAGE_SHIFT),
	FIELD(MAPLE_ROOT, struct maple_tree, ma_root),
	FIELD(MAPLE_FLAGS, struct maple_tree, ma_flags),
	FIELD(MAPLE_RANGE_PIVOTS, struct maple_range_64, pivot),
	FIELD(MAPLE_RANGE_SLOTS, struct maple_range_64, slot),
	FIELD(MAPLE_ARANGE_PIVOTS, struct maple_arange_64, pivot),
	FIELD(MAPLE_ARANGE_SLOTS, struct maple_arange_64, slot),
	FIELD(MAPLE_DENSE_SLOTS, struct maple_node, slot),
	FIELD(FILE_MOUNT, struct file, f_path.mnt),
	FIELD(FILE_DENTRY, struct file, f_path.dentry),
	FIELD(FILE_INODE, struct file, f_inode),
	FIELD(DENTRY_PARENT, struct dentry, d_parent),
	FIELD(DENTRY_NAME, struct dentry, d_name.name),
	FIELD(DENTRY_NAME_LENGTH, struct dentry, d_name.len),
	FIELD(DENTRY_INODE, struct dentry, d_inode),
	FIELD(DENTRY_HASH_LINK, struct dentry, d_hash.pprev),
	FIELD_OF(DENTRY_SEQUENCE, sizeof(u32), offsetof(struct dentry, d_seq)),
	FIELD(VFS_MOUNT_ROOT, struct vfsmount, mnt_root),
	FIELD(INODE_NUMBER, struct inode, i_ino),
	FIELD(INODE_GENERATION, struct inode, i_generation),
	FIELD(INODE_SUPER_BLOCK, struct inode, i_sb),
	FIELD(SUPER_BLOCK_DEVICE, struct super_block, s_dev),
};

/* struct mount is private to the file system layer, and so is struct backing_file. */
static const char *const mount_members[] = { "mnt_parent", "mnt_mountpoint", "mnt" };
static const char *const backing_members[] = { "user_path" };

#define BACKING_ENTRIES 4u

/*
 * Where a file of a layer (overlayfs) keeps the path that its user opened: since Linux 6.7 f_path is the layer's. How many
 * entries that takes; 0 on kernels without.
 */
static u32 describe_backing(struct oprofile_layout_entry *entries)
{
#ifdef FMODE_BACKING
	u32 path;

	if (btf_offsets("backing_file", backing_members, &path, ARRAY_SIZE(backing_members)))
		return 0;
	entries[0] = (struct oprofile_layout_entry)FIELD(FILE_MODE, struct file, f_mode);
	entries[1] = (struct oprofile_layout_entry)CONSTANT(FILE_MODE_BACKING,
							    (__force u32)FMODE_BACKING);
	entries[2] = (struct oprofile_layout_entry)FIELD_OF(FILE_BACKING_MOUNT, sizeof(void *),
							    path + offsetof(struct path, mnt));
	entries[3] = (struct oprofile_layout_entry)FIELD_OF(FILE_BACKING_DENTRY, sizeof(void *),
							    path + offsetof(struct path, dentry));
	return BACKING_ENTRIES;
#else
	return 0;
#endif
}

/*
 * The kernel's own page tables. They are not exported, but stand in the note for crash dumps, which a kernel always has
 * in memory: "SYMBOL(swapper_pg_dir)=<hex>".
 */
static int kernel_page_tables(u64 *root)
{
	static const char key[] = "SYMBOL(swapper_pg_dir)=";
	const struct elf_note *note = phys_to_virt(paddr_vmcoreinfo_note());
	const char *text = (const char *)(note + 1) + ALIGN(note->n_namesz, 4);
	const char *found = strnstr(text, key, note->n_descsz);
	char number[17] = { 0 };
	u64 address;

	if (!found || found + sizeof(key) - 1 + 16 > text + note->n_descsz)
		return -ENOENT;
	memcpy(number, found + sizeof(key) - 1, 16);
	if (kstrtou64(number, 16, &address))
		return -EINVAL;
	/* In the kernel's image; __START_KERNEL_map wraps at the end of the address space. */
	*root = address - __START_KERNEL_map + phys_base;
	return 0;
}

/* A task whose structure lives as long as the kernel, in memory that is mapped linearly. */
static u64 lasting_task(void)
{
	struct task_struct *task;

	rcu_read_lock();
	task = pid_task(find_vpid(1), PIDTYPE_PID);
	rcu_read_unlock();
	return (u64)task;
}

int describe_hello(struct oprofile_device *dev)
{
	const char *release = utsname()->release;
	struct oprofile_layout_entry backing[BACKING_ENTRIES];
	u32 backing_count = describe_backing(backing);
	struct oprofile_descriptor_header layout = {
		.magic = cpu_to_le32(OPROFILE_LAYOUT_MAGIC),
		.version = cpu_to_le16(OPROFILE_LAYOUT_VERSION),
		.vma_store = cpu_to_le16(OPROFILE_VMA_STORE_MAPLE),
		.count = cpu_to_le16(ARRAY_SIZE(fixed_layout) + ARRAY_SIZE(mount_members) +
				     backing_count),
	};
	struct oprofile_hello hello = {
		.capabilities = cpu_to_le64((dev->settings.capabilities & USED_CAPABILITIES) |
					    (nmi_clock_wanted(dev) ? OPROFILE_CAPABILITY_HOST_NMI :
								     0)),
		.linear_map_base = cpu_to_le64(PAGE_OFFSET),
		.user_end = cpu_to_le64(TASK_SIZE_MAX),
		.init_task = cpu_to_le64(lasting_task()),
		.page_table_levels = cpu_to_le16(pgtable_l5_enabled() ? 5 : 4),
		.cpus = cpu_to_le16(num_possible_cpus()),
		.release_bytes = cpu_to_le16(strlen(release)),
		.clock_events = cpu_to_le32(dev->cycles),
		.layout_bytes = cpu_to_le32(sizeof(layout) + le16_to_cpu(layout.count) *
							     sizeof(struct oprofile_layout_entry)),
	};
	u32 offsets[ARRAY_SIZE(mount_members)];
	u64 root, start, end;
	int error;

	error = kernel_page_tables(&root);
	if (error) {
		dev_err(&dev->vdev->dev, "the crash-dump note does not tell the kernel's page tables\n");
		return error;
	}
	error = btf_offsets("mount", mount_members, offsets, ARRAY_SIZE(mount_members));
	if (error) {
		dev_err(&dev->vdev->dev, "the kernel's type information has no struct mount: error %d\n",
			error);
		return error;
	}
	symbols_image_range(&start, &end);
	hello.page_table_root = cpu_to_le64(root);
	hello.kernel_start = cpu_to_le64(start);
	hello.kernel_end = cpu_to_le64(end);
	{
		struct oprofile_layout_entry mount_layout[] = {
			FIELD_OF(MOUNT_PARENT, sizeof(void *), offsets[0]),
			FIELD_OF(MOUNT_POINT, sizeof(void *), offsets[1]),
			FIELD_OF(MOUNT_VISIBLE, sizeof(struct vfsmount), offsets[2]),
		};

		request_start(dev);
		if (!request_push(dev, &hello, sizeof(hello)) ||
		    !request_push(dev, release, strlen(release)) ||
		    !request_push(dev, &layout, sizeof(layout)) ||
		    !request_push(dev, fixed_layout, sizeof(fixed_layout)) ||
		    !request_push(dev, mount_layout, sizeof(mount_layout)) ||
		    !request_push(dev, backing, backing_count * sizeof(*backing)))
			return -E2BIG;
	}
	error = request_submit(dev, OPROFILE_KIND_HELLO, 0);
	if (error)
		return error;
	/* Only what was asked for can be in force, whatever the device says. */
	dev->capabilities = le64_to_cpu(dev->response->value) & le64_to_cpu(hello.capabilities);
	return 0;
}
