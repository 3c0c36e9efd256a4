#!/bin/sh
# Healthy: the login page is served through TLS, nginx and PHP. vcore.doctor checks the certificate.
# That page needs no session, so that no session files are left behind.
answer=$(printf 'GET /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' \
    | timeout 8 openssl s_client -quiet -ign_eof -connect 127.0.0.1:8081 2> /dev/null)
case $answer in
    *" 200 "*"Only administrators log in here"*) exit 0 ;;
    *) echo "the login page is not served: $(printf '%s' "${answer:-no answer}" | head -n 1)"; exit 1 ;;
esac
