#!/bin/sh
# Makes slapd's configuration from the mounted config.ldif, the only place where it is kept, and proves it before
# anything touches the data. A failure ends the container, with the reason on its output.
set -eu
exec 2>&1

source=/etc/virtual-core/config.ldif
configuration=/etc/ldap/slapd.d
data=/var/lib/ldap
password=/run/secrets/admin-password

as_openldap() {
    setpriv --reuid=openldap --regid=openldap --clear-groups "$@"
}

fail() {
    echo "ldap: $*"
    exit 1
}

# Notes on the volume what the data were made with; renamed into place, so that a kill leaves the old note or the new.
remember() {
    printf '%s\n' "$2" | as_openldap sh -c 'cat > "$0.new" && sync "$0.new" && mv "$0.new" "$0"' "$data/$1"
}

[ -s "$password" ] || fail "the secret admin-password is not mounted at $password"
install -d -o openldap -g openldap -m 0755 /run/slapd
rm -rf "$configuration"
install -d -o openldap -g openldap -m 0700 "$configuration"
as_openldap slapadd -n 0 -F "$configuration" -l "$source" || fail "slapd does not accept $source"
hash=$(slappasswd -o module-load=argon2 -h '{ARGON2}' -T "$password")
as_openldap slapmodify -n 0 -F "$configuration" <<END || fail "the administrator's password cannot be set"
dn: olcDatabase={1}mdb,cn=config
changetype: modify
add: olcRootPW
olcRootPW: $hash
END
as_openldap slapd -T test -u -Q -F "$configuration" || fail "slapd does not accept the configuration made of $source"

suffix=$(sed -n 's/^olcSuffix: *//p' "$source")
indexes=$(sed -n 's/^olcDbIndex: *//p' "$source" | sort)
if [ -e "$data/data.mdb" ]; then
    made_with=$(cat "$data/suffix" 2>/dev/null || echo "$suffix")
    [ "$made_with" = "$suffix" ] || fail "the data belong to the suffix $made_with, not to $suffix; move them away to start anew"
    if [ "$(cat "$data/indexes" 2>/dev/null)" != "$indexes" ]; then
        echo "ldap: the indexes changed, making them anew"
        as_openldap slapindex -n 1 -F "$configuration" || fail "the indexes cannot be made"
    fi
fi
remember suffix "$suffix"
remember indexes "$indexes"
