# --- Debian and Ubuntu: apt, pam-auth-update ------------------------------------------------------------------------------

managed_files() {
    say /etc/nsswitch.conf
    for name in auth account password session session-noninteractive; do say "/etc/pam.d/common-$name"; done
    for name in auth account password session session-noninteractive seen; do say "/var/lib/pam/$name"; done
}

check_family() { if ! have apt-get || ! have pam-auth-update; then die "apt-get and pam-auth-update are not there"; fi; }

list_packages() { dpkg-query --show --showformat='${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii  *//p' | sort -u; }

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Options::=--force-confold "$@" </dev/null >>"$LOG" 2>&1
}

install_packages() {
    [ -n "${updated-}" ] || apt update || warn "apt-get update failed; trying with the lists that are there"
    updated=yes
    apt install "$@" || return 1
}

remove_packages() { dpkg --simulate --purge "$@" >>"$LOG" 2>&1 && apt purge "$@"; }

switch_on() {
    DEBIAN_FRONTEND=noninteractive pam-auth-update --package </dev/null >>"$LOG" 2>&1
    for name in /etc/pam.d/common-auth /etc/pam.d/common-session; do
        grep -q "$PAM_MODULE" "$name" ||
            die "$name was edited by hand, so pam-auth-update leaves it alone: run pam-auth-update --force, then this again"
    done
    awk -v source="$NSS" '/^(passwd|group|shadow):/ {
        found = 0
        for (i = 2; i <= NF; i++) if ($i == source) found = 1
        if (!found) sub(/[ \t]*(#.*)?$/, " " source "&")
    } { print }' /etc/nsswitch.conf >"$STATE/nsswitch"
    cmp -s "$STATE/nsswitch" /etc/nsswitch.conf || replace /etc/nsswitch.conf <"$STATE/nsswitch"
    rm -f "$STATE/nsswitch"
    # sssd starts its parts by itself; the sockets, which would start them, too, only fail.
    if with_systemd && [ "$CLIENT" = sssd ]; then
        for name in nss pam pam-priv ssh sudo autofs pac; do
            if systemctl --quiet is-enabled "sssd-$name.socket" 2>/dev/null; then
                say "sssd-$name.socket" >>"$STATE/sockets"
                systemctl --quiet disable --now "sssd-$name.socket" >>"$LOG" 2>&1
            fi
        done
    fi
}

switch_off() {
    if [ -f /usr/share/pam-configs/virtual-core-logins ]; then
        DEBIAN_FRONTEND=noninteractive pam-auth-update --package --remove virtual-core-logins </dev/null >>"$LOG" 2>&1 ||
            warn "pam-auth-update failed; see $LOG"
    fi
}

# After the removal of packages: sockets of packages that stay are enabled again.
switch_back() {
    if [ -f "$STATE/sockets" ]; then
        while read -r name; do
            if [ -f "/lib/systemd/system/$name" ]; then systemctl --quiet enable "$name" >>"$LOG" 2>&1 || true; fi
        done <"$STATE/sockets"
    fi
}

