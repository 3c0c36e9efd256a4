#!/bin/sh
# Healthy: a request with the pull credential is answered with 200 through TLS, nginx and docker-registry.
# The certificate is not checked here; each client does that.
set -eu

token=$({ printf 'pull:'; cat /run/secrets/registry-pull; } | base64 --wrap=0)
# -ign_eof keeps the connection open until the server has closed it, as the request asks.
status=$(
    printf 'GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Basic %s\r\n\r\n' "$token" \
        | timeout 8 openssl s_client -quiet -ign_eof -connect 127.0.0.1:5000 2> /dev/null \
        | head -n 1 | tr -d '\r'
)
case $status in
    *" 200 "*) exit 0 ;;
    *) echo "the registry answers: ${status:-nothing}"; exit 1 ;;
esac
