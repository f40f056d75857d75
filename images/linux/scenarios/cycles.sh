# Unbinds and binds, unloads and loads the agent again and again while it takes samples, and counts what stays behind.
# Kernel command line: cycles=NUMBER (default 12). Two CPUs.
. /scenarios/load.sh
mount -t debugfs debug /sys/kernel/debug

# Objects of a slab that are in use, those that CPUs keep for themselves given back before. In between no process may start and no file be
# opened: all objects of the pages that a CPU allocates from count as in use.
count() {
	exec 3<"/sys/kernel/slab/$1/objects" 4>"/sys/kernel/slab/$1/shrink"
	echo 1 >&4
	read -r objects _ <&3
	exec 3<&- 4>&-
	echo "$1 $objects"
}

census() {
	# Nothing of the agent is there, nothing runs, and what is freed late has been freed.
	rmmod virtio_oprofile || fail "cannot unload virtio_oprofile"
	taskset -p 1 $$ >/dev/null
	sleep 1
	for slab in task_struct mm_struct vm_area_struct filp kmalloc-4k kmalloc-8k; do count $slab; done
	echo "vmalloc $(wc -l </proc/vmallocinfo)"
	echo "kprobes $(wc -l </sys/kernel/debug/kprobes/list)"
	taskset -p 3 $$ >/dev/null
	insmod /modules/virtio_oprofile.ko || fail "cannot load virtio_oprofile"
}

# By turns from the device, and as a whole; every other time with address spaces held. The agent goes while programs run; it comes while
# they do every fifth time, as that takes four times as long.
cycle() {
	await has_received 100
	[ "$(held tasks)" -gt 0 ] && tasks=$((tasks + 1))
	[ "$(held spaces)" -gt 0 ] && spaces=$((spaces + 1))
	if [ $(($1 % 2)) = 0 ]; then
		echo "$device" >$driver/unbind || fail "cannot unbind $device"
		left=$((left + $(held "")))
		[ $(($1 % 5)) = 0 ] || signal_load STOP
		echo "$device" >$driver/bind || fail "cannot bind $device"
	else
		rmmod virtio_oprofile || fail "cannot unload virtio_oprofile"
		[ $(($1 % 5)) = 0 ] || signal_load STOP
		insmod /modules/virtio_oprofile.ko hold_mm=$(($1 / 2 % 2)) || fail "cannot load virtio_oprofile"
	fi
	signal_load CONT
}

cycles=12
for word in $(cat /proc/cmdline); do
	case $word in cycles=*) cycles=${word#cycles=} ;; esac
done
tasks=0 spaces=0 left=0
start_load 1
cycle 1
cycle 2
stop_load
census >/tmp/before
start_load 1
for number in $(seq $cycles); do cycle "$number"; done
stop_load
census >/tmp/after
echo "guest: $cycles cycles, tasks held in $tasks, spaces in $spaces, left behind $left"
paste /tmp/before /tmp/after | while read -r kind before _ after; do
	echo "guest: census $kind $before $after"
done
dmesg | grep "left behind:" && echo "guest: something was left behind"
# What would be seen if something were.
echo "guest: on purpose"
rmmod virtio_oprofile || fail "cannot unload virtio_oprofile"
insmod /modules/virtio_oprofile.ko leak=100000 || fail "cannot load virtio_oprofile"
start_load 1
await has_received 1000
stop_load
echo "$device" >$driver/unbind || fail "cannot unbind $device"
left=$(held "")
echo "$device" >$driver/bind || fail "cannot bind $device"
census >/tmp/leaked
echo "guest: left behind $left, $(paste /tmp/after /tmp/leaked | awk '$1 == "task_struct" { print "task_struct " $2 " " $4 }')"
