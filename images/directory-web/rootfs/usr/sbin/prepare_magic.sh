#!/bin/sh
# Makes the folders that the two programs write to; everything else belongs to root.
set -eu

[ -s /etc/virtual-core/directory-web.json ] || { echo "directory-web: its configuration is not mounted"; exit 1; }
install -d -o root -g root -m 0755 /run/directory-web
install -d -o www-data -g directory-web -m 0750 /run/directory-web/php
install -d -o directory-web -g directory-web -m 0700 /run/directory-web/nginx
# Sessions hold the passwords of those who are logged in: so they are in memory, and end with each start.
rm -rf /dev/shm/directory-web
install -d -o www-data -g www-data -m 0700 /dev/shm/directory-web
