#!/bin/bash
# sackd authenticates the commands of this host, and keeps the configuration that it gets from the controller. If a
# site's own controller hands none out, its slurm.conf is mounted here. sackd is started when a controller answers:
# without one it would end again and again, and with it the container, although people want to log in all the same.
set -eu

install -d -o slurm -g slurm -m 0755 /run/slurm
if [ -e /etc/slurm/slurm.conf ]; then
    exec /usr/sbin/sackd -D
fi
controller=$(/usr/lib/virtual-core/slurm-controller-address)

answers() {
    local place
    for place in ${controller//,/ }; do
        ! timeout 5 bash -c ": < /dev/tcp/${place%:*}/${place##*:}" 2> /dev/null || return 0
    done
    return 1
}

said=
until answers; do
    [ -n "$said" ] || echo "sackd waits for SLURM's controller at $controller"
    said=1
    sleep 2
done
exec /usr/sbin/sackd -D --conf-server "$controller"
