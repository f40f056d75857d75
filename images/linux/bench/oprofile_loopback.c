// SPDX-License-Identifier: GPL-2.0-only
/*
 * A profiling device inside the guest, for counting what the agent's module costs where no VMM offers one: it answers each
 * request with "ok" and uses each sample buffer at once. What it does itself is charged to the agent; it is some dozen
 * instructions a buffer.
 */

#include <linux/device.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "oprofile_wire.h"

static unsigned int hz = 1000;
module_param(hz, uint, 0444);
MODULE_PARM_DESC(hz, "samples per second and CPU that are asked for; 0: none");

static unsigned int depth;
module_param(depth, uint, 0444);
MODULE_PARM_DESC(depth, "frames of a call chain that are asked for");

/* As `oprofile-vmm` has them. */
#define CPU_BUFFER_ENTRIES 8192
#define SAMPLE_BUFFER_BYTES 4096

struct loopback {
	struct virtio_device vdev;
	struct oprofile_config config;
	u8 status;
	/* Buffers that each queue has used. */
	u16 *used;
};

static struct loopback *the_loopback;
static struct device *parent;

static struct loopback *of(struct virtio_device *vdev)
{
	return container_of(vdev, struct loopback, vdev);
}

/* Returns how many bytes were written. Of all answers only that to a hello has a value: what both sides can do. */
static u32 answer(const struct loopback *loopback, const struct vring *ring, u16 head)
{
	const struct vring_desc *desc = &ring->desc[head];
	struct oprofile_response *response;

	while (desc->flags & cpu_to_le16(VRING_DESC_F_NEXT))
		desc = &ring->desc[le16_to_cpu(desc->next)];
	if (!(desc->flags & cpu_to_le16(VRING_DESC_F_WRITE)))
		return 0;
	response = phys_to_virt(le64_to_cpu(desc->addr));
	*response = (struct oprofile_response){
		.status = cpu_to_le32(OPROFILE_STATUS_OK),
		.value = loopback->config.capabilities,
	};
	return sizeof(*response);
}

static bool notified(struct virtqueue *vq)
{
	const struct vring *ring = virtqueue_get_vring(vq);
	u16 *used = &of(vq->vdev)->used[vq->index];
	unsigned long flags;

	/* The timer posts too. There is one CPU. */
	local_irq_save(flags);
	/* The driver's index is read before what it made available. */
	while (*used != virt_load_acquire((u16 *)&ring->avail->idx)) {
		u16 head = ring->avail->ring[*used % ring->num];
		vring_used_elem_t *element = &ring->used->ring[*used % ring->num];

		element->id = cpu_to_le32(head);
		element->len = cpu_to_le32(answer(of(vq->vdev), ring, head));
		++*used;
	}
	virt_store_release((u16 *)&ring->used->idx, *used);
	local_irq_restore(flags);
	if (vq->index == 0)
		vring_interrupt(0, vq);
	return true;
}

static void config_get(struct virtio_device *vdev, unsigned int offset, void *to, unsigned int bytes)
{
	if (offset + bytes <= sizeof(struct oprofile_config))
		memcpy(to, (u8 *)&of(vdev)->config + offset, bytes);
}

static void config_set(struct virtio_device *vdev, unsigned int offset, const void *from,
		       unsigned int bytes)
{
	/* The doorbell. Whatever was posted for a CPU is used at once, but nobody notified the device of it. */
	struct virtqueue *vq;

	list_for_each_entry(vq, &vdev->vqs, list)
		if (vq->index > 0)
			notified(vq);
}

static u8 get_status(struct virtio_device *vdev)
{
	return of(vdev)->status;
}

static void set_status(struct virtio_device *vdev, u8 status)
{
	of(vdev)->status = status;
}

static void reset(struct virtio_device *vdev)
{
	of(vdev)->status = 0;
}

static void delete_queues(struct virtio_device *vdev)
{
	struct virtqueue *vq, *next;

	list_for_each_entry_safe(vq, next, &vdev->vqs, list)
		vring_del_virtqueue(vq);
	kfree(of(vdev)->used);
	of(vdev)->used = NULL;
}

static int find_queues(struct virtio_device *vdev, unsigned int count, struct virtqueue *queues[],
		       vq_callback_t *callbacks[], const char *const names[], const bool *contexts,
		       struct irq_affinity *affinity)
{
	unsigned int i;

	of(vdev)->used = kcalloc(count, sizeof(u16), GFP_KERNEL);
	if (!of(vdev)->used)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		queues[i] = vring_create_virtqueue(i, OPROFILE_QUEUE_SIZE, PAGE_SIZE, vdev, true,
						   false, false, notified, callbacks[i], names[i]);
		if (!queues[i]) {
			delete_queues(vdev);
			return -ENOMEM;
		}
	}
	return 0;
}

static u64 get_features(struct virtio_device *vdev)
{
	return BIT_ULL(VIRTIO_F_VERSION_1);
}

static int finalize_features(struct virtio_device *vdev)
{
	return vdev->features & BIT_ULL(VIRTIO_F_VERSION_1) ? 0 : -EINVAL;
}

static const char *bus_name(struct virtio_device *vdev)
{
	return "loopback";
}

static const struct virtio_config_ops operations = {
	.get = config_get,
	.set = config_set,
	.get_status = get_status,
	.set_status = set_status,
	.reset = reset,
	.find_vqs = find_queues,
	.del_vqs = delete_queues,
	.get_features = get_features,
	.finalize_features = finalize_features,
	.bus_name = bus_name,
};

static void release(struct device *device)
{
	kfree(of(dev_to_virtio(device)));
}

static int __init start(void)
{
	int error;

	if (nr_cpu_ids != 1) {
		pr_err("oprofile_loopback: made for one CPU; boot with one\n");
		return -EINVAL;
	}
	the_loopback = kzalloc(sizeof(*the_loopback), GFP_KERNEL);
	if (!the_loopback)
		return -ENOMEM;
	parent = root_device_register("oprofile-loopback");
	if (IS_ERR(parent)) {
		kfree(the_loopback);
		return PTR_ERR(parent);
	}
	the_loopback->config = (struct oprofile_config){
		.magic = cpu_to_le32(OPROFILE_CONFIG_MAGIC),
		.version = cpu_to_le32(OPROFILE_PROTOCOL_VERSION),
		.capabilities = cpu_to_le64(OPROFILE_CAPABILITY_FLUSH_DOORBELL |
					    OPROFILE_CAPABILITY_BACKTRACE),
		.vcpus = cpu_to_le32(nr_cpu_ids),
		.enable = cpu_to_le32(hz > 0),
		.period_ns = cpu_to_le64(NSEC_PER_SEC / max(hz, 1u)),
		.backtrace_depth = cpu_to_le32(depth),
		.cpu_buffer_entries = cpu_to_le32(CPU_BUFFER_ENTRIES),
		.sample_buffer_bytes = cpu_to_le32(SAMPLE_BUFFER_BYTES),
	};
	the_loopback->vdev.id.device = OPROFILE_DEFAULT_DEVICE_ID;
	the_loopback->vdev.id.vendor = 1;
	the_loopback->vdev.config = &operations;
	the_loopback->vdev.dev.parent = parent;
	the_loopback->vdev.dev.release = release;
	error = register_virtio_device(&the_loopback->vdev);
	if (error) {
		put_device(&the_loopback->vdev.dev);
		root_device_unregister(parent);
	}
	return error;
}
module_init(start);

static void __exit finish(void)
{
	unregister_virtio_device(&the_loopback->vdev);
	root_device_unregister(parent);
}
module_exit(finish);

MODULE_DESCRIPTION("A profiling device inside the guest, for measuring the agent");
MODULE_LICENSE("GPL");
