#!/bin/busybox sh
# First process of a guest: mounts what a host has, runs /etc/guest-command with its output on ttyS1, prints the exit
# status as one kernel message and ends the machine.
export PATH=/bin:/usr/bin
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t securityfs sec /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs trace /sys/kernel/tracing
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
stty -F /dev/ttyS1 raw -echo
ip link set lo up
hostname guest
while read -r file options; do insmod "$file" $options || echo "insmod $file failed" > /dev/kmsg; done < /etc/guest-modules
# The root of an initramfs can be neither moved nor pivoted from: the command gets a bind mount of it.
mkdir -p /mnt/root
mount --bind / /mnt/root
for folder in dev proc sys; do mount --move /$folder /mnt/root/$folder; done
cd /mnt/root && mount --move . /
chroot . /bin/sh /etc/guest-command < dev/null > dev/ttyS1 2>&1
status=$?
sync
echo "<1>guest-status=$status." > dev/kmsg
reboot -f
