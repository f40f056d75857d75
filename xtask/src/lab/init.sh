#!/bin/busybox sh
# The lab's first process. It makes the host's root (9p, read-only) look like a machine of its own,
# runs /ctl/run.sh inside, writes its exit code to /ctl/exit-code and powers the machine off.
# A power-off without an exit code tells the host that the lab itself failed; the console says where.
/bin/busybox mkdir -p /bin /dev /proc /sys /ctl /newroot /scratch
/bin/busybox --install -s /bin
export PATH=/bin

die() {
    echo "lab: $*" >/dev/console
    poweroff -f
}
must() {
    "$@" 2>/dev/console || die "this step failed: $*"
}
mount_9p() { # TAG DIRECTORY OPTIONS
    must mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2"
}

mount -t devtmpfs devtmpfs /dev || poweroff -f
must mount -t proc proc /proc
must mount -t sysfs sysfs /sys
while read -r module; do
    must insmod "/lib/modules/$module"
done </lib/modules/order

# The host's files do not change under a run (cache=loose: they are read once); what the run writes
# must be on the host at once (cache=mmap: nothing but shared mappings is kept back).
mount_9p ctl /ctl cache=mmap
mount_9p root /newroot ro,cache=loose
mount_9p share /newroot/mnt cache=mmap

must mount -t proc proc /newroot/proc
must mount -t sysfs sysfs /newroot/sys
must mount -t devtmpfs devtmpfs /newroot/dev
mkdir -p /newroot/dev/pts /newroot/dev/shm
must mount -t devpts devpts /newroot/dev/pts
must mount -t tmpfs shm /newroot/dev/shm
must mount -t tmpfs run /newroot/run
# /tmp keeps what the host has there (a target directory may be); writes stay in memory.
must mount -t tmpfs scratch /scratch
mkdir /scratch/upper /scratch/work
chmod 1777 /scratch/upper /newroot/dev/shm
must mount -t overlay \
    -o lowerdir=/newroot/tmp,upperdir=/scratch/upper,workdir=/scratch/work overlay /newroot/tmp
for link in fd: stdin:/0 stdout:/1 stderr:/2; do
    ln -sfn "/proc/self/fd${link#*:}" "/newroot/dev/${link%:*}"
done
ip link set lo up
hostname lab

mkdir /newroot/run/lab
must cp /ctl/run.sh /newroot/run/lab/run.sh
for name in /sys/class/virtio-ports/*/name; do
    port=$(basename "$(dirname "$name")")
    case $(cat "$name") in
        lab.stdout) stdout=/dev/$port ;;
        lab.stderr) stderr=/dev/$port ;;
    esac
done
[ -n "$stdout" ] && [ -n "$stderr" ] || die "the ports for stdout and stderr are missing"

# Pipes, since a port can be opened only once and programs reopen /dev/stderr.
mkfifo /run.stdout /run.stderr
cat /run.stdout >"$stdout" &
out=$!
cat /run.stderr >"$stderr" &
err=$!
# A sign of life for the host; see lab/qemu.rs.
while sleep 1; do echo >/ctl/heartbeat; done &
chroot /newroot /bin/sh /run/lab/run.sh </dev/null >/run.stdout 2>/run.stderr
code=$?
# Something left in the background may hold the pipes open: it gets a moment, not for ever.
(sleep 3; kill "$out" "$err") 2>/dev/null &
wait "$out" "$err"
umount /newroot/mnt 2>/dev/null
echo "$code" >/ctl/exit-code
sync
poweroff -f
