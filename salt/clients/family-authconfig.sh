# --- CentOS 5 to 7: yum, authconfig -----------------------------------------------------------------------------------

managed_files() {
    say /etc/nsswitch.conf
    for name in authconfig network; do say "/etc/sysconfig/$name"; done
    for name in system-auth password-auth smartcard-auth fingerprint-auth postlogin; do
        say "/etc/pam.d/$name"
        say "/etc/pam.d/$name-ac"
    done
    for name in ldap.conf openldap/ldap.conf nslcd.conf pam_ldap.conf nss_ldap.conf sssd/sssd.conf krb5.conf libuser.conf \
        login.defs yp.conf; do
        say "/etc/$name"
    done
}

check_family() { if ! have yum || ! have authconfig; then die "yum and authconfig are not there: yum install authconfig"; fi; }

list_packages() { rpm -qa --queryformat '%{NAME}\n' | sort -u; }

install_packages() { yum --assumeyes install "$@" </dev/null >>"$LOG" 2>&1; }

remove_packages() { rpm -e "$@" >>"$LOG" 2>&1; }

switch_on() {
    # shellcheck disable=SC2086 # options
    authconfig $AUTHCONFIG --update </dev/null >>"$LOG" 2>&1 || die "authconfig failed; see $LOG"
}

switch_off() { :; } # its files are put back, all that it writes
switch_back() { :; }

