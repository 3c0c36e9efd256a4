#!/bin/sh
# supervisor's event listener; it waits for one of two events and acts. Protocol: https://supervisord.org/events.html
# PROCESS_STATE_FATAL: a program cannot be started. End supervisord, and with it the container, so that the
# orchestrator sees the failure and starts a new container.
# SUPERVISOR_STATE_CHANGE_STOPPING: supervisord has begun to stop its programs.
set -eu

printf 'READY\n'
IFS= read -r header
payload=$(head -c "${header##*len:}")
case $header in
    *eventname:PROCESS_STATE_FATAL*)
        echo "ending the container, a program cannot be started: $payload" >&2
        kill -TERM "$PPID" ;;
esac

# supervisord stops one program after another, and notices that one has ended only when its loop wakes: once a second,
# since a signal does not interrupt its wait (PEP 475), or when somebody connects to its socket. Connecting often makes
# five programs stop in one second instead of six.
exec perl -MIO::Socket::UNIX -e '
    while (IO::Socket::UNIX->new(Peer => "/run/supervisor.sock")) { select(undef, undef, undef, 0.05) }'
