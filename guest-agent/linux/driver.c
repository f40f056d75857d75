// SPDX-License-Identifier: GPL-2.0-only
/* The virtio driver: finds the device, introduces this kernel, follows the host's wishes. */

#include <linux/cpuhotplug.h>
#include <linux/delay.h>
#include <linux/mod_devicetable.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <linux/virtio_config.h>

#include "virtio_oprofile.h"

static unsigned int device_id = OPROFILE_DEFAULT_DEVICE_ID;
module_param(device_id, uint, 0444);
MODULE_PARM_DESC(device_id, "virtio device type, as the host's --oprofile-dev id=");

/* How often a full queue is looked at again before its last counters are given up. */
#define POST_ATTEMPTS 100

/* 100 kHz, and once an hour: a timer of the next nanosecond, or one in the past, would leave a CPU nothing else to do. */
#define MIN_PERIOD_NS 10000ull
#define MAX_PERIOD_NS 3600000000000ull

/* How often the device's status is looked at: a device that was reset behind our back does not tell. */
#define WATCH_INTERVAL HZ
/* How often a device that fails is started anew, until the module is loaded again. */
#define MAX_RECOVERIES 16

/* The one device; requests of notifiers and CPUs go there. */
static struct oprofile_device *the_device;
static enum cpuhp_state hotplug_state;

static int check(struct virtio_device *vdev, const struct oprofile_config *config)
{
	u32 bytes = le32_to_cpu(config->sample_buffer_bytes);
	u64 period = le64_to_cpu(config->period_ns);

	if (le32_to_cpu(config->magic) != OPROFILE_CONFIG_MAGIC) {
		dev_err(&vdev->dev, "not a profiling device (magic %#x); check device_id\n",
			le32_to_cpu(config->magic));
		return -ENODEV;
	}
	if (le32_to_cpu(config->version) != OPROFILE_PROTOCOL_VERSION) {
		dev_err(&vdev->dev, "the device speaks version %u of the protocol, this driver %u\n",
			le32_to_cpu(config->version), OPROFILE_PROTOCOL_VERSION);
		return -EPROTONOSUPPORT;
	}
	if (!config->vcpus || le32_to_cpu(config->vcpus) > OPROFILE_MAX_VCPUS ||
	    period < MIN_PERIOD_NS || period > MAX_PERIOD_NS ||
	    bytes < OPROFILE_MIN_BUFFER_BYTES || bytes > OPROFILE_MAX_BUFFER_BYTES || bytes % 8) {
		dev_err(&vdev->dev, "a setting of the device is out of range\n");
		return -ERANGE;
	}
	return 0;
}

static int read_settings(struct oprofile_device *dev)
{
	struct oprofile_config config = { 0 };
	int error;

	/* All of one generation. */
	virtio_cread_bytes(dev->vdev, 0, &config, sizeof(config));
	error = check(dev->vdev, &config);
	if (error)
		return error;
	dev->settings = (struct settings){
		.capabilities = le64_to_cpu(config.capabilities),
		.vcpus = le32_to_cpu(config.vcpus),
		.enabled = config.enable,
		.period_ns = le64_to_cpu(config.period_ns),
		.backtrace_depth = le32_to_cpu(config.backtrace_depth),
		.cpu_buffer_entries = le32_to_cpu(config.cpu_buffer_entries),
		.sample_buffer_bytes = le32_to_cpu(config.sample_buffer_bytes),
		.wanted_maps = le32_to_cpu(config.wanted_maps),
	};
	return 0;
}

/* The clock of this CPU has stopped: the rest is posted. */
static void post_rest(struct oprofile_device *dev, u32 cpu)
{
	int attempts;

	for (attempts = 0; !dev->dead && !cpu_buffer_post_everything(dev, cpu) &&
			   attempts < POST_ATTEMPTS;
	     attempts++)
		msleep(10);
}

/* The clocks have stopped: everything is posted, and the device has seen it. */
static void quiesce(struct oprofile_device *dev)
{
	u32 cpu;

	if (dev->dead)
		return;
	for (cpu = 0; cpu < dev->vcpus; cpu++)
		post_rest(dev, cpu);
	mutex_lock(&dev->control_lock);
	request_start(dev);
	request_submit(dev, OPROFILE_KIND_QUIESCED, 0);
	mutex_unlock(&dev->control_lock);
	/* The device has seen the last samples: what it wants to know of them it gets now. */
	perf_maps_send(dev, true);
}

static void stop(struct oprofile_device *dev)
{
	clock_stop();
	cpu_buffers_activate(dev, false, 0);
	if (dev->ready)
		quiesce(dev);
}

static bool works(struct oprofile_device *dev)
{
	u8 status = dev->vdev->config->get_status(dev->vdev);

	return !dev->dead && status & VIRTIO_CONFIG_S_DRIVER_OK &&
	       !(status & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED));
}

/* A device that failed: it is let go and probed again. Outside of the device, whose own work ends with it. */
static struct device *failed_device;

static void recover(struct work_struct *work)
{
	int error = device_reprobe(failed_device);

	if (error < 0)
		dev_err(failed_device, "cannot be started anew: error %d\n", error);
	put_device(failed_device);
}
static DECLARE_WORK(recovery, recover);

static void watch(struct work_struct *work)
{
	static unsigned int recoveries;
	struct oprofile_device *dev = container_of(to_delayed_work(work), struct oprofile_device, watch);

	if (works(dev)) {
		schedule_delayed_work(&dev->watch, WATCH_INTERVAL);
		return;
	}
	/* Looked at twice: by its time, and because the device said so. */
	if (dev->failed)
		return;
	dev->failed = true;
	dev->dead = true;
	if (recoveries == MAX_RECOVERIES) {
		dev_err(&dev->vdev->dev, "failed %u times and is left alone\n", recoveries);
		clock_stop();
		return;
	}
	/* Until the work before has run, its device is not bound again, so none can fail. */
	failed_device = get_device(&dev->vdev->dev);
	recoveries++;
	dev_warn(failed_device, "was reset or wants to be: it is started anew\n");
	schedule_work(&recovery);
}

static void follow_settings(struct work_struct *work)
{
	struct oprofile_device *dev = container_of(work, struct oprofile_device, config_work);
	u32 bytes = dev->settings.sample_buffer_bytes, maps = dev->settings.wanted_maps;
	u32 depth;

	if (!dev->ready)
		return;
	/* The same notification tells that it wants to be reset. */
	if (!works(dev)) {
		mod_delayed_work(system_wq, &dev->watch, 0);
		return;
	}
	/* Sizes of buffers stay as they were. */
	if (read_settings(dev))
		return;
	dev->settings.sample_buffer_bytes = bytes;
	if (dev->settings.wanted_maps != maps)
		perf_maps_wanted(dev);
	depth = dev->capabilities & OPROFILE_CAPABILITY_BACKTRACE ? dev->settings.backtrace_depth : 0;
	if (dev->settings.enabled) {
		cpu_buffers_activate(dev, true, depth);
		clock_run(dev->settings.period_ns);
	} else {
		stop(dev);
	}
}

static void config_changed(struct virtio_device *vdev)
{
	struct oprofile_device *dev = vdev->priv;

	schedule_work(&dev->config_work);
}

static int find_queues(struct oprofile_device *dev)
{
	u32 count = 1 + dev->vcpus, i;
	int error = -ENOMEM;
	struct virtio_device *vdev = dev->vdev;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	struct virtqueue_info *info = kcalloc(count, sizeof(*info), GFP_KERNEL);

	dev->queues = kcalloc(count, sizeof(*dev->queues), GFP_KERNEL);
	if (info && dev->queues) {
		for (i = 0; i < count; i++) {
			info[i].name = i ? "samples" : "control";
			info[i].callback = i ? NULL : control_answered;
		}
		error = virtio_find_vqs(vdev, count, dev->queues, info, NULL);
	}
	kfree(info);
#else
	const char **names = kcalloc(count, sizeof(*names), GFP_KERNEL);
	vq_callback_t **callbacks = kcalloc(count, sizeof(*callbacks), GFP_KERNEL);

	dev->queues = kcalloc(count, sizeof(*dev->queues), GFP_KERNEL);
	if (names && callbacks && dev->queues) {
		for (i = 0; i < count; i++) {
			names[i] = i ? "samples" : "control";
			callbacks[i] = i ? NULL : control_answered;
		}
		error = virtio_find_vqs(vdev, count, dev->queues, callbacks, names, NULL);
	}
	kfree(callbacks);
	kfree(names);
#endif
	/* Sample queues are looked at when something is posted. */
	for (i = 1; !error && i < count; i++)
		virtqueue_disable_cb(dev->queues[i]);
	return error;
}

static int cpu_state(struct oprofile_device *dev, u32 cpu, bool online)
{
	struct oprofile_cpu_state state = {
		.vcpu = cpu_to_le32(cpu),
		.online = cpu_to_le32(online),
	};
	int error;

	mutex_lock(&dev->control_lock);
	request_start(dev);
	request_push(dev, &state, sizeof(state));
	error = request_submit(dev, OPROFILE_KIND_CPU_STATE, 0);
	mutex_unlock(&dev->control_lock);
	return error;
}

static int cpu_comes(unsigned int cpu)
{
	/* Without a queue it cannot be sampled. */
	if (cpu >= the_device->vcpus)
		return 0;
	cpu_state(the_device, cpu, true);
	clock_cpu_online(cpu);
	return 0;
}

static int cpu_goes(unsigned int cpu)
{
	if (cpu >= the_device->vcpus)
		return 0;
	clock_cpu_offline(cpu);
	post_rest(the_device, cpu);
	cpu_state(the_device, cpu, false);
	/* Nobody posts there soon: what its buffers held is let go now. */
	cpu_buffer_reap(the_device, cpu);
	return 0;
}

static int module_changed(struct notifier_block *block, unsigned long state, void *data)
{
	struct oprofile_device *dev = the_device;
	struct module *module = data;

	if (!dev->ready || (state != MODULE_STATE_COMING && state != MODULE_STATE_GOING))
		return NOTIFY_DONE;
	mutex_lock(&dev->control_lock);
	if (state == MODULE_STATE_GOING) {
		symbols_send_modules(dev, NULL, module);
	} else if (!symbols_send_modules(dev, module, NULL)) {
		if (dev->capabilities & OPROFILE_CAPABILITY_KERNEL_SYMBOLS)
			symbols_send_module(dev, module);
	}
	mutex_unlock(&dev->control_lock);
	return NOTIFY_OK;
}

static struct notifier_block module_notifier = { .notifier_call = module_changed };

static int before_reboot(struct notifier_block *block, unsigned long code, void *unused)
{
	struct oprofile_device *dev = the_device;

	stop(dev);
	/* Kernels may reset devices on their way down, which is no failure. */
	dev->ready = false;
	cancel_work_sync(&dev->config_work);
	cancel_work_sync(&dev->maps_work);
	cancel_delayed_work_sync(&dev->watch);
	return NOTIFY_DONE;
}

static struct notifier_block reboot_notifier = { .notifier_call = before_reboot };

static int introduce(struct oprofile_device *dev)
{
	int error;

	mutex_lock(&dev->control_lock);
	error = describe_hello(dev);
	if (!error && dev->capabilities & OPROFILE_CAPABILITY_KERNEL_SYMBOLS)
		error = symbols_send_kernel(dev);
	mutex_unlock(&dev->control_lock);
	return error;
}

/* Each module is told, here or by the notifier, which waits: it is there already. */
static void introduce_modules(struct oprofile_device *dev)
{
	int error;

	mutex_lock(&dev->control_lock);
	error = symbols_send_all_modules(dev);
	mutex_unlock(&dev->control_lock);
	if (error)
		dev_warn(&dev->vdev->dev, "not all modules could be told: error %d\n", error);
}

static void free_device(struct oprofile_device *dev)
{
	cpu_buffers_free(dev);
	control_free(dev);
	kfree(dev->queues);
	kfree(dev);
	object_gone(OBJECT_DEVICE);
	objects_check();
}

static int probe(struct virtio_device *vdev)
{
	struct oprofile_device *dev;
	int error;

	if (the_device)
		return -EBUSY;
	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	if (!dev)
		return -ENOMEM;
	object_taken(OBJECT_DEVICE);
	dev->vdev = vdev;
	vdev->priv = dev;
	INIT_WORK(&dev->config_work, follow_settings);
	INIT_DELAYED_WORK(&dev->watch, watch);
	perf_maps_init(dev);
	error = read_settings(dev);
	if (error)
		goto free;
	dev->vcpus = min(dev->settings.vcpus, nr_cpu_ids);
	error = control_init(dev);
	if (error)
		goto free;
	error = find_queues(dev);
	if (error)
		goto free;
	error = cpu_buffers_init(dev);
	if (error)
		goto queues;
	virtio_device_ready(vdev);
	perf_clock_init(dev);
	error = introduce(dev);
	if (error)
		goto reset;
	the_device = dev;
	error = hooks_init(dev);
	if (error)
		goto forget;
	error = clock_init(dev);
	if (error)
		goto hooks;
	error = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "virtio/oprofile:online", cpu_comes,
				  cpu_goes);
	if (error < 0)
		goto clock;
	hotplug_state = error;
	register_module_notifier(&module_notifier);
	register_reboot_notifier(&reboot_notifier);
	dev->ready = true;
	introduce_modules(dev);
	schedule_work(&dev->config_work);
	schedule_delayed_work(&dev->watch, WATCH_INTERVAL);
	dev_info(&vdev->dev, "profiling device: %u sample queues, %s flush doorbell\n", dev->vcpus,
		 dev->capabilities & OPROFILE_CAPABILITY_FLUSH_DOORBELL ? "a" : "no");
	return 0;

clock:
	clock_exit();
hooks:
	hooks_exit();
forget:
	the_device = NULL;
reset:
	dev->dead = true;
	virtio_reset_device(vdev);
queues:
	vdev->config->del_vqs(vdev);
free:
	cancel_work_sync(&dev->config_work);
	free_device(dev);
	return error;
}

static void remove(struct virtio_device *vdev)
{
	struct oprofile_device *dev = vdev->priv;
	struct cpu_counters sum;

	unregister_reboot_notifier(&reboot_notifier);
	unregister_module_notifier(&module_notifier);
	cancel_work_sync(&dev->config_work);
	cancel_delayed_work_sync(&dev->watch);
	/* A device that does not answer is not asked. */
	if (!works(dev))
		dev->dead = true;
	stop(dev);
	dev->ready = false;
	cpuhp_remove_state(hotplug_state);
	clock_exit();
	hooks_exit();
	virtio_reset_device(vdev);
	dev->dead = true;
	cancel_work_sync(&dev->config_work);
	cancel_work_sync(&dev->maps_work);
	cancel_delayed_work_sync(&dev->watch);
	cpu_buffers_count(dev, &sum);
	if (sum.untold)
		dev_warn(&vdev->dev, "%llu samples could not be told any more\n", sum.untold);
	vdev->config->del_vqs(vdev);
	the_device = NULL;
	free_device(dev);
}

static ssize_t statistics_show(struct device *device, struct device_attribute *attribute, char *text)
{
	struct oprofile_device *dev = dev_to_virtio(device)->priv;
	struct cpu_counters sum;

	if (!dev || !dev->ready)
		return -ENODEV;
	cpu_buffers_count(dev, &sum);
	return sysfs_emit(text,
			  "received %llu\nlost %llu\naborted %llu\ninvalid %llu\nposted %llu\nkicks %llu\ndoorbells %llu\n",
			  sum.received, sum.lost, sum.aborted, sum.invalid, sum.posted, sum.kicks,
			  sum.doorbells);
}
static DEVICE_ATTR_RO(statistics);

static struct attribute *device_attrs[] = { &dev_attr_statistics.attr, NULL };
ATTRIBUTE_GROUPS(device);

/* Also while no device is bound. */
static ssize_t objects_show(struct device_driver *unused, char *text)
{
	return objects_describe(text);
}
static DRIVER_ATTR_RO(objects);

static struct attribute *driver_attrs[] = { &driver_attr_objects.attr, NULL };
ATTRIBUTE_GROUPS(driver);

/* The first entry follows the parameter. */
static struct virtio_device_id id_table[] = {
	{ OPROFILE_DEFAULT_DEVICE_ID, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, id_table);

static struct virtio_driver driver = {
	.driver.name = DRIVER_NAME,
	.driver.groups = driver_groups,
	.driver.dev_groups = device_groups,
	.id_table = id_table,
	.probe = probe,
	.remove = remove,
	.config_changed = config_changed,
};

static int __init start(void)
{
	id_table[0].device = device_id;
	return register_virtio_driver(&driver);
}
module_init(start);

static void __exit finish(void)
{
	unregister_virtio_driver(&driver);
	/* On a device without a driver it changes nothing. */
	flush_work(&recovery);
	objects_check();
}
module_exit(finish);

MODULE_DESCRIPTION("Guest agent of the paravirtual profiling device");
MODULE_LICENSE("GPL");
