# --- common -----------------------------------------------------------------------------------------------------------

PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
export PATH LC_ALL
umask 022

# What install has found and done lies here, for root only; undo needs it.
STATE=/var/lib/virtual-core-logins
BEGIN='# Virtual Core: begin, logins'
END='# Virtual Core: end, logins'

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }
die() { warn "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Whether a path exists, even as a dangling link.
there() { [ -e "$1" ] || [ -L "$1" ]; }

with_systemd() { [ -d /run/systemd/system ]; }

# For hosts without systemd, such as containers: Debian's init script gives sssd an option that it no longer knows.
sssd_by_itself() {
    case $1 in
        stop | restart)
            if [ -f /run/sssd.pid ]; then
                kill "$(cat /run/sssd.pid)" 2>/dev/null || true
                for _ in 1 2 3 4 5 6 7 8 9 10; do
                    kill -0 "$(cat /run/sssd.pid 2>/dev/null)" 2>/dev/null || break
                    sleep 1
                done
            fi
            ;;
        enable) warn "no systemd runs here: start sssd -D with the system yourself" ;;
    esac
    case $1 in start | restart) sssd -D ;; esac
}

# service_do start|stop|restart|reload|enable|disable NAME
service_do() {
    if with_systemd; then
        systemctl --quiet "$1" "$2"
    elif [ "$2" = sssd ] && [ -n "$SSSD_BY_ITSELF" ]; then
        sssd_by_itself "$1"
    elif [ "$1" = enable ]; then
        if have chkconfig; then chkconfig "$2" on; elif have update-rc.d; then update-rc.d "$2" enable; fi
    elif [ "$1" = disable ]; then
        if have chkconfig; then chkconfig "$2" off; elif have update-rc.d; then update-rc.d "$2" disable; fi
    elif have service; then
        service "$2" "$1"
    else
        "/etc/init.d/$2" "$1"
    fi </dev/null >>"$LOG" 2>&1
}

# Print a file without the core's block.
without_block() { sed "/^$BEGIN\$/,/^$END\$/d" "$1"; }

# move_over NEW OLD: in one step; a file that is a mountpoint, as in containers, can only be written into.
move_over() {
    mv -f "$1" "$2" 2>/dev/null || { cat "$1" >"$2" && rm -f "$1"; }
}

# Replace a file by standard input, in one step; owner and mode stay those of the old file.
replace() {
    if [ -e "$1" ]; then cp -p "$1" "$1.virtual-core"; else (umask 077; : >"$1.virtual-core"); chmod 644 "$1.virtual-core"; fi
    cat >"$1.virtual-core"
    move_over "$1.virtual-core" "$1"
}

# Print what tells whether a file is still as install left it: only then undo puts it back.
checksum() { if [ -f "$1" ]; then cksum <"$1"; elif there "$1"; then echo "no file"; else echo missing; fi; }

# Add the packages that a step of install brought to those that undo removes.
note_packages() {
    [ -f "$STATE/packages.before" ] || return 0
    list_packages >"$STATE/packages.after"
    comm -13 "$STATE/packages.before" "$STATE/packages.after" >>"$STATE/packages"
    sort -u -o "$STATE/packages" "$STATE/packages"
    rm -f "$STATE/packages.before" "$STATE/packages.after"
}

reload_sshd() {
    for name in ssh sshd; do
        if [ -f "/etc/init.d/$name" ] || [ -f "/lib/systemd/system/$name.service" ] ||
            [ -f "/usr/lib/systemd/system/$name.service" ]; then
            # An sshd that does not run reads its files when it starts.
            service_do reload "$name" || true
            return 0
        fi
    done
}

