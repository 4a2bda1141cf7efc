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
