#!/bin/busybox sh
# The first process of the guest that measures what the agent costs. Time is a count of instructions here.
#
# Kernel command line: rounds=N (of six million instructions), idle=SECONDS, repeat=N.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

fail() {
	echo "bench: failed: $*"
	poweroff -f
}

rounds=100
idle=4
repeat=3
for word in $(cat /proc/cmdline); do
	case $word in
	rounds=*) rounds=${word#rounds=} ;;
	idle=*) idle=${word#idle=} ;;
	repeat=*) repeat=${word#repeat=} ;;
	esac
done
while read -r module; do
	insmod "/modules/$module.ko" || fail "cannot load $module"
done </modules/order

# Each measurement is a line "bench: NAME NANOSECONDS SAMPLES IDLE-SECONDS IDLE-TIMER-INTERRUPTS IDLE-SAMPLES".
#
# Local timer interrupts so far: what wakes an idle CPU.
timer_interrupts() {
	awk '/^ *LOC:/ { print $2 }' /proc/interrupts
}

received() {
	if [ -d /sys/bus/virtio/drivers/virtio_oprofile ]; then
		sed -n 's/^received //p' /sys/bus/virtio/drivers/virtio_oprofile/virtio*/statistics
	else
		echo 0
	fi
}

# measure NAME [HZ DEPTH]
measure() {
	if [ -n "$2" ]; then
		insmod /modules/oprofile_loopback.ko "hz=$2" "depth=$3" || fail "cannot load oprofile_loopback"
		insmod /modules/virtio_oprofile.ko || fail "cannot load virtio_oprofile"
	fi
	sleep 1
	before=$(received)
	took=$(fixed "$rounds") || fail "fixed"
	after=$(received)
	interrupts=$(timer_interrupts)
	sleep "$idle"
	interrupts=$(($(timer_interrupts) - interrupts))
	echo "bench: $1 $took $((after - before)) $idle $interrupts $(($(received) - after))"
	if [ -n "$2" ]; then
		rmmod virtio_oprofile || fail "cannot unload virtio_oprofile"
		rmmod oprofile_loopback || fail "cannot unload oprofile_loopback"
	fi
}

while [ "$repeat" -gt 0 ]; do
	measure none
	measure 1kHz 1000 0
	measure 10kHz 10000 0
	measure 10kHz-16 10000 16
	repeat=$((repeat - 1))
done
poweroff -f
