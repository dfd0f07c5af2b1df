#!/bin/sh
# Makes a machine out of namespaces and becomes its systemd. Called twice: first as the child that `unshare --pid --fork` made, then in its cgroup.
#   systemd_boot.sh ROOT BOX CGROUP PYTHON_PACKAGES ROBIN
# ROOT: the system, never written to. BOX: an empty folder to mount in. CGROUP: an empty group of the v2 hierarchy, the machine's own.
set -eu
root=$1 box=$2 cgroup=$3 packages=$4 robin=$5

if [ "${6-}" != grouped ]; then
  echo 0 > "$cgroup/cgroup.procs"
  exec unshare --cgroup "$0" "$@" grouped
fi

mount -t tmpfs -o mode=0755 machine "$box"
mkdir "$box/written" "$box/work" "$box/root"
mount -t overlay -o "lowerdir=$root,upperdir=$box/written,workdir=$box/work" machine "$box/root"
cd "$box/root"
chmod 0755 .
mount --bind "$robin" "$packages/robin"
mount -o remount,bind,ro "$packages/robin"

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys  # its settings are those of the whole kernel
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=0755 dev dev
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm .host
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

pivot_root . .host
umount -l .host
rmdir .host
exec env -i container=robin-real PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 /usr/lib/systemd/systemd
