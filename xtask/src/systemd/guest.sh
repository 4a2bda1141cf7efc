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
