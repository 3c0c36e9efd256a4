#!/bin/sh
# Makes nginx's password files from the two mounted secrets.
set -eu
umask 027

install -d -o registry -g registry -m 0750 /run/registry

# A slow hash protects passwords that people choose. These are random tokens of 256 bits, which nobody can guess at any
# speed, and nginx computes the hash on every request: hence the fewest rounds that crypt(5) allows.
entry() {
    salt=$(openssl rand -hex 8)
    hash=$(openssl passwd -5 -salt "rounds=1000\$$salt" -stdin < "/run/secrets/registry-$1")
    printf '%s:%s\n' "$1" "$hash"
}
entry push > /run/registry/writers
{ cat /run/registry/writers; entry pull; } > /run/registry/readers
chown registry:registry /run/registry/writers /run/registry/readers
