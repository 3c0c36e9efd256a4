#!/bin/sh
# Ganesha in the foreground; with rpcbind if NFS 3 is offered, which needs it.
set -eu

configuration=/etc/virtual-core/file-router/ganesha.conf
# A copy of what it was started with: it can read changed exports again, and nothing else.
cp "$configuration" /run/virtual-core/ganesha.conf
if grep -qiE '^[^#]*\bProtocols *=[^;]*\b3\b' "$configuration" && ! pgrep -x rpcbind > /dev/null; then
    rpcbind
fi
exec ganesha.nfsd -F -L /dev/stdout -f "$configuration" -p /run/ganesha.pid
