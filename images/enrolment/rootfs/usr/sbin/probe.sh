#!/bin/sh
# Healthy: both files are served through TLS. Whether they are the right ones, vcore.doctor checks.
for file in ca.crt virtual-core.tar.gz; do
    answer=$(printf 'GET /%s HTTP/1.0\r\n\r\n' "$file" \
        | timeout 4 openssl s_client -quiet -ign_eof -connect 127.0.0.1:4507 2> /dev/null | head -n 1 | tr -d '\r\000')
    case $answer in
        *" 200 "*) ;;
        *) echo "$file is not served: ${answer:-no answer}"; exit 1 ;;
    esac
done
