# --- undo ---------------------------------------------------------------------------------------------------------------

dry=''
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry=yes ;;
        --help | -h)
            cat <<TEXT
Usage: ./undo [--dry-run]

Takes back what ./install did on this host: packages, files, name service, PAM. Homes of people stay.
A system file that somebody has changed since then is not overwritten; its former version is kept, and named.
TEXT
            exit 0
            ;;
        *) die "unknown option $1; see ./undo --help" ;;
    esac
    shift
done

[ "$(id -u)" -eq 0 ] || die "this needs root"
if [ ! -f "$STATE/paths" ]; then
    say "There is nothing to undo."
    exit 0
fi
[ "$(cat "$STATE/kind")" = "$KIND" ] || die "logins of the kind $(cat "$STATE/kind") are installed here: run $STATE/undo"
LOG=/var/log/virtual-core-logins-undo.log
KEPT=/var/lib/virtual-core-logins.kept
if [ -n "$dry" ]; then LOG=/dev/null; else (umask 077; : >"$LOG"); fi

# The log is kept if it holds something to read.
warned=''
warn() { warned=yes; printf '%s: %s\n' "$PROGRAM" "$*" >&2; }

# Packages of a run that was interrupted before it could note them.
[ -n "$dry" ] || note_packages

own() { printf '%s\n' "$FILES" | sed 's/^[^ ]* //' | grep -qxF "$1"; }

# Before anything: which files are no longer as install left them?
[ -n "$dry" ] || : >"$STATE/changed"
while read -r path; do
    if [ -f "$STATE/sums" ] && ! grep -qxF "$(checksum "$path") $path" "$STATE/sums"; then
        if [ -n "$dry" ]; then say "$path was changed since"; else printf '%s\n' "$path" >>"$STATE/changed"; fi
    fi
done <"$STATE/paths"

if [ -n "$dry" ]; then
    [ ! -s "$STATE/packages" ] || say "would remove the packages: $(tr '\n' ' ' <"$STATE/packages")"
    while read -r path; do
        if there "$STATE/backup$path"; then say "would put $path back"; elif there "$path"; then say "would remove $path"; fi
    done <"$STATE/paths"
    exit 0
fi

for service in $SERVICES; do
    service_do stop "$service" || true
    service_do disable "$service" || true
done
[ -z "$TUNNEL" ] || { service_do stop virtual-core-tunnel || true; service_do disable virtual-core-tunnel || true; }
switch_off

# The packages that install brought: all of them, or none if something else needs one by now.
removed=''
if [ -s "$STATE/packages" ]; then
    # shellcheck disable=SC2046 # names of packages
    set -- $(list_packages | comm -12 - "$STATE/packages")
    if [ $# -eq 0 ] || remove_packages "$@"; then
        removed=yes
    else
        warn "these packages stay, others need them by now; see $LOG: $*"
    fi
fi

# The system account of the packages, which stays when they are removed.
if [ -f "$STATE/account" ] && [ -n "$removed" ] && grep -q "^$ACCOUNT:" /etc/passwd; then
    userdel "$ACCOUNT" >>"$LOG" 2>&1 || warn "the account $ACCOUNT stays; see $LOG"
fi

keep() {
    mkdir -p "$KEPT$(dirname "$1")"
    chmod 700 "$KEPT"
    cp -pP "$2" "$KEPT$1"
    warn "$1 was changed since the installation; $3 is in $KEPT$1"
}

while read -r path; do
    if grep -qxF "$path" "$STATE/changed"; then
        if own "$path"; then
            if there "$path"; then keep "$path" "$path" "what it was until now"; fi
        else
            # A file of the system: only our block is removed.
            if [ -f "$path" ] && grep -qxF "$BEGIN" "$path"; then
                without_block "$path" >"$STATE/file"
                replace "$path" <"$STATE/file"
            fi
            if [ "$path" = /etc/nsswitch.conf ] && ! grep -Eq "^passwd:.*[[:space:]]$NSS([[:space:]]|\$)" "$STATE/backup$path"; then
                sed -r "/^(passwd|group|shadow):/s/[[:space:]]+$NSS([[:space:]]|\$)/\1/" "$path" >"$STATE/file"
                replace "$path" <"$STATE/file"
            fi
            if there "$STATE/backup$path" && ! cmp -s "$STATE/backup$path" "$path"; then
                keep "$path" "$STATE/backup$path" "what it was before"
            fi
            continue
        fi
    fi
    if there "$STATE/backup$path"; then
        if [ -L "$path" ] || [ -L "$STATE/backup$path" ] || ! cmp -s "$STATE/backup$path" "$path"; then
            mkdir -p "$(dirname "$path")"
            cp -pP "$STATE/backup$path" "$path.virtual-core"
            move_over "$path.virtual-core" "$path"
        fi
    elif there "$path"; then
        rm -f "$path"
    fi
done <"$STATE/paths"
if [ -d /etc/virtual-core-logins ]; then rmdir /etc/virtual-core-logins 2>/dev/null || true; fi

switch_back
if with_systemd; then systemctl daemon-reload >>"$LOG" 2>&1 || true; fi
[ ! -f /etc/ssh/sshd_config ] || [ -z "$SSHD_LINES" ] || reload_sshd
! have nscd || service_do restart nscd || true
rm -rf "$STATE"
[ -n "$warned" ] || rm -f "$LOG"
say "Undone: this host no longer knows the people of $DOMAIN."
