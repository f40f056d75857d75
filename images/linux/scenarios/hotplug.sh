# Takes processors away and gives them back while programs run.
. /scenarios/load.sh

start_load 3
for turn in 1 2 3 4; do
	for cpu in 1 2; do
		switch $cpu 0
		usleep 150000
		[ $turn = 4 ] && [ $cpu = 2 ] || switch $cpu 1
		usleep 150000
	done
done
# The agent is loaded while a processor is away, and that one comes then.
rmmod virtio_oprofile || fail "cannot unload virtio_oprofile"
insmod /modules/virtio_oprofile.ko || fail "cannot load virtio_oprofile"
await has_received 100
switch 2 1
stop_load
# Whoever comes back is sampled: a program of its own on each.
for cpu in 1 2; do
	cp /usr/bin/shares /tmp/on-cpu$cpu
	taskset $((1 << cpu)) /tmp/on-cpu$cpu 1500 || fail "cannot run on CPU $cpu"
done
echo "guest: processors came and went"
