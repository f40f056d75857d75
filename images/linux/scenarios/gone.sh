# Resets the device behind the agent's back, has it fail, and takes it away, while its buffers are out. Needs iomem=relaxed.
. /scenarios/load.sh
platform=$(basename "$(dirname "$(readlink -f /sys/bus/virtio/devices/"$device")")")
# The range is listed once by its device's name, and once by its user's.
base=$(awk -v name="$platform" '$3 == name { sub("-.*", "", $1); print "0x" $1; exit }' /proc/iomem)
[ -n "$base" ] || fail "no registers of $platform"
# Of the registers of virtio over MMIO, the status.
status=$((base + 0x70))

start_load 1
for turn in 1 2 3; do
	await has_received 200
	[ "$(held tasks)" -gt 0 ] || echo "guest: nothing was out"
	# Once it has not forgotten its queues, but FAILED is set, which the agent takes as it takes DEVICE_NEEDS_RESET.
	[ $turn = 2 ] && value=0x8f || value=0
	devmem $status 32 $value || fail "cannot reset the device"
	# Now samples pile up, until the agent finds out.
	await eval "[ \$(dmesg | grep -c 'started anew') -ge $turn ]"
done
await has_received 200
echo "$platform" >/sys/bus/platform/drivers/virtio-mmio/unbind || fail "cannot take $platform away"
echo "guest: held without a device $(held "")"
echo "$platform" >/sys/bus/platform/drivers/virtio-mmio/bind || fail "cannot give $platform back"
device=$(basename $driver/virtio*)
await has_received 200
stop_load
dmesg | grep -E "could not be told|left behind:" | sed 's/^/guest: /'
statistics=$driver/$device/statistics
echo "guest: the device went and came"
