#!/bin/sh
# Runs the preparations of this image and of those that build on it, in the order of their names; the first that fails
# ends the container, with the reason on its output.
set -eu
exec 2>&1

# The calling script becomes supervisord, whose programs hold passwords: none of them may leave a core dump.
prlimit --core=0 --pid "$PPID"

for part in /usr/lib/virtual-core/prepare.d/*; do
    "$part"
done
