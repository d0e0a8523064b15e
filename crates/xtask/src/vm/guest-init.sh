#!/bin/sh
# The first process on the machine's disk: what systemd would have mounted, then the test programs, then off.
# Their words go to the second serial line, between marks that machine.rs reads; the kernel's go to the first.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=1 STRATA_TEST_VM=1
/bin/busybox --install -s /bin
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 -opost

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 run /run
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t securityfs securityfs /sys/kernel/security
[ -d /sys/fs/selinux ] && mount -t selinuxfs selinuxfs /sys/fs/selinux
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
mount --make-rshared /
ip link set lo up
hostname strata-vm

while read -r limit name dir program arguments <&3; do
    echo "@begin $name"
    cd "$dir" || cd /
    # shellcheck disable=SC2086 # the arguments are words
    CARGO_MANIFEST_DIR="$dir" timeout -s KILL "$limit" "$program" --test-threads=1 $arguments 3<&-
    status=$?
    echo
    echo "@end $name $status"
done 3</vm/plan
echo "@off"
sync
poweroff -f
