#!/bin/sh
# slapd in the foreground, on TLS for everybody and on a socket for root in the container; 389 is not listened on.
# Port 1636 is for the directory's web page, on the overlay only: config.ldif knows it, and lets no password through.
set -eu

# slapd reserves memory for each descriptor that it may open, and Docker allows a million.
# shellcheck disable=SC3045  # Debian's sh has it
ulimit -n 8192
level=$(sed -n 's/^olcLogLevel: *//p' /etc/virtual-core/config.ldif)
exec /usr/sbin/slapd -d "$level" -u openldap -g openldap -F /etc/ldap/slapd.d -h 'ldaps:/// ldaps://0.0.0.0:1636/ ldapi:///'
