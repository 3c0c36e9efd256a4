#!/bin/sh
# slurmd, with the configuration that it gets from the controller. If a site's own controller hands none out, its files
# are mounted here.
set -eu

# The node's name in SLURM is its minion id, which a state writes; the host's own name may differ.
name=/etc/virtual-core/node/name
if [ ! -s "$name" ]; then
    echo "slurmd waits for the name of its node, which state.apply brings"
    while [ ! -s "$name" ]; do sleep 1; done
fi
if [ -e /etc/slurm/slurm.conf ]; then
    source="-f /etc/slurm/slurm.conf"
else
    source="--conf-server $(/usr/lib/virtual-core/slurm-controller-address)"
fi
install -d -m 0755 /var/spool/slurmd
install -d -o slurm -g slurm -m 0755 /run/slurm
# shellcheck disable=SC2086  # two words
exec /usr/sbin/slurmd -D -N "$(cat "$name")" $source
