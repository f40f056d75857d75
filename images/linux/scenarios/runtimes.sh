# Runtimes that compile just in time and tell of it, from a disk with a root of their own.
root=/runtimes
mkdir $root
mount -t ext4 -o ro /dev/vda $root || fail "cannot mount the runtimes"
mount -t tmpfs tmp $root/tmp
chroot $root /usr/bin/node --perf-basic-prof --no-turbo-inlining /work.js $milliseconds ||
	echo "guest: node failed" &
chroot $root /usr/bin/php8.2 -n -d zend_extension=/usr/lib/php/20220829/opcache.so -d opcache.enable_cli=1 \
	-d opcache.jit=function -d opcache.jit_buffer_size=16M -d opcache.jit_debug=16 /work.php $milliseconds ||
	echo "guest: php failed" &
wait
