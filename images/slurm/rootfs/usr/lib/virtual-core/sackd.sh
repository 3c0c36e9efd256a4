#!/bin/sh
# sackd authenticates the commands of this host, and keeps the configuration that it gets of the controller.
set -eu

controller=$(/usr/lib/virtual-core/slurm-controller-address)
install -d -o slurm -g slurm -m 0755 /run/slurm
exec /usr/sbin/sackd -D --conf-server "$controller"
