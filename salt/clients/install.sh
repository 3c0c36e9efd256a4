# --- install ------------------------------------------------------------------------------------------------------------

usage() {
    cat <<TEXT
Usage: ./install [--dry-run] [--any-system]$USAGE

Lets people of $DOMAIN log in on this host: $TITLE.
Run it as root; it can be run again. ./undo, or $STATE/undo, takes everything back.

  --dry-run      say what would be done, and change nothing
  --any-system   go on although this is not $SYSTEM_NAME
  --help         this text
TEXT
    [ -z "$USAGE" ] || cat <<TEXT
  --relay H:P    reach the directory at this address, unencrypted, where a newer host relays it (see README)
  --stunnel FILE a stunnel with OpenSSL 1.0.1 or newer; by default $STUNNEL
TEXT
}

dry='' any='' relay=''
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry=yes ;;
        --any-system) any=yes ;;
        --relay | --stunnel)
            [ -n "$USAGE" ] || die "unknown option $1; see ./install --help"
            [ $# -ge 2 ] || die "$1 needs a value"
            case $2 in *[!A-Za-z0-9./:_-]*) die "$1 $2: this is neither an address nor a path" ;; esac
            if [ "$1" = --relay ]; then relay=$2; else STUNNEL=$2; fi
            shift
            ;;
        --help | -h) usage; exit 0 ;;
        *) die "unknown option $1; see ./install --help" ;;
    esac
    shift
done

HERE=$(cd "$(dirname "$0")" && pwd)
LOG=$STATE/install.log
[ -n "$dry" ] && LOG=/dev/null
[ -z "$relay" ] || URI=ldap://$relay

# --- checks: nothing is changed here ---

[ "$(id -u)" -eq 0 ] || die "this needs root"
if [ -r /etc/os-release ]; then
    # shellcheck disable=SC1091 # the host's own
    system=$(. /etc/os-release && printf '%s %s' "${ID-}" "${VERSION_ID-}")
else
    system=$(sed -n -e 's/^CentOS.* release \([0-9.]*\).*/centos \1/p' -e 's/^Red Hat.* release \([0-9.]*\).*/rhel \1/p' \
        -e 's/^Scientific Linux.* release \([0-9.]*\).*/scientific \1/p' /etc/redhat-release 2>/dev/null || true)
fi
known=''
# shellcheck disable=SC2254 # patterns
for pattern in $SYSTEMS; do
    case "${system%% *}-${system#* }" in $pattern) known=yes ;; esac
done
if [ -z "$known" ] && [ -z "$any" ]; then
    die "this bundle is for $SYSTEM_NAME, and this host is '${system:-unknown}'; make one for it, or use --any-system"
fi
[ -n "$dry" ] || check_family
printf '%s\n' "$FILES" | while read -r mode path; do
    [ -z "$mode" ] || [ -f "$HERE/files$path" ] || die "files$path is missing in this bundle; unpack it again"
done
if [ -f "$STATE/kind" ] && [ "$(cat "$STATE/kind")" != "$KIND" ]; then
    die "logins of the kind $(cat "$STATE/kind") are installed here: run $STATE/undo first"
fi
if [ -n "$USAGE" ] && [ -z "$relay" ]; then
    # The system's own OpenSSL 0.9.8 speaks at most TLS 1.0, and the core requires 1.2.
    "$STUNNEL" -version 2>&1 | grep -Eq 'OpenSSL (1\.0\.[12]|1\.1|[3-9])' ||
        die "this system's TLS ends at 1.0 and the core requires 1.2: build stunnel with OpenSSL 1.0.1 or newer" \
            "($STUNNEL), or use --relay; README tells how"
fi

resolves() { getent hosts "$LDAP_HOST" >/dev/null 2>&1; }

missing=''
for package in $PACKAGES; do
    list_packages | grep -qx "$package" || missing="$missing $package"
done

if [ -n "$dry" ]; then
    [ -z "$missing" ] || say "would install the packages:$missing"
    resolves || say "would add to /etc/hosts: $LDAP_ADDRESS $LDAP_HOST"
    printf '%s\n' "$FILES" | while read -r mode path; do
        [ -z "$mode" ] || cmp -s "$HERE/files$path" "$path" || say "would write $path ($mode)"
    done
    [ -z "$SSHD_LINES" ] || [ ! -f /etc/ssh/sshd_config ] || say "would let sshd ask for people's keys"
    managed_files | while read -r path; do if there "$path"; then say "would keep a copy of $path"; fi; done
    say "would switch name service and PAM to $CLIENT, start $SERVICES, and look a person up"
    exit 0
fi

# --- from here on the host is changed, with a copy of each file that was there ---

[ -f "$STATE/complete" ] && fresh='' || fresh=yes
mkdir -p "$STATE/backup"
chmod 700 "$STATE"
[ -f "$STATE/kind" ] || grep -q "^$ACCOUNT:" /etc/passwd || : >"$STATE/account"
say "$KIND" >"$STATE/kind"
cp "$HERE/undo" "$STATE/undo.new"
chmod 700 "$STATE/undo.new"
mv -f "$STATE/undo.new" "$STATE/undo"
: >>"$STATE/paths"

# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    code=$?
    trap - EXIT
    if [ "$code" -ne 0 ]; then
        if [ -n "$fresh" ]; then
            warn "failed; taking back what was done. The log is kept in /var/log/virtual-core-logins.log"
            tail -n 15 "$LOG" >&2 2>/dev/null || true
            cp "$LOG" /var/log/virtual-core-logins.log 2>/dev/null || true
            "$STATE/undo" || true
        else
            warn "failed; see $LOG"
        fi
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' HUP INT TERM

backup() {
    grep -qxF "$1" "$STATE/paths" && return 0
    if there "$1"; then
        mkdir -p "$STATE/backup$(dirname "$1")"
        cp -pP "$1" "$STATE/backup$1"
    fi
    printf '%s\n' "$1" >>"$STATE/paths"
}

require_packages() {
    for package; do
        if ! list_packages | grep -qx "$package"; then
            say "installing $*"
            # In two steps, so that even after a power cut in between it is known what came.
            list_packages >"$STATE/packages.new"
            mv -f "$STATE/packages.new" "$STATE/packages.before"
            install_packages "$@" || die "these packages cannot be installed: $*"
            note_packages
            return 0
        fi
    done
}
note_packages

changed=''
place_files() {
    while read -r mode path; do
        [ -n "$mode" ] || continue
        if [ -n "$relay" ]; then
            sed "s,^uri .*,uri $URI," "$HERE/files$path" >"$STATE/file"
        else
            sed "s,@STUNNEL@,$STUNNEL,g" "$HERE/files$path" >"$STATE/file"
        fi
        if ! cmp -s "$STATE/file" "$path"; then
            changed=yes
            mkdir -p "$(dirname "$path")"
            (umask 077; cat "$STATE/file" >"$path.virtual-core")
            chmod "${mode%%:*}" "$path.virtual-core"
            case $mode in *:*) chown "${mode#*:}" "$path.virtual-core" ;; esac
            mv -f "$path.virtual-core" "$path"
        fi
    done <<LIST
$FILES
LIST
    rm -f "$STATE/file"
}

{
    managed_files
    printf '%s\n' "$FILES" | sed 's/^[^ ]* //'
    say /etc/hosts
    if [ -n "$SSHD_LINES" ]; then say /etc/ssh/sshd_config; say "$SSHD_DROP_IN"; fi
} | while read -r path; do [ -z "$path" ] || backup "$path"; done

if ! resolves; then
    say "adding $LDAP_HOST to /etc/hosts"
    { without_block /etc/hosts; printf '%s\n%s\t%s\n%s\n' "$BEGIN" "$LDAP_ADDRESS" "$LDAP_HOST" "$END"; } >"$STATE/hosts"
    replace /etc/hosts <"$STATE/hosts"
    rm -f "$STATE/hosts"
fi

# The one decisive check before logins are touched: this system's own LDAP library, the core's root, the password.
require_packages "$PROBE_PACKAGE"
if [ -n "$USAGE" ]; then
    # shellcheck disable=SC2086 # names of packages
    require_packages $PACKAGES
    place_files
    [ -n "$relay" ] || { service_do enable virtual-core-tunnel; service_do restart virtual-core-tunnel; sleep 1; } ||
        die "the tunnel does not start; see $LOG"
fi
LDAPTLS_CACERT=$HERE/files$AUTHORITY LDAPTLS_REQCERT=demand LDAPNETWORK_TIMEOUT=5
export LDAPTLS_CACERT LDAPTLS_REQCERT LDAPNETWORK_TIMEOUT
ldapwhoami -x -H "$URI" -D "$BIND_DN" -y "$HERE/bind-password" >>"$LOG" 2>&1 || {
    warn "the directory does not let this host in at $URI: it cannot be reached, or needs newer TLS than this host has"
    [ -z "$TLS_NOTE" ] || warn "$TLS_NOTE"
    exit 1
}

# shellcheck disable=SC2086 # names of packages
require_packages $PACKAGES
place_files
if have sssctl && [ "$CLIENT" = sssd ]; then
    sssctl config-check >>"$LOG" 2>&1 || die "sssd does not accept its configuration; see $LOG"
fi
say "switching name service and PAM to $CLIENT"
switch_on
place_files # again, since the distribution's tools may have overwritten some

if [ -n "$PAM_BLOCK" ] && [ -f "$PAM_BLOCK" ]; then
    without_block "$PAM_BLOCK" | BEGIN=$BEGIN END=$END LINES=$PAM_LINES awk '
        /^-?password/ && !done { print ENVIRON["BEGIN"] "\n" ENVIRON["LINES"] "\n" ENVIRON["END"]; done = 1 }
        { print }' >"$STATE/block"
    cmp -s "$STATE/block" "$PAM_BLOCK" || replace "$PAM_BLOCK" <"$STATE/block"
    rm -f "$STATE/block"
fi

if [ -n "$SSHD_LINES" ] && [ -f /etc/ssh/sshd_config ]; then
    if grep -Eiq '^[[:space:]]*Include[[:space:]]+(/etc/ssh/)?sshd_config\.d/\*\.conf' /etc/ssh/sshd_config; then
        printf '%s\n%s\n' "$MARK" "$SSHD_LINES" | replace "$SSHD_DROP_IN"
    else
        # Before everything else, since the first value of an option counts.
        { printf '%s\n%s\n%s\n' "$BEGIN" "$SSHD_LINES" "$END"; without_block /etc/ssh/sshd_config; } >"$STATE/sshd"
        replace /etc/ssh/sshd_config <"$STATE/sshd"
        rm -f "$STATE/sshd"
    fi
    [ -d /run/sshd ] || [ ! -d /run ] || mkdir -p /run/sshd
    /usr/sbin/sshd -t >>"$LOG" 2>&1 || die "sshd does not accept its configuration; see $LOG"
    reload_sshd
fi

for service in $SERVICES; do
    service_do enable "$service" || warn "$service cannot be made to start with the system; see $LOG"
    if [ -n "$changed$fresh" ]; then service_do restart "$service" || die "$service does not start; see $LOG"; fi
done
[ "$CLIENT" = nss_ldap ] || ! have nscd || service_do restart nscd || true

# For undo, which does not overwrite a file that somebody has changed since.
while read -r path; do printf '%s %s\n' "$(checksum "$path")" "$path"; done <"$STATE/paths" >"$STATE/sums.new"
mv -f "$STATE/sums.new" "$STATE/sums"
: >"$STATE/complete"

# A search for one of many ends with the error "size limit exceeded" (4).
person=$(ldapsearch -x -LLL -H "$URI" -D "$BIND_DN" -y "$HERE/bind-password" -b "$PEOPLE" -z 1 "$FILTER" uid 2>>"$LOG" |
    sed -n 's/^uid: //p' | head -n 1) || true
if [ -z "$person" ]; then
    say "Done. Nobody in the directory may log in here yet, so that no lookup could be tried."
    exit 0
fi
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    if id -u "$person" >/dev/null 2>&1; then
        say "Done: this host knows the core's people, such as $(id "$person")"
        exit 0
    fi
    sleep 1
done
rm -f "$STATE/complete"
die "the directory has $person, but this host does not find the name; see $LOG"
