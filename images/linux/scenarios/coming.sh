# Modules come and go while the agent's driver introduces itself.
driver=/sys/bus/virtio/drivers/virtio_oprofile
(while :; do
	rmmod overlay || fail "cannot unload overlay"
	insmod /modules/overlay.ko || fail "cannot load overlay"
done) &
loop=$!
for round in 1 2 3 4 5 6; do
	rmmod virtio_oprofile || fail "cannot unload virtio_oprofile"
	# shellcheck disable=SC2086 # one word each
	insmod /modules/virtio_oprofile.ko $parameters || fail "cannot load virtio_oprofile"
	cat $driver/virtio*/statistics >/dev/null || fail "round $round: no device is bound"
done
kill $loop
wait $loop 2>/dev/null
echo "guest: introduced $round times, $(dmesg | grep -c 'refuses request') requests refused"
statistics=$(echo $driver/virtio*/statistics)
