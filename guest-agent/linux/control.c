// SPDX-License-Identifier: GPL-2.0-only
/* The control queue: a request, an answer. */

#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>

#include "virtio_oprofile.h"

/* How long an answer may take; the device answers at once, but it may share a slow processor with everything else. */
#define ANSWER_TIMEOUT (10 * HZ)

/* Bytes of a request: a physically contiguous piece that is easy to get, and room for some hundred symbols. */
#define REQUEST_BYTES (32u * 1024)

static_assert(REQUEST_BYTES <= OPROFILE_MAX_REQUEST_BYTES);

int control_init(struct oprofile_device *dev)
{
	mutex_init(&dev->control_lock);
	init_completion(&dev->answered);
	dev->request = kmalloc(REQUEST_BYTES, GFP_KERNEL);
	dev->response = kzalloc(sizeof(*dev->response), GFP_KERNEL);
	if (!dev->request || !dev->response)
		return -ENOMEM;
	object_taken(OBJECT_REQUEST);
	return 0;
}

void control_free(struct oprofile_device *dev)
{
	if (dev->request && dev->response)
		object_gone(OBJECT_REQUEST);
	kfree(dev->request);
	kfree(dev->response);
}

void control_answered(struct virtqueue *vq)
{
	struct oprofile_device *dev = vq->vdev->priv;

	complete(&dev->answered);
}

void request_start(struct oprofile_device *dev)
{
	dev->request_used = sizeof(struct oprofile_request_header);
}

bool request_push(struct oprofile_device *dev, const void *bytes, u32 length)
{
	if (length > REQUEST_BYTES - dev->request_used)
		return false;
	memcpy(dev->request + dev->request_used, bytes, length);
	dev->request_used += length;
	return true;
}

static int submit(struct oprofile_device *dev)
{
	struct virtqueue *vq = dev->queues[0];
	struct scatterlist out, in, *list[] = { &out, &in };
	unsigned long deadline = jiffies + ANSWER_TIMEOUT;
	unsigned int length;
	int error;

	sg_init_one(&out, dev->request, dev->request_used);
	sg_init_one(&in, dev->response, sizeof(*dev->response));
	reinit_completion(&dev->answered);
	error = virtqueue_add_sgs(vq, list, 1, 1, dev, GFP_KERNEL);
	if (error)
		return error;
	virtqueue_kick(vq);
	while (!virtqueue_get_buf(vq, &length)) {
		if (time_after(jiffies, deadline) || virtqueue_is_broken(vq)) {
			/* The device still has the buffers: nothing may be asked of it again. */
			dev->dead = true;
			return -ETIMEDOUT;
		}
		/* A callback that came before is no loss: the queue is looked at again. */
		wait_for_completion_timeout(&dev->answered, HZ / 10);
		reinit_completion(&dev->answered);
	}
	return length < sizeof(*dev->response) ? -EPROTO : 0;
}

int request_submit(struct oprofile_device *dev, u16 kind, u32 flags)
{
	struct oprofile_request_header header = {
		.kind = cpu_to_le16(kind),
		.version = cpu_to_le16(OPROFILE_PROTOCOL_VERSION),
		.flags = cpu_to_le32(flags),
		.payload_bytes = cpu_to_le32(dev->request_used - sizeof(header)),
	};
	u32 status;
	int error;

	if (dev->dead)
		return -ENODEV;
	memcpy(dev->request, &header, sizeof(header));
	error = submit(dev);
	if (error) {
		dev_err(&dev->vdev->dev, "no answer to request %u: error %d\n", kind, error);
		return error;
	}
	status = le32_to_cpu(dev->response->status);
	if (status == OPROFILE_STATUS_OK)
		return 0;
	dev_err(&dev->vdev->dev, "the device refuses request %u: status %u, detail %u\n", kind,
		status, le32_to_cpu(dev->response->detail));
	return -EPROTO;
}
