#!/bin/sh
# Makes a node out of namespaces and becomes its process 1. Called twice: first as the child that `unshare --pid --fork` made, then in its cgroups.
#   node_boot.sh ROOT BOX SHARED PROGRAMS...
# ROOT: the system, never written to. BOX: an empty folder to mount in. SHARED: a folder of the host, /cluster in the node; its file `cgroups` has
# a line CONTROLLER GROUP for each hierarchy. PROGRAMS: folders of programs, below /opt in the node.
set -eu

if [ "${IN_CGROUPS-}" != yes ]; then
  while read -r controller group; do echo 0 > "$group/cgroup.procs"; done < "$3/cgroups"
  IN_CGROUPS=yes exec unshare --cgroup "$0" "$@"
fi
root=$1 box=$2 shared=$3
shift 3

mount -t tmpfs -o mode=0755 node "$box"
mkdir "$box/written" "$box/work" "$box/root"
mount -t overlay -o "lowerdir=$root,upperdir=$box/written,workdir=$box/work" node "$box/root"
cd "$box/root"
chmod 0755 .
mkdir -p cluster opt proc sys run tmp dev var/lib .host
mount --bind "$shared" cluster
for programs in "$@"; do
  name=${programs##*/}
  name=${name%-*}  # without the key of the cache
  mkdir "opt/$name"
  mount --bind "$programs" "opt/$name"
  mount -o remount,bind,ro "opt/$name"
done

mount -t proc proc proc
echo node1 > proc/sys/kernel/hostname  # the node's own
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys  # its settings are those of the whole kernel, but for
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net  # those of the network, which is the node's own
mkdir "$box/sysctl"
while read -r name value; do  # the kubelet insists on setting these
  echo "$value" > "$box/sysctl/${name##*/}"
  mount --bind "$box/sysctl/${name##*/}" "proc/sys/$name"
done <<SYSCTLS
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SYSCTLS

mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=0755 cgroup sys/fs/cgroup
while read -r controller group; do
  mkdir "sys/fs/cgroup/$controller"
  mount -t cgroup -o "$controller" cgroup "sys/fs/cgroup/$controller"
done < "$shared/cgroups"

mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=0755 state var/lib  # an overlay of containers cannot lie on an overlay
mount -t tmpfs -o mode=0755 dev dev
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
touch dev/kmsg  # the kernel's log is not the node's to read
mount --bind /dev/null dev/kmsg
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

pivot_root . .host
umount -l .host
rmdir .host
mount --make-rshared /
export PATH=/usr/sbin:/usr/bin

ip link set lo up
ip link add node0 type bridge  # a node's own address, on an interface that needs no peer
ip address add 10.98.0.1/24 dev node0
ip link set node0 up
ip route add default via 10.98.0.254 dev node0
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables

touch /run/booted
while :; do  # reaps what containers leave
  sleep 3600 &
  wait $!
done
