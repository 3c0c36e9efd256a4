#!/bin/sh
# Healthy: the database answers root on the socket (32: it has no entry yet), and slapd refuses an anonymous bind over
# TLS (48). vcore.doctor checks whether clients trust the certificate: a site's own need not name this host.
suffix=$(sed -n 's/^olcSuffix: *//p' /etc/virtual-core/config.ldif)
answer=$(ldapsearch -Q -Y EXTERNAL -H ldapi:/// -o nettimeout=5 -s base -b "$suffix" 1.1 2>&1)
case $? in
    0 | 32) ;;
    *) echo "the database does not answer: $answer"; exit 1 ;;
esac
answer=$(LDAPTLS_REQCERT=never ldapwhoami -x -H ldaps://127.0.0.1 -o nettimeout=5 2>&1)
[ $? -eq 48 ] || { echo "ldaps does not answer as it should: $answer"; exit 1; }
