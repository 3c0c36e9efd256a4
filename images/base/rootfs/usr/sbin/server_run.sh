#!/bin/sh
# Entry point of every container: prepare, then supervise.
set -eu

# Makes what this image needs at its start (password files, configuration from secrets); a failure ends the container.
if [ -x /sbin/prepare_magic.sh ]; then
    /sbin/prepare_magic.sh
fi

# sshd and the monitoring agent run only if the site supplies their configuration. The links of an earlier start are
# removed first, because a container that is started again keeps its files.
programs=/run/supervisor
rm -rf "$programs"
mkdir -p "$programs"
if [ -s /etc/virtual-core/authorized_keys ]; then
    install -d -m 0755 /run/sshd
    key=/etc/ssh/ssh_host_ed25519_key
    if [ ! -s "$key" ]; then
        rm -f "$key"
        ssh-keygen -q -t ed25519 -N '' -f "$key"
    fi
    ln -s /usr/lib/virtual-core/programs/sshd.conf "$programs/"
fi
if [ -s /etc/virtual-core/zabbix_agent2.conf ]; then
    install -d -o zabbix -g zabbix /run/zabbix
    ln -s /usr/lib/virtual-core/programs/zabbix-agent2.conf "$programs/"
fi

exec supervisord --nodaemon --configuration /etc/supervisor/supervisord.conf
