#!/bin/sh
# slurmd, with the configuration that it gets of the controller.
set -eu

# The node's name in SLURM is its minion id, which a state writes; the host's own name may be another one.
name=/etc/virtual-core/node/name
if [ ! -s "$name" ]; then
    echo "slurmd waits for the name of its node, which state.apply brings"
    while [ ! -s "$name" ]; do sleep 1; done
fi
controller=$(/usr/lib/virtual-core/slurm-controller-address)
install -d -m 0755 /var/spool/slurmd
install -d -o slurm -g slurm -m 0755 /run/slurm
exec /usr/sbin/slurmd -D -N "$(cat "$name")" --conf-server "$controller"
