#!/bin/sh
# Makes a machine of a folder that holds a Debian, in namespaces of its own: what it writes lies in
# memory, its network is a loopback, its processes and its control groups are below this one.
#
#     boot.sh outside NAME ROOT AT INIT...     as process 1 of fresh namespaces
#     boot.sh inside  NAME ROOT AT INIT...     by itself, within its control group
#
# Says `made` when only the last step, INIT, is left.
set -eu
stage=$1 name=$2 root=$3 at=$4
shift 4

if [ "$stage" = outside ]; then
    # Unseen by the machine: it takes the group that it finds itself in for the topmost.
    mount -t cgroup2 cgroup2 "$at"
    mkdir "$at/$name"
    echo 0 >"$at/$name/cgroup.procs"
    umount "$at"
    exec unshare --cgroup -- sh "$0" inside "$name" "$root" "$at" "$@"
fi

mount -t tmpfs -o mode=755,size=4g tmpfs "$at"
mkdir "$at/upper" "$at/work" "$at/root"
mount -t overlay -o "lowerdir=$root,upperdir=$at/upper,workdir=$at/work" overlay "$at/root"
cd "$at/root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
hostname "$name"
mkdir .before
pivot_root . .before
cd /
umount -l .before
rmdir .before
echo made
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other "$@"
