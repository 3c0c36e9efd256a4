#!/bin/sh
# slapd in the foreground, with TLS for everybody and a socket for root in the container; it does not listen on 389.
# Port 1636 is for the directory's web page, on the overlay only: there config.ldif allows no change of a password.
set -eu

# slapd reserves memory for each descriptor that it may open, and Docker allows a million.
# shellcheck disable=SC3045  # Debian's sh has it
ulimit -n 8192
level=$(sed -n 's/^olcLogLevel: *//p' /etc/virtual-core/config.ldif)
exec /usr/sbin/slapd -d "$level" -u openldap -g openldap -F /etc/ldap/slapd.d -h 'ldaps:/// ldaps://0.0.0.0:1636/ ldapi:///'
