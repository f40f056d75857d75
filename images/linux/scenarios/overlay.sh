# Programs of a file system of layers, as containers have: one of a lower layer, one of the upper one.
mkdir -p /tmp/lower /tmp/upper /tmp/work /tmp/merged
cp /usr/bin/shares /tmp/lower/from-lower
mount -t overlay overlay -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work /tmp/merged ||
	fail "cannot mount an overlay"
cp /usr/bin/shares /tmp/merged/from-upper
for program in from-lower from-upper; do
	/tmp/merged/$program 1500
done
umount /tmp/merged
echo "guest: layers were laid"
