# So many loops of programs, until they are stopped: long-lived and short-lived ones, and libraries that come and go.
start_load() {
	loops=
	for _ in $(seq "$1"); do
		(while :; do shares 200 && brief 30 && plugin 60; done) >/dev/null 2>&1 &
		loops="$loops $!"
	done
}

stop_load() {
	# shellcheck disable=SC2086 # one word each
	kill $loops
	# shellcheck disable=SC2086 # one word each
	wait $loops 2>/dev/null
	killall shares brief plugin 2>/dev/null
	while pidof shares brief plugin >/dev/null; do usleep 10000; done
}

# Holds it in place (STOP), with all that it runs, or lets it go on (CONT).
signal_load() {
	# shellcheck disable=SC2086 # one word each
	kill -"$1" $loops
	killall -q -"$1" shares brief plugin
}

driver=/sys/bus/virtio/drivers/virtio_oprofile
device=$(basename $driver/virtio*)

# Of what the agent holds, how many of one kind, or of all.
held() {
	awk -v kind="$1" 'kind == "" || $1 == kind { sum += $2 } END { print sum + 0 }' $driver/objects
}

received() {
	awk '$1 == "received" { print $2 }' $driver/$device/statistics
}

# Waits, for 20 s at most, until a command succeeds.
await() {
	tries=0
	until "$@" 2>/dev/null; do
		tries=$((tries + 1))
		[ $tries -lt 400 ] || fail "not within 20 s: $*"
		usleep 50000
	done
}

# Whether the agent has taken more than so many samples.
has_received() {
	[ "$(received)" -gt "$1" ]
}

# Takes a processor away (0) or gives it back (1).
switch() {
	echo "$2" >"/sys/devices/system/cpu/cpu$1/online" || fail "cannot switch CPU $1"
}
