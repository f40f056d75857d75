#!/bin/busybox sh
# The first process of a Debian guest whose root is a disk; the initramfs has loaded the modules. Runs programs of the disk for
# mix=SECONDS, powers off.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

seconds=4
for word in $(cat /proc/cmdline); do
	case $word in mix=*) seconds=${word#mix=} ;; esac
done
echo "guest: root is $(awk '$2 == "/" { print $1, $3 }' /proc/mounts | tail -n 1)"
end=$(($(date +%s) + seconds))
shares $((seconds * 1000)) &
while [ "$(date +%s)" -lt $end ]; do
	perl -e 'my %h; $h{$_ % 97} .= "x" x 10 for 1 .. 20000; print scalar keys %h' >/dev/null || echo "guest: perl failed"
done
wait
echo "written by the guest" >/from-guest
mount -o remount,ro / || echo "guest: cannot remount the root"
echo "guest: the agent has counted"
sed 's/^/guest:   /' /sys/bus/virtio/drivers/virtio_oprofile/virtio*/statistics
poweroff -f
