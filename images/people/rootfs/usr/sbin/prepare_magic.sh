#!/bin/sh
# Runs what this image and those on it make at their start, in the order of the names; the first that fails ends the
# container, with the reason on its output.
set -eu
exec 2>&1

# The calling script becomes supervisord: its programs hold passwords, and none of them is to leave a core dump.
prlimit --core=0 --pid "$PPID"

for part in /usr/lib/virtual-core/prepare.d/*; do
    "$part"
done
