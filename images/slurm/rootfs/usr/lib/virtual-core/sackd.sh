#!/bin/bash
# sackd authenticates the commands of this host, and keeps the configuration that it gets of the controller. Without a
# controller it would end, again and again, and with it the container, where people want to log in all the same.
set -eu

controller=$(/usr/lib/virtual-core/slurm-controller-address)
install -d -o slurm -g slurm -m 0755 /run/slurm
said=
until timeout 5 bash -c ": < /dev/tcp/${controller%:*}/${controller##*:}" 2> /dev/null; do
    [ -n "$said" ] || echo "sackd waits for SLURM's controller at $controller"
    said=1
    sleep 2
done
exec /usr/sbin/sackd -D --conf-server "$controller"
