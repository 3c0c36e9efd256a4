# --- Red Hat Enterprise Linux 8 and 9, and their relatives: dnf, authselect ---------------------------------------------

managed_files() { say /etc/pam.d/passwd; }

check_family() { have dnf || die "dnf is not there"; }

list_packages() { rpm -qa --queryformat '%{NAME}\n' | sort -u; }

install_packages() { dnf --assumeyes --setopt=install_weak_deps=False install "$@" </dev/null >>"$LOG" 2>&1; }

remove_packages() { rpm -e "$@" >>"$LOG" 2>&1; }

switch_on() {
    # The backup is made only once, of what was there before us.
    if [ ! -f "$STATE/authselect" ]; then
        authselect select sssd with-mkhomedir --force --backup=virtual-core-logins </dev/null >>"$LOG" 2>&1 ||
            die "authselect failed; see $LOG"
        say virtual-core-logins >"$STATE/authselect"
    fi
    authselect check >>"$LOG" 2>&1 || die "authselect's files were edited by hand; see authselect check"
}

switch_off() {
    [ -f "$STATE/authselect" ] || return 0
    if authselect backup-restore virtual-core-logins </dev/null >>"$LOG" 2>&1; then
        authselect backup-remove virtual-core-logins >>"$LOG" 2>&1 || true
        rm -f "$STATE/authselect"
    else
        warn "authselect backup-restore virtual-core-logins failed; see $LOG"
    fi
}

switch_back() { :; }

