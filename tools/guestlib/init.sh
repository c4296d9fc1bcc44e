#!/bin/busybox sh
# The guest's first process: a root file system on which everything can be written and nothing reaches the host, the modules,
# the command. What is said here goes to the console, which is shown when something goes wrong.
B=/bin/busybox
give_up() { echo "guest: $*"; $B poweroff -f; }
$B mount -t proc proc /proc && $B mount -t sysfs sys /sys && $B mount -t devtmpfs dev /dev || give_up "no proc, sys or dev"

# options come on the kernel's command line as MODULE.OPTION=VALUE
load() {
    # shellcheck disable=SC2046
    $B insmod "/modules/$1.ko" $($B tr ' ' '\n' </proc/cmdline | $B sed -n "s/^$1\.//p") || echo "guest: insmod $1 failed"
}
for module in $($B cat /modules/boot); do load "$module"; done
$B mkdir -p /low /high /root
$B mount -t virtiofs -o ro root /low || give_up "no root file system"
$B mount -t tmpfs -o size=75%,mode=755 tmpfs /high && $B mkdir /high/upper /high/work
$B mount -t overlay -o lowerdir=/low,upperdir=/high/upper,workdir=/high/work overlay /root || give_up "no overlay"
for module in $($B cat /modules/rest); do load "$module"; done

cd /root || give_up "no /root"
$B mount --move /proc proc && $B mount --move /sys sys && $B mount --move /dev dev || give_up "cannot move proc, sys or dev"
$B mount -t tmpfs -o mode=755 tmpfs run
$B mount -t configfs config sys/kernel/config || echo "guest: no configfs"
$B mount -t debugfs debug sys/kernel/debug || echo "guest: no debugfs"
$B mkdir -p dev/shm dev/pts run/guest/modules run/lock
$B mount -t tmpfs -o mode=1777 tmpfs dev/shm
$B mount -t devpts -o ptmxmode=666 devpts dev/pts
$B ln -sf /proc/self/fd dev/fd
$B cp -r /job/. run/guest/
$B mount -o bind /modules run/guest/modules
$B hostname kvfs-guest
$B ip link set lo up

# ports are named by their host, numbered as they are found, and there a little later than their driver
port() {
    for _ in $($B seq 100); do
        for each in sys/class/virtio-ports/*; do
            [ "$($B cat "$each/name" 2>/dev/null)" = "$1" ] && [ -e "dev/${each##*/}" ] && echo "dev/${each##*/}" && return
        done
        $B sleep 0.1
    done
    echo "guest: no port $1" >dev/console
    echo dev/null
}
output=$(port output)
status=$(port status)
$B ln -s "/$(port result)" run/guest/result
echo "guest: ready after $($B cut -d' ' -f1 proc/uptime) s"
$B chroot . /bin/bash /run/guest/command </dev/null >"$output" 2>&1
echo $? >"$status"
$B sync
$B poweroff -f
