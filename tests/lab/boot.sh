#!/bin/bash
# The first process of a host of the lab: makes the machine's view, then is its init.
#
#   boot.sh DIR NAME CGROUP [FROM:TO...]
#
# Runs in namespaces of its own (net, mount, uts, ipc, pid). DIR holds what root.py prepared: root,
# and an upper and a work folder for /usr and for /etc. CGROUP is the host's group in every hierarchy.
# FROM:TO is a folder of the machine that this host shares, or the image of a disk of its own.
set -euo pipefail

if [ "${1:-}" != inside ]; then
    # A group of its own in every hierarchy, then a cgroup namespace that takes it for the root.
    for place in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do
        [ -e "$place" ] || continue
        folder=$(dirname "$place")/$3
        [ -d "$folder" ] && echo 0 >"$folder/cgroup.procs"
    done
    exec unshare --cgroup "$0" inside "$@"
fi

dir=$2 name=$3 root=$2/root
shift 4
hostname "$name"
mount --bind "$root" "$root"
for tree in usr etc; do
    mount -t overlay overlay "$root/$tree" \
        -o "lowerdir=/$tree,upperdir=$dir/$tree.upper,workdir=$dir/$tree.work"
done
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/run/lock" "$root/run/sshd"

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/full" c 1 7
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
mknod -m 666 "$root/dev/tty" c 5 0
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"

cgroups=$root/sys/fs/cgroup
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    # One hierarchy: its inner groups hold no processes, so init and its like go into one below.
    mount -t cgroup2 cgroup2 "$cgroups"
    mkdir "$cgroups/init"
    echo 0 >"$cgroups/init/cgroup.procs"
    sed 's/[a-z]\+/+&/g' "$cgroups/cgroup.controllers" >"$cgroups/cgroup.subtree_control"
else
    mount -t tmpfs -o mode=755 cgroup "$cgroups"
    while IFS=: read -r _ controllers _; do
        place=${controllers#name=}
        mkdir "$cgroups/${place:-unified}"
        case $controllers in
            "") mount -t cgroup2 cgroup2 "$cgroups/unified" ;;
            name=*) mount -t cgroup -o "none,$controllers" cgroup "$cgroups/$place" ;;
            *) mount -t cgroup -o "$controllers" cgroup "$cgroups/$place" ;;
        esac
    done </proc/self/cgroup
fi

for shared in "$@"; do # as FROM:TO, a folder of the machine or a disk's image
    from=${shared%%:*} to=$root${shared#*:}
    mkdir -p "$to"
    if [ -d "$from" ]; then mount --bind "$from" "$to"; else mount -o loop "$from" "$to"; fi
done

mkdir -p "$root/.machine"
cd "$root"
pivot_root . .machine
umount -l /.machine
rmdir /.machine
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 \
    docker-init -- sh -c '/etc/rc.local; touch /run/booted; exec sleep infinity'
