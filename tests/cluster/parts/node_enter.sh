#!/bin/sh
# Runs a program in the node's control groups: node_enter.sh GROUPS PROGRAM ARGUMENTS..., where GROUPS is the file that node_boot.sh reads.
set -eu
while read -r controller group; do echo 0 > "$group/cgroup.procs"; done < "$1"
shift
exec "$@"
