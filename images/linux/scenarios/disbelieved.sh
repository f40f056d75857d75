# Programs with perf maps that are not to be believed, and one whose is.
for trick in none link twice strange old; do
	cp /usr/bin/jitted /tmp/jitted_$trick
	/tmp/jitted_$trick $milliseconds $trick &
done
# One whose /tmp is a file system that its user made of others.
cp /usr/bin/jitted /usr/bin/jitted_layers
unshare -U -r -m sh -c "
	mount -t tmpfs tmp /mnt && mkdir /mnt/upper /mnt/work &&
	mount -t overlay overlay -o userxattr,lowerdir=/scenarios,upperdir=/mnt/upper,workdir=/mnt/work /tmp &&
	exec /usr/bin/jitted_layers $milliseconds" || echo "guest: layers of a user failed" &
wait
