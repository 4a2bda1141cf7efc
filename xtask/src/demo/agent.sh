#!/bin/sh
# The demo's untrusted agent. `agent.sh work` does an honest job in the workspace, `agent.sh reach` reaches for what an
# agent must not have, `agent.sh root` does so with root's rights. Each step stands between two lines that begin with @.
export HOME="$DEMO_HOME" LC_ALL=C
# Nothing of the machine's own git configuration, and no sample hooks.
export GIT_CONFIG_NOSYSTEM=1 GIT_TEMPLATE_DIR=
# Else git asks /etc/passwd and the name server who it is.
export GIT_AUTHOR_NAME=agent GIT_AUTHOR_EMAIL=agent@example.org
export GIT_COMMITTER_NAME=agent GIT_COMMITTER_EMAIL=agent@example.org
cd "$DEMO_WORKSPACE" || exit 1

step() {
    kind=$1 name=$2
    shift 2
    echo "@$kind $name $*"
    "$@" 2>&1
    printf '\n@end %s %s\n' "$name" $?
}

follow_symlink() { ln -s "$HOME/.ssh/id_ed25519" notes.txt && cat notes.txt; }
append_to() { echo 'echo the agent was here' >> "$1"; }

work() {
    step work clone git clone "git://$DEMO_SERVER/greeter"
    cd greeter || return
    step work edit sed -i s/world/Stockade/ greeting.txt
    step work diff git diff --stat
    step work build ./build.sh
    step work run ./greet
    step work commit git commit -a -m Greet-Stockade
    step work log git log --oneline
}

reach() {
    step reach key cat "$HOME/.ssh/id_ed25519"
    step reach symlink follow_symlink
    step reach profile append_to "$HOME/.profile"
    step reach metadata "$DEMO_ATTEMPT" tcp4 169.254.169.254 80
    step reach tcp "$DEMO_ATTEMPT" tcp4 127.0.0.1 5432
    step reach mapped "$DEMO_ATTEMPT" tcp4-mapped 127.0.0.1 5432
    step reach udp "$DEMO_ATTEMPT" udp4 127.0.0.1 5353
}

root() {
    step reach root-shadow "$DEMO_ATTEMPT" read-open /etc/shadow
    step reach root-key cat "$HOME/.ssh/id_ed25519"
    step reach root-raw "$DEMO_ATTEMPT" raw-icmp
}

for part; do "$part"; done
