#!/bin/sh
# MariaDB in the foreground, with the site's settings of its size.
set -eu

exec /usr/sbin/mariadbd --defaults-extra-file=/etc/virtual-core/slurm-accounting.cnf
