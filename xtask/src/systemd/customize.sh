# Makes of a Debian in $1/root a guest's root; $1/container becomes the root of its containers.
set -e
cd "$1"
root=$1/root
# Nothing starts by itself: the scenarios start what they need, and the boot is short.
rm -rf "$root"/etc/systemd/system/*.wants
mkdir -p "$root"/etc/systemd/system/multi-user.target.wants
ln -sf /usr/lib/systemd/system/multi-user.target "$root"/etc/systemd/system/default.target
for unit in getty@tty1 getty-static serial-getty@ttyS0; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
done
install -m 644 guest-test.service "$root"/etc/systemd/system/
ln -sf ../guest-test.service "$root"/etc/systemd/system/multi-user.target.wants/
mkdir "$root"/payload
echo guest > "$root"/etc/hostname
echo 127.0.0.1 localhost guest > "$root"/etc/hosts
echo 0123456789abcdef0123456789abcdef > "$root"/etc/machine-id
chroot "$root" useradd --create-home --uid 1000 user
# Containers share the host's network here: there is no bridge to set up.
mkdir -p "$root"/etc/docker
cat > "$root"/etc/docker/daemon.json <<END
{ "bridge": "none", "iptables": false, "ip6tables": false, "storage-driver": "overlay2" }
END
# Where modules of whichever kernel are mounted.
mkdir -p "$root"/usr/lib/modules
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
# Its packages are only unpacked: what their scripts would make, as far as a container needs it.
rm -rf container/usr/lib/*/gconv container/var/lib/apt/lists/* container/var/cache/apt/*
echo root:x:0:0:root:/root:/bin/sh > container/etc/passwd
echo root:x:0: > container/etc/group
for applet in $(chroot container busybox --list); do
    [ -e container/usr/bin/"$applet" ] || ln -s busybox container/usr/bin/"$applet"
done
tar -C container -cf "$root"/srv/container.tar .
mv container "$root"/srv/container
