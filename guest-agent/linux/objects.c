// SPDX-License-Identifier: GPL-2.0-only
/* How many of the things that the driver takes are out, each kind by itself. Without a device none may be. */

#include <linux/atomic.h>
#include <linux/sysfs.h>

#include "virtio_oprofile.h"

static const char *const names[OBJECT_KINDS] = {
	[OBJECT_DEVICE] = "devices",
	[OBJECT_REQUEST] = "requests",
	[OBJECT_BUFFER] = "buffers",
	[OBJECT_TASK] = "tasks",
	[OBJECT_SPACE] = "spaces",
	[OBJECT_PROBE] = "probes",
	[OBJECT_EVENT] = "events",
	[OBJECT_FILE] = "files",
};

static atomic_t counts[OBJECT_KINDS];

void object_taken(enum object_kind kind)
{
	atomic_inc(&counts[kind]);
}

void object_gone(enum object_kind kind)
{
	atomic_dec(&counts[kind]);
}

ssize_t objects_describe(char *text)
{
	ssize_t used = 0;
	u32 kind;

	for (kind = 0; kind < OBJECT_KINDS; kind++)
		used += sysfs_emit_at(text, used, "%s %d\n", names[kind],
				      atomic_read(&counts[kind]));
	return used;
}

void objects_check(void)
{
	u32 kind;

	for (kind = 0; kind < OBJECT_KINDS; kind++) {
		int count = atomic_read(&counts[kind]);

		if (count)
			pr_err(DRIVER_NAME ": left behind: %d %s\n", count, names[kind]);
	}
}
