# In the guest, from the payload: mounts the modules of this boot's kernel, runs the scenarios, prints their status as one kernel
# message and ends the machine.
stty -F /dev/ttyS1 raw -echo
modules=/usr/lib/modules/$(uname -r)
mkdir -p "$modules"
mount -o ro LABEL=modules "$modules" && cd /payload && ./scenarios
status=$?
if [ "$status" != 0 ]; then
    journalctl --no-pager --quiet -o short-monotonic -p warning > /dev/ttyS0
fi
sync
echo "<1>guest-status=$status." > /dev/kmsg
systemctl reboot -ff > /dev/null 2>&1
