#!/bin/sh
# slurmdbd, once its database answers: without it slurmdbd would give up, and with it the container.
set -eu

deadline=$(($(date +%s) + 300))
until mariadb-admin --silent ping > /dev/null 2>&1; do
    [ "$(date +%s)" -lt "$deadline" ] || { echo "slurmdbd: the database does not answer" >&2; exit 1; }
    sleep 0.2
done
# Needed after an image with another MariaDB; otherwise it checks and does nothing.
mariadb-upgrade --silent > /dev/null || echo "slurmdbd: MariaDB's own tables could not be upgraded" >&2
exec setpriv --reuid=slurm --regid=slurm --clear-groups /usr/sbin/slurmdbd -D
