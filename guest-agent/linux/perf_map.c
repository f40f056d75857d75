// SPDX-License-Identifier: GPL-2.0-only
/*
 * Perf maps: what just-in-time compilers say of the code that they made, in /tmp/perf-PID.map. The device says whose it wants.
 *
 * The path is any user's to write, and this runs with all rights, where nothing may wait for a user: a file is found in the
 * process's own root, where no link is followed, and opened only when it is a regular one, of root's or the process's user,
 * on a file system that the kernel serves by itself.
 */

#include <linux/cred.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/user_namespace.h>
#include <linux/version.h>

#include "virtio_oprofile.h"

/* Bytes of a file in one request. */
#define CHUNK_BYTES (16u * 1024)
/* Maps that are sent in a row, twice as many as the device keeps: an end for a device that never stops asking. */
#define MAX_MAPS 512
/* Pieces of one map: 16 MiB, as much as the device takes. */
#define MAX_CHUNKS 1024
/* "perf-4294967295.map" */
#define NAME_BYTES 24
/* Times of files are coarse. */
#define SLACK_NS NSEC_PER_SEC

static_assert(CHUNK_BYTES + 64 <= OPROFILE_MAX_REQUEST_BYTES);

/* Whose map it may be. */
struct owner {
	u32 tgid;
	kuid_t uid;
	/* When the process began: a map that is older is another one's. */
	u64 started_ns;
};

/*
 * Processes that have ended lately, by their number: their map is sent when they are gone, and what it is compared with goes
 * with them. Of two with the same slot the later one stays, and numbers are given out in order, so these are the latest.
 */
#define GONE_SLOTS 4096u
static struct owner gone[GONE_SLOTS];
static DEFINE_RAW_SPINLOCK(gone_lock);

/* `leader` is the task's, of its process: of another task than the current one its pointer may be to one that is gone. */
static struct owner owner_of(struct task_struct *task, const struct task_struct *leader)
{
	return (struct owner){
		.tgid = task_tgid_nr(task),
		.uid = task_euid(task),
		.started_ns = READ_ONCE(leader->start_boottime),
	};
}

/* The current task is about to give up its address space. It must not wait. */
void perf_map_process_ends(void)
{
	struct owner owner = owner_of(current, current->group_leader);
	u32 slot = owner.tgid % GONE_SLOTS;
	unsigned long flags;

	/* The map of one in a namespace of its own has another name, and a root that may go with it: it has none when it is gone. */
	if (task_active_pid_ns(current) != &init_pid_ns)
		owner.tgid = 0;
	raw_spin_lock_irqsave(&gone_lock, flags);
	gone[slot] = owner;
	raw_spin_unlock_irqrestore(&gone_lock, flags);
}

static bool find_gone(u32 tgid, struct owner *owner)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&gone_lock, flags);
	*owner = gone[tgid % GONE_SLOTS];
	raw_spin_unlock_irqrestore(&gone_lock, flags);
	return owner->tgid == tgid && tgid;
}

/* The root of a task; false when it has none any more. */
static bool root_of(struct task_struct *task, struct path *root)
{
	bool found = false;

	task_lock(task);
	if (task->fs) {
		get_fs_root(task->fs, root);
		found = true;
	}
	task_unlock(task);
	return found;
}

static struct task_struct *task_of(u32 tgid)
{
	struct task_struct *task;

	rcu_read_lock();
	task = pid_task(find_pid_ns(tgid, &init_pid_ns), PIDTYPE_TGID);
	if (task)
		get_task_struct(task);
	rcu_read_unlock();
	return task;
}

/* Whose map it is, under which number, and the root that it is below. */
static int find_owner(u32 tgid, struct owner *owner, u32 *number, struct path *root)
{
	struct task_struct *task = task_of(tgid);
	bool found = false;

	if (task) {
		/* Process numbers name leaders. */
		*owner = owner_of(task, task);
		/* Its pid may go. */
		rcu_read_lock();
		*number = task_tgid_nr_ns(task, task_active_pid_ns(task));
		rcu_read_unlock();
		/* 0 when it is being reaped. */
		found = *number && root_of(task, root);
		put_task_struct(task);
	}
	if (found)
		return 0;
	if (!find_gone(tgid, owner))
		return -ESRCH;
	*number = tgid;
	task = task_of(1);
	if (!task)
		return -ESRCH;
	found = root_of(task, root);
	put_task_struct(task);
	return found ? 0 : -ESRCH;
}

/* Whether a file system answers without a server or a program of some user's. */
static bool is_local(const struct path *path)
{
	const struct super_block *sb = path->mnt->mnt_sb;

	switch (sb->s_magic) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
		return true;
	case EXT4_SUPER_MAGIC:
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
	case OVERLAYFS_SUPER_MAGIC:
	case EROFS_SUPER_MAGIC_V1:
	case SQUASHFS_MAGIC:
		/* What a user mounted may lie on a file system of that user's. */
		return sb->s_user_ns == &init_user_ns;
	default:
		return false;
	}
}

static u64 now_real_minus_boot(void)
{
	return ktime_get_real_ns() - ktime_get_boottime_ns();
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
static u64 modified_ns(const struct inode *inode)
{
	struct timespec64 time = inode_get_mtime(inode);

	return timespec64_to_ns(&time);
}
#else
static u64 modified_ns(const struct inode *inode)
{
	return timespec64_to_ns(&inode->i_mtime);
}
#endif

static bool is_believed(const struct inode *inode, const struct owner *owner)
{
	/* Another name of a file says that somebody put it here who did not write it. */
	return S_ISREG(inode->i_mode) && inode->i_nlink == 1 &&
	       (uid_eq(inode->i_uid, owner->uid) || uid_eq(inode->i_uid, GLOBAL_ROOT_UID)) &&
	       modified_ns(inode) + SLACK_NS >= owner->started_ns + now_real_minus_boot();
}

/* A place to look at: neither is it opened, nor is it left by a link. */
static struct file *find_below(const struct path *directory, const char *name)
{
	return file_open_root(directory, name, O_PATH | O_NOFOLLOW, 0);
}

static struct file *open_below(const struct path *root, const struct owner *owner, u32 number)
{
	struct file *file = ERR_PTR(-EACCES), *directory, *place;
	char name[NAME_BYTES];

	if (!is_local(root))
		return file;
	directory = find_below(root, "tmp");
	if (IS_ERR(directory))
		return directory;
	if (!d_is_dir(directory->f_path.dentry) || !is_local(&directory->f_path))
		goto directory;
	snprintf(name, sizeof(name), "perf-%u.map", number);
	place = find_below(&directory->f_path, name);
	if (IS_ERR(place)) {
		file = place;
		goto directory;
	}
	/* It may be mounted over. What is looked at here is what is opened. */
	if (is_local(&place->f_path) && is_believed(file_inode(place), owner))
		file = dentry_open(&place->f_path, O_RDONLY | O_NONBLOCK | O_LARGEFILE | O_NOATIME,
				   current_cred());
	fput(place);
directory:
	fput(directory);
	return file;
}

static struct file *open_map(u32 tgid)
{
	struct owner owner;
	struct path root;
	struct file *file;
	u32 number;
	int error = find_owner(tgid, &owner, &number, &root);

	if (error)
		return ERR_PTR(error);
	file = open_below(&root, &owner, number);
	path_put(&root);
	if (!IS_ERR(file))
		object_taken(OBJECT_FILE);
	return file;
}

static void close_map(struct file *file)
{
	filp_close(file, NULL);
	object_gone(OBJECT_FILE);
}

/* Asks for the next map: 0 and a tgid, which is 0 when none is wanted. */
static int ask(struct oprofile_device *dev, bool last, u32 *tgid, u64 *offset)
{
	int error;

	mutex_lock(&dev->control_lock);
	request_start(dev);
	error = request_submit(dev, OPROFILE_KIND_WANTED_MAP, last ? OPROFILE_FLAG_LAST : 0);
	if (!error) {
		*tgid = le32_to_cpu(dev->response->detail);
		*offset = le64_to_cpu(dev->response->value);
	}
	mutex_unlock(&dev->control_lock);
	return error;
}

/* Sends a piece; false when the device takes no more. */
static bool send(struct oprofile_device *dev, u32 tgid, u64 offset, const void *text, u32 length,
		 u32 flags)
{
	struct oprofile_perf_map map = {
		.tgid = cpu_to_le32(tgid),
		.offset = cpu_to_le64(offset),
	};
	bool more;

	mutex_lock(&dev->control_lock);
	request_start(dev);
	more = request_push(dev, &map, sizeof(map)) && request_push(dev, text, length) &&
	       !request_submit(dev, OPROFILE_KIND_PERF_MAP, flags) && dev->response->value;
	mutex_unlock(&dev->control_lock);
	return more;
}

static void send_map(struct oprofile_device *dev, u32 tgid, u64 offset, u8 *chunk)
{
	loff_t position = offset;
	struct file *file = position < 0 ? ERR_PTR(-EINVAL) : open_map(tgid);
	ssize_t length;
	u32 chunks;

	if (IS_ERR(file)) {
		dev_dbg(&dev->vdev->dev, "no perf map of process %u: %ld\n", tgid, PTR_ERR(file));
		send(dev, tgid, offset, NULL, 0, OPROFILE_FLAG_LAST | OPROFILE_FLAG_UNREADABLE);
		return;
	}
	for (chunks = 0; chunks < MAX_CHUNKS; chunks++) {
		offset = position;
		length = kernel_read(file, chunk, CHUNK_BYTES, &position);
		if (length <= 0 || !send(dev, tgid, offset, chunk, length, 0))
			break;
	}
	/* The device ended it, or it ends here. */
	if (chunks == MAX_CHUNKS || length <= 0)
		send(dev, tgid, position, NULL, 0, OPROFILE_FLAG_LAST);
	close_map(file);
}

void perf_maps_send(struct oprofile_device *dev, bool last)
{
	u32 maps, tgid;
	u64 offset;
	u8 *chunk;

	if (!(dev->capabilities & OPROFILE_CAPABILITY_PERF_MAPS))
		return;
	chunk = kmalloc(CHUNK_BYTES, GFP_KERNEL);
	if (!chunk)
		return;
	/* The device is asked for one map at a time. */
	mutex_lock(&dev->maps_lock);
	for (maps = 0; maps < MAX_MAPS && !dev->dead; maps++) {
		if (ask(dev, last, &tgid, &offset) || !tgid)
			break;
		send_map(dev, tgid, offset, chunk);
		cond_resched();
	}
	mutex_unlock(&dev->maps_lock);
	kfree(chunk);
}

static void send_wanted(struct work_struct *work)
{
	struct oprofile_device *dev = container_of(work, struct oprofile_device, maps_work);

	if (dev->ready)
		perf_maps_send(dev, false);
}

void perf_maps_init(struct oprofile_device *dev)
{
	mutex_init(&dev->maps_lock);
	INIT_WORK(&dev->maps_work, send_wanted);
}

void perf_maps_wanted(struct oprofile_device *dev)
{
	/* Files may be long: the host's other wishes do not wait for them. */
	if (dev->capabilities & OPROFILE_CAPABILITY_PERF_MAPS)
		queue_work(system_unbound_wq, &dev->maps_work);
}
