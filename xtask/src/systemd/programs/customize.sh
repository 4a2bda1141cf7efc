# Where modules of whichever kernel are mounted.
mkdir -p "$root"/usr/lib/modules
# Clients that no package has: Go's own resolver, and musl's. There is no /proc here for Go to find itself by.
mkdir "$root"/usr/src/clients
cp client.go client.c "$root"/usr/src/clients
mkdir -p "$root"/tmp/.config/go/telemetry
echo off > "$root"/tmp/.config/go/telemetry/mode
chroot "$root" env HOME=/tmp GOROOT=/usr/lib/go CGO_ENABLED=0 go build -o /usr/bin/go-client /usr/src/clients/client.go
chroot "$root" musl-gcc -static -Os -o /usr/bin/musl-client /usr/src/clients/client.c
rm -rf "$root"/tmp/.cache "$root"/tmp/.config "$root"/tmp/go "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
