# The agent's clock is a counter of its own, on two CPUs: it rests, counts, goes and comes with a CPU and the device. Kernel command line:
# agent=cycles=1000000,cycles_event=cpu-clock.
. /scenarios/load.sh

# Of the CPUs' timers, which is also what the event cpu-clock is.
interrupts() {
	awk '$1 == "LOC:" { print $2 + $3 }' /proc/interrupts
}

load_again() {
	rmmod virtio_oprofile || fail "cannot unload virtio_oprofile"
	insmod /modules/virtio_oprofile.ko "$@" || fail "cannot load virtio_oprofile"
}

# Long, as the shell's own work, which is sampled, takes more of it the slower the machine is.
sleep 1
timers=$(interrupts) samples=$(received)
sleep 10
echo "guest: idle, timers $(($(interrupts) - timers)), samples $(($(received) - samples)), events $(held events)"
start_load 2
timers=$(interrupts) samples=$(received)
sleep 3
echo "guest: busy, timers $(($(interrupts) - timers)), samples $(($(received) - samples)), events $(held events)"
switch 1 0
echo "guest: without a CPU, events $(held events)"
switch 1 1
stop_load
cp /usr/bin/shares /tmp/on-cpu1
taskset 2 /tmp/on-cpu1 1000 || fail "cannot run on CPU 1"
start_load 1
for turn in 1 2 3; do
	await has_received 100
	echo "$device" >$driver/unbind || fail "cannot unbind $device"
	echo "guest: held without a device, turn $turn: $(held "")"
	echo "$device" >$driver/bind || fail "cannot bind $device"
done
# The PMU, where there is one.
load_again cycles=1000000
await has_received 10
echo "guest: by the PMU, events $(held events)"
dmesg | grep -E "cannot count|a sample each .* of cycles" | sed 's/^/guest: /'
load_again cycles=1000000 cycles_event=cpu-clock
await has_received 100
stop_load
echo "guest: the counter has counted"
