#!/bin/busybox sh
# The first process of the Debian guest: loads the agent, runs the programs for a while, powers off.
#
# Kernel command line: mix=SECONDS (default 8), only=PROGRAM for one part of the mix, agent=NAME=VALUE,… for parameters of the
# module; with its parameter truth, the inodes of programs and libraries are told. scenario=NAME runs scenarios/NAME.sh besides.
# root=DEVICE: goes on with the programs of that disk. only=shell: a shell on the console; only=cpus: one program on each vCPU.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp

fail() {
	echo "guest: $*"
	poweroff -f
}

root=
while read -r module; do
	insmod "/modules/$module.ko" || fail "cannot load $module"
done </modules/order
parameters=
for word in $(cat /proc/cmdline); do
	case $word in
	agent=*) parameters=$(echo "${word#agent=}" | tr , ' ') ;;
	root=*) root=${word#root=} ;;
	esac
done
# shellcheck disable=SC2086 # one word each
insmod /modules/virtio_oprofile.ko $parameters || fail "cannot load virtio_oprofile"
statistics=$(echo /sys/bus/virtio/drivers/virtio_oprofile/virtio*/statistics)
[ -r "$statistics" ] || fail "there is no profiling device"

if [ -n "$root" ]; then
	mkdir /newroot
	mount -t ext4 "$root" /newroot || fail "cannot mount $root"
	umount /tmp /dev /sys /proc
	exec switch_root /newroot /sbin/init
fi

seconds=8
only=
scenario=
for word in $(cat /proc/cmdline); do
	case $word in
	mix=*) seconds=${word#mix=} ;;
	only=*) only=${word#only=} ;;
	scenario=*) scenario=${word#scenario=} ;;
	esac
done
if [ "$only" = shell ]; then
	echo "guest: a shell is on the console"
	setsid -c sh </dev/ttyS0 >/dev/ttyS0 2>&1
	fail "the shell has ended"
fi
echo "guest: Linux $(uname -r), $(nproc) vCPUs, programs run for $seconds s"
case $parameters in
*truth*)
	find /bin /usr/bin /usr/lib /lib -xdev -type f \( -perm -100 -o -name '*.so*' \) \
		-exec stat -c 'truth %d %i %n' {} +
	;;
esac
end=$(($(date +%s) + seconds))
milliseconds=$((seconds * 1000))

# Each program again and again, or as long as it is told to.
until_end() {
	while [ "$(date +%s)" -lt $end ]; do
		"$@" >/dev/null 2>&1 || echo "guest: $1 failed"
	done
}

wanted() {
	[ -z "$only" ] || [ "$only" = "$1" ]
}

wanted shares && shares $milliseconds &
wanted throws && throws $milliseconds &
wanted python && PYTHONHOME=/usr until_end pyhost -S -c '
import json, re
text = json.dumps([{"n": n, "s": str(n) * 3} for n in range(400)])
words = re.findall(r"[0-9]+", text)
print(sum(map(int, words)), len(sorted(words)))' &
wanted gzip && until_end gzip -c /bin/busybox &
wanted perl && until_end perl -e 'my %h; $h{$_ % 97} .= "x" x 10 for 1 .. 20000; print scalar keys %h' &
# Asks for the time all the time, which the vDSO answers.
wanted clock && until_end perl -e 'time for 1 .. 2000000' &
wanted sqlite && until_end sqlite3 :memory: 'with recursive c(x) as (select 1 union all select x + 1 from c where x < 20000) select sum(x * x) from c' &
# Short-lived processes, and libraries that come and go in one that stays.
wanted storm && until_end brief 40 &
wanted storm && until_end brief 60 &
if [ "$only" = cpus ]; then
	cpu=0
	while [ $cpu -lt "$(nproc)" ]; do
		taskset -c $cpu shares $milliseconds &
		cpu=$((cpu + 1))
	done
fi
wanted plugin && plugin $milliseconds &
# Code that is moved and replaced: by itself, for it fills the buffers with what others' samples would thin out.
[ "$only" = moves ] && moves $milliseconds /usr/lib &
# Code that programs make themselves, and tell of in /tmp/perf-PID.map: long-lived, short-lived, in a container's namespaces.
if [ "$only" = jit ]; then
	for name in long short; do
		cp /usr/bin/jitted "/tmp/jitted_$name"
	done
	/tmp/jitted_long $milliseconds &
	until_end /tmp/jitted_short 300 &
	unshare -m -p -f sh -c "mount -t tmpfs tmp /tmp && exec /usr/bin/jitted $milliseconds" ||
		echo "guest: a container failed" &
	sleep $((seconds * 3 / 4))
	echo "guest: compiled code has run"
fi
# shellcheck source=/dev/null # of the image
[ -z "$scenario" ] || . "/scenarios/$scenario.sh"
# A thread of the kernel's that has interrupts off for 30 percent of its time; only when it is asked for.
if [ "$only" = masked ]; then
	insmod /modules/kmasked.ko || fail "cannot load kmasked"
	sleep "$seconds"
	rmmod kmasked || fail "cannot unload kmasked"
fi
# The agent goes and comes back while a program runs.
if [ "$only" = reload ]; then
	shares $milliseconds &
	for round in 1 2 3; do
		sleep 1
		rmmod virtio_oprofile || fail "cannot unload virtio_oprofile"
		# shellcheck disable=SC2086 # one word each
		insmod /modules/virtio_oprofile.ko $parameters || fail "cannot load virtio_oprofile again"
		echo "guest: the agent was loaded again, round $round"
	done
fi
# Nothing at all.
[ "$only" != idle ] || sleep "$seconds"
# Programs from memory only, from a file without a path, from both layers of an overlay, and one that is deleted while it runs.
if wanted files; then
	memfd /usr/bin/shares $milliseconds &
	mkdir -p /lower /merged /tmp/upper /tmp/work
	cp /usr/bin/shares /lower/below
	mount -t overlay -o lowerdir=/lower,upperdir=/tmp/upper,workdir=/tmp/work overlay /merged ||
		fail "cannot mount an overlay"
	cp /usr/bin/shares /merged/above
	/merged/below $milliseconds &
	/merged/above $milliseconds &
	cp /usr/bin/shares /tmp/moved
	/tmp/moved $milliseconds &
	cp /usr/bin/shares /tmp/deleted
	/tmp/deleted $milliseconds &
	sleep 1
	rm /tmp/deleted
fi
# A program on a disk, if there is one and no scenario has use for it.
if [ -b /dev/vda ] && [ -z "$scenario" ]; then
	mount -t ext4 /dev/vda /mnt || fail "cannot mount the disk"
	/mnt/shares $milliseconds &
fi
wait
if [ -b /dev/vda ] && [ -z "$scenario" ]; then
	echo "written by the guest" >/mnt/from-guest
	umount /mnt || fail "cannot unmount the disk"
fi

echo "guest: the agent has counted"
sed 's/^/guest:   /' "$statistics"
rmmod virtio_oprofile || fail "cannot unload virtio_oprofile"
poweroff -f
