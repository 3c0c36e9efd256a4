#!/usr/bin/env bash
# Turns a bare machine into the head of a Virtual Core, or into a node of one. Safe to run again, also after an
# interruption: each step checks what is done already and does the rest.
set -Eeuo pipefail
umask 022

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly CHECKOUT
readonly PREFIX=/opt/virtual-core VENV=/opt/virtual-core/venv
readonly CONFIGURATION=/etc/virtual-core STATE=/var/lib/virtual-core
readonly LOG=$STATE/bootstrap.log LOCK=/run/virtual-core-bootstrap.lock
readonly MINION=/etc/salt/minion.d/virtual-core.conf KEYS=/etc/salt/pki/minion PROOF=/etc/salt/minion.d/enrolment.conf
readonly MODULES=/var/cache/salt/minion/extmods # where a node's minion keeps the core's modules

usage() {
    cat <<EOF
Usage: sudo ./bootstrap.sh [OPTION...]
       sudo ./bootstrap.sh --join HEAD [OPTION...]

Makes this machine the head node of a Virtual Core: Docker, Salt, certificate
authority, image registry, and the services of pillar/site.sls. With --join it
becomes a node of the core whose head has the address HEAD. Run it again to
repair, to upgrade, or to continue after an interruption.

  --site FILE    use FILE as the site configuration (it becomes pillar/site.sls;
                 the one that was there is kept as pillar/site.sls.previous)
  --join HEAD    become a node. An enrolment token is read from standard input:
                 salt-run vcore.enrol_token, on the head, prints a command that
                 does all of this. Without a token, an administrator has to accept
                 the key of this machine on the head
  --token-file FILE
                 with --join: read the token from FILE instead
  --finger FINGER
                 with --join from a checkout: the fingerprint of the head's Salt
                 master, which salt-key -f master.pub prints there
  --id NAME      name of this node (default: the short host name); of a head only
                 where the site file does not exist yet
  --dry-run      check everything and say what would be done; change nothing
  --uninstall    take the core off this machine; its data, authority and secrets
                 stay, and so do the packages
  --purge        with --uninstall: remove data, authority, secrets and images too
  --yes          do not ask for confirmation
  --help         this text

Exit codes: 0 done; 1 a step failed; 2 wrong usage; 3 this machine does not meet
the requirements; 4 the site file has mistakes.
EOF
}

# --- Talking -----------------------------------------------------------------------------------------------------

if [[ -t 1 ]]; then BOLD=$'\e[1m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'; else BOLD='' RED='' GREEN='' PLAIN=''; fi
say() { printf '%s\n' "$*"; }
complain() { printf '%s%s%s\n' "$RED" "$*" "$PLAIN" >&2; }
die() { local code=$1; shift; complain "$@"; exit "$code"; }
now() { printf '%(%s)T' -1; }
has() { command -v "$1" >/dev/null 2>&1; }
systemd_runs() { [[ -d /run/systemd/system ]]; }

# --- Versions ----------------------------------------------------------------------------------------------------

# shellcheck source=etc/versions.sh
. "$CHECKOUT/etc/versions.sh"
pinned() { versions "$CHECKOUT/versions.yaml" "$1"; }

# --- The two roles: these tables hold everything in which they differ ----------------------------------------------

role_of_head() {
    STEPS=(packages environment site docker salt convergence)
    SITE=$CHECKOUT/pillar/site.sls
    PACKAGES=(ca-certificates debian-archive-keyring iproute2 ldap-utils mmdebstrap openssl procps
        "$PYTHON" "$PYTHON-dev" "$PYTHON-venv" gcc libc6-dev swig pkgconf libldap-dev libpq-dev libsasl2-dev libssl-dev)
    SECTIONS=(python head) LEFT_OUT=() COMMANDS=(salt salt-call salt-run salt-key)
    PORTS=(4505 4506 2377 7946) MEMORY=1800 DISK=8000 OTHER_KEYS=/etc/salt/pki
    ABSENT=(state.apply roles.head.absent queue=True)
}
role_of_node() {
    STEPS=(packages environment docker minion acceptance membership)
    SITE=$CHECKOUT/etc/core.yaml # the facts about the core, from the bundle
    PACKAGES=(ca-certificates iproute2 procps "$PYTHON" "$PYTHON-venv")
    # Packages that only masters, proxies and clouds use are left out, so that no compiler is needed.
    SECTIONS=(python) LEFT_OUT=(apache-libcloud cherrypy gitpython timelib virtualenv) COMMANDS=(salt-call)
    PORTS=(7946) MEMORY=900 DISK=4000 OTHER_KEYS=$KEYS/minion_master.pub
    # Works without the head, which may be gone.
    ABSENT=(--local "--file-root=$CHECKOUT/salt/states" state.apply roles.compute.absent)
}

# --- Preflight: everything that can be checked before the first change -------------------------------------------

# Print the first and the last address of a.b.c.d/n as numbers.
range() {
    local address=${1%/*} length=${1#*/} a b c d number mask
    IFS=. read -r a b c d <<<"$address"
    number=$(((10#$a << 24) | (10#$b << 16) | (10#$c << 8) | 10#$d))
    mask=$((length == 0 ? 0 : (0xffffffff << (32 - length)) & 0xffffffff))
    printf '%d %d\n' $((number & mask)) $(((number & mask) | (~mask & 0xffffffff)))
}

readonly NETWORK_PATTERN='([0-9]{1,3}\.){3}[0-9]{1,3}/([12]?[0-9]|3[0-2])'

# Print the subnets in the site file, or the default ones. The head checks them again with a real YAML parser.
subnets() {
    local file=${SITE_FILE:-$SITE} key default found
    while read -r key default; do
        found=$(sed 's/#.*//' "$file" 2>/dev/null | grep -oE "\\b$key: *[\"']?$NETWORK_PATTERN\\b" | head -n 1) || true
        if [[ $found =~ $NETWORK_PATTERN ]]; then say "${BASH_REMATCH[0]}"; else say "$default"; fi
    done <<<'subnet 172.18.0.0/24
bridge_subnet 172.18.1.0/24
ingress_subnet 172.18.2.0/24'
}

# Print the host's networks as "network/length interface", except for the core's own bridge.
routes() {
    local interface destination mask n length
    while read -r interface destination _ _ _ _ _ mask _; do
        [[ $interface == Iface || $interface == docker_gwbridge || $mask == 00000000 ]] && continue
        length=0
        for ((n = 16#$mask; n; n &= n - 1)); do length=$((length + 1)); done
        printf '%d.%d.%d.%d/%d %s\n' "0x${destination:6:2}" "0x${destination:4:2}" "0x${destination:2:2}" \
            "0x${destination:0:2}" "$length" "$interface"
    done </proc/net/route
}

# Whether a process runs in a container of the core. Containers on the network of their node have no docker-proxy.
in_own_container() {
    local pid
    while read -r pid; do
        if [[ $(readlink "/proc/$pid/ns/pid") == "$(readlink "/proc/$1/ns/pid")" ]]; then return 0; fi
    done < <(docker ps --quiet --filter label=com.docker.swarm.service.name 2>/dev/null |
        xargs -r docker inspect --format '{{.State.Pid}} {{json .Config.Env}}' | awk '/"VCORE_SERVICE=/ {print $1}')
    return 1
}

# Whether a listener (port, process id, command line) belongs to the core itself, from an earlier run: to Salt, the
# swarm or a service.
is_own() {
    local service
    case $3 in
        *"$PREFIX"/*) return 0 ;;
        *dockerd*) [[ $1 == 2377 || $1 == 7946 ]] ;;
        *docker-proxy*)
            service=$(docker ps --filter "publish=$1" --format '{{.Label "com.docker.swarm.service.name"}}' | head -n 1)
            [[ -n $service ]] &&
                [[ $(docker service inspect "$service" --format '{{index .Spec.Labels "vcore.service"}}') == "$service" ]]
            ;;
        *) has docker && in_own_container "$2" ;;
    esac
}

# Print the core's TCP ports on which something else listens, each with the program.
taken_ports() {
    local port listener pid
    has ss || return 0
    while read -r port; do
        listener=$(ss -Hltnp "sport = :$port")
        [[ -n $listener ]] || continue
        pid=$(sed -nE 's/.*pid=([0-9]+).*/\1/p' <<<"$listener" | head -n 1)
        is_own "$port" "${pid:-0}" "$(tr '\0' ' ' <"/proc/${pid:-0}/cmdline" 2>/dev/null)" && continue
        printf '%s %s\n' "$port" "$(cat "/proc/${pid:-0}/comm" 2>/dev/null || echo 'a program that cannot be seen')"
    done < <(
        printf '%s\n' "${PORTS[@]}"
        find "$CHECKOUT/salt/states" -name service.yaml -exec \
            awk '/^ports:/ {inside = 1; next} /^[^ ]/ {inside = 0} inside && /^    number:/ {print $2}' {} +
    )
}

# Whether a file can be downloaded, by apt's own downloader, which is always there and knows apt's proxy.
answers() {
    local folder code=0
    folder=$(mktemp -d)
    /usr/lib/apt/apt-helper download-file "$1" "$folder/file" >/dev/null 2>&1 || code=$?
    rm -rf "$folder"
    return "$code"
}

# Whether one of apt's mirrors has the release $1; a list of mirrors is in a file of its own. The mirrors are taken from
# what `apt-get update` would fetch, because a machine that was never updated, such as a new cloud image, has no lists.
a_mirror_answers() {
    local address
    while read -r address; do
        answers "${address%/}/dists/$1/InRelease" && return 0
    done < <(apt-get --print-uris update | sed -nE "s|^'(.*)/dists/.*/InRelease' .*|\1|p" | sort -u | while read -r address; do
        case $address in
            mirror+file:*) awk '{print $1}' "${address#mirror+file:}" ;;
            *) say "$address" ;;
        esac
    done)
    return 1
}

# Print the problems that prevent joining, one line each.
joining_problems() {
    local port
    [[ -n $FINGER ]] ||
        say 'head: its fingerprint is not known; run the command that salt-run vcore.enrol_token prints there, or give --finger'
    for port in 4505 4506; do
        # shellcheck disable=SC2016  # bash -c fills it in
        timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$MASTER" "$port" 2>/dev/null ||
            say "head: its Salt master does not answer at $MASTER, port $port; check the address, the network and firewalls"
    done
    [[ -n $TOKEN ]] || return 0
    ((EXPIRY > $(now))) ||
        say "token: it expired at $(date -d "@$EXPIRY"), and the clock here says $(date); make another one, or set the clock"
    [[ $SCOPE == role=* || $SCOPE == "node=$NODE" ]] ||
        say "token: it is for ${SCOPE#*=}, and this is $NODE; say --id ${SCOPE#*=}"
}

preflight() {
    local problem problems=() version memory disk minimum port program network interface subnet first last from to command
    # shellcheck disable=SC1091
    . /etc/os-release
    case "$ID-${VERSION_ID:-}" in
        debian-12 | debian-13) : ;;
        ubuntu-22.04 | ubuntu-24.04)
            say "  note  $PRETTY_NAME takes the same path as Debian, but nobody has tested it yet"
            # Its default Python is too old for the core; a newer one is in universe.
            if [[ $VERSION_ID == 22.04 ]]; then PYTHON=python3.11; fi
            ;;
        *) problems+=("operating system: $PRETTY_NAME is not supported; take Debian 12 or 13, or Ubuntu 22.04 or 24.04") ;;
    esac
    [[ $EUID -eq 0 ]] || problems+=("root: run this as root, with: sudo ./bootstrap.sh")
    [[ $(uname -m) == x86_64 || $(uname -m) == aarch64 ]] || problems+=("processor: $(uname -m) is not supported")
    memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    ((memory >= MEMORY)) || problems+=("memory: $memory MiB; at least $MEMORY MiB are needed")
    disk=$(df -Pm /var | awk 'NR == 2 {print $4}')
    ((disk >= DISK)) || problems+=("disk: $disk MiB free below /var; at least $DISK MiB are needed")
    while read -r port program; do
        problems+=("port $port: used by $program; stop it, or move it to another port")
    done < <(taken_ports)
    while read -r network interface; do
        read -r first last < <(range "$network")
        for subnet in $(subnets); do
            read -r from to < <(range "$subnet")
            if ((from <= last && first <= to)); then
                problems+=("network $subnet: overlaps $network, which this host reaches by $interface; set vcore.network in $SITE")
            fi
        done
    done < <(routes)
    if has dockerd; then
        version=$(dockerd --version | sed -nE 's/.*version ([0-9.]+).*/\1/p')
        minimum=$(pinned docker); minimum=${minimum#*==}
        if [[ $(printf '%s\n%s\n' "$minimum" "$version" | sort -V | head -n 1) != "$minimum" ]]; then
            problems+=("Docker $version: older than $minimum; upgrade or remove it")
        fi
    fi
    for command in salt-master salt-minion salt-call; do
        if has "$command" && [[ $(readlink -f "$(command -v "$command")") != $PREFIX/* ]]; then
            problems+=("Salt: another installation is at $(command -v "$command"); remove it, the core brings its own")
        fi
    done
    if [[ -e $OTHER_KEYS && ! -e $MINION && ! -e $STATE/salt.keys ]]; then
        problems+=("Salt: $OTHER_KEYS belongs to another installation; move /etc/salt/pki away if nothing needs it")
    fi
    if [[ $ROLE == node ]]; then
        while read -r problem; do problems+=("$problem"); done < <(joining_problems)
    fi
    a_mirror_answers "${VERSION_CODENAME:-stable}" ||
        problems+=("package mirror: none of apt's mirrors has ${VERSION_CODENAME:-stable}; check the network, apt's proxy and /etc/apt")
    # Without an index of the site's own, the step "environment" is the first to use one, and reports failures itself.
    [[ -z ${PIP_INDEX_URL:-} ]] || answers "${PIP_INDEX_URL%/}/uv/" ||
        problems+=("Python package index $PIP_INDEX_URL: not reachable; check the network and PIP_INDEX_URL")
    if ((${#problems[@]})); then
        complain "This machine does not meet the requirements yet; nothing was changed."
        printf '  - %s\n' "${problems[@]}" >&2
        exit 3
    fi
    systemd_runs || say '  note  no systemd runs here: bootstrap.sh starts the daemons itself; run it again after each reboot'
    say "  ok    ${PRETTY_NAME}, $(nproc) cores, $memory MiB memory, $disk MiB free, $(systemd_runs && echo systemd || echo 'no systemd')"
}

# --- Steps: each has a title (_title), a test whether it is done (_done), and a function that does it (_do) ------

# The status matters: dpkg also knows packages that were removed, or that others only mention.
installed() { [[ $(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]; }

packages() {
    local list=("${PACKAGES[@]}")
    if ! has dockerd || installed docker.io; then
        list+=(docker.io iptables)
        # Debian 13 has the command line in a package of its own; in older releases docker.io contains it.
        if apt-cache show docker-cli >/dev/null 2>&1; then list+=(docker-cli); fi
    fi
    printf '%s\n' "${list[@]}"
}

packages_title() { say 'Debian packages: Docker, Python, what Salt needs'; }
packages_done() {
    local package
    has dockerd || return 1
    while read -r package; do installed "$package" || return 1; done < <(packages)
}
packages_do() {
    local n options=(-o DPkg::Lock::Timeout=300)
    export DEBIAN_FRONTEND=noninteractive
    # Complete what an interrupted run left. dpkg itself does not wait for others, such as unattended upgrades.
    for ((n = 0; n < 60; n++)); do
        [[ -n $(dpkg --audit) ]] || break
        dpkg --configure -a 9>&- && break
        sleep 5
    done
    apt-get "${options[@]}" update
    # Daemons that a package starts must not inherit this run's lock (9>&-); apt has one of its own. Installed packages,
    # such as another vendor's Docker, must not be removed.
    packages | xargs apt-get "${options[@]}" install -y --no-install-recommends --no-remove 9>&-
}

environment_title() { say "Salt $(pinned python | sed -n 's/^salt==//p') in its own environment, $VENV"; }
requirements() { local section; for section in "${SECTIONS[@]}"; do pinned "$section"; done; }
environment_stamp() { { requirements; pinned constraints; "$PYTHON" --version; say "$CHECKOUT"; } | sha256sum | cut -c1-16; }
environment_done() { [[ -x $VENV/bin/salt-call && $(cat "$VENV/.complete" 2>/dev/null) == "$(environment_stamp)" ]]; }
environment_do() {
    # Verify downloads with the host's own authorities, to which a site behind an inspecting proxy has added its own.
    export PIP_CERT=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}
    export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT} PIP_DISABLE_PIP_VERSION_CHECK=1
    rm -f "$VENV/.complete"
    mkdir -p "$PREFIX"
    "$PYTHON" -m venv --clear "$VENV"
    "$VENV/bin/pip" install -q "$(requirements | grep '^uv==')"
    local index
    index=${PIP_INDEX_URL:-$("$VENV/bin/pip" config get global.index-url 2>/dev/null || true)}
    # Passed in the environment, because such an address may contain a password.
    if [[ -n $index ]]; then export UV_DEFAULT_INDEX=$index; fi
    requirements >"$PREFIX/requirements.txt"
    pinned constraints >"$PREFIX/constraints.txt"
    printf '%s ; sys_platform == "never"\n' "${LEFT_OUT[@]:-nothing}" >"$PREFIX/overrides.txt"
    "$VENV/bin/uv" pip install --python "$VENV/bin/python" --system-certs --link-mode copy --compile-bytecode \
        -r "$PREFIX/requirements.txt" -c "$PREFIX/constraints.txt" --overrides "$PREFIX/overrides.txt"
    # A node gets the brain from its master, like all other modules.
    if [[ $ROLE == head ]]; then
        say "$CHECKOUT/salt/_utils" >"$(echo "$VENV"/lib/python3*/site-packages)/virtual-core.pth"
    fi
    local command
    for command in "${COMMANDS[@]}"; do ln -sfn "$VENV/bin/$command" "/usr/local/bin/$command"; done
    environment_stamp >"$VENV/.complete"
}

brain() { "$VENV/bin/python" -m vcore.bootstrap --checkout "$CHECKOUT" "$@"; }

site_title() { say "Site configuration, $SITE"; }
site_done() { [[ -z $SITE_FILE && -f $SITE ]] && brain validate "$SITE" >/dev/null 2>&1; }
site_do() {
    local candidate
    candidate=$(mktemp "$CHECKOUT/pillar/.site.XXXXXX")
    if [[ -n $SITE_FILE ]]; then
        cat "$SITE_FILE" >"$candidate"
    elif [[ -f $SITE ]]; then
        cat "$SITE" >"$candidate"
    else
        sed -E "s/^    head:/    $NODE:/" "$SITE.example" >"$candidate"
    fi
    if ! brain validate "$candidate" >/dev/null 2>"$candidate.problems"; then
        complain "The site file has mistakes; the configuration was not changed."
        sed "s|$(basename "$candidate")|${SITE_FILE:-site.sls}|" "$candidate.problems" >&2
        rm -f "$candidate" "$candidate.problems"
        exit 4
    fi
    rm -f "$candidate.problems"
    chmod 600 "$candidate"
    if [[ -f $SITE ]] && ! cmp -s "$SITE" "$candidate"; then cp -p "$SITE" "$SITE.previous"; fi
    mv "$candidate" "$SITE"
}

# Record what --purge deletes while the site can be read: the folders of all services of the catalogue.
remember_data() { brain data "$SITE" >"$STATE/data" && chmod 600 "$STATE/data"; }

docker_title() { say 'Docker runs'; }
docker_done() { docker info >/dev/null 2>&1; }
docker_do() {
    if systemd_runs; then
        systemctl enable --now docker
    else
        setsid dockerd >>/var/log/dockerd.log 2>&1 9>&- </dev/null &
    fi
    local n
    for ((n = 0; n < 60; n++)); do docker_done && return 0; sleep 1; done
    say 'dockerd does not answer; see its log (journalctl -u docker, or /var/log/dockerd.log)'
    return 1
}

# Print a file of etc/ with its placeholders filled in.
rendered() {
    sed -e "s|@CHECKOUT@|$CHECKOUT|g" -e "s|@ID@|$NODE|g" -e "s|@MASTER@|$MASTER|g" \
        -e "s|@MASTER_FINGER@|${FINGER:-}|g" "$CHECKOUT/etc/$1"
}
# Write standard input to the file $1 with the mode $2 (default: 644), atomically.
install_file() {
    local target=$1 temporary
    mkdir -p "$(dirname "$target")"
    temporary=$(mktemp "$target.XXXXXX")
    cat >"$temporary"
    chmod "${2:-644}" "$temporary"
    mv "$temporary" "$target"
}
# Salt's daemons are recognised by their command lines.
daemon_pattern() { printf '^%s/bin/python[^ ]* %s/bin/salt-%s' "$VENV" "$VENV" "$1"; }
daemon_runs() {
    if systemd_runs; then systemctl is-active --quiet "salt-$1"; else pgrep -f "$(daemon_pattern "$1")" >/dev/null; fi
}
daemon_stop() {
    if systemd_runs; then
        systemctl stop "salt-$1" 2>/dev/null || true
    else
        pkill -f "$(daemon_pattern "$1")" || true
        local n
        for ((n = 0; n < 50; n++)); do daemon_runs "$1" || return 0; sleep 0.2; done
        pkill -9 -f "$(daemon_pattern "$1")" || true
    fi
}
daemon_start() {
    if systemd_runs; then
        systemctl enable "salt-$1"
        systemctl start "salt-$1"
    else
        "$VENV/bin/salt-$1" -d 9>&-
    fi
}

# Salt keeps code in memory: when the code changes, the daemons have to be restarted.
salt_stamp() { { environment_stamp; find "$CHECKOUT/salt" -name '*.py' -print0 | sort -z | xargs -0 cat; } | sha256sum; }

salt_title() { say 'Salt master and minion, the minion accepted by its fingerprint'; }
salt_done() {
    local finger
    [[ -f /etc/salt/pki/master/minions/$NODE && -f /etc/salt/minion.d/virtual-core.conf ]] || return 1
    [[ $(cat "$STATE/salt.stamp" 2>/dev/null) == "$(salt_stamp)" ]] || return 1
    finger=$(sed -nE 's/^master_finger: "(.*)"/\1/p' /etc/salt/minion.d/virtual-core.conf)
    cmp -s <(rendered master.conf) /etc/salt/master.d/virtual-core.conf &&
        cmp -s <(FINGER=$finger rendered minion.conf) /etc/salt/minion.d/virtual-core.conf &&
        daemon_runs master && daemon_runs minion && minion_answers
}
# Check for a connected minion first: a ping that nobody receives waits half a minute for its answer.
minion_answers() {
    [[ -n $(ss -Htn state established '( sport = :4505 )') ]] && "$VENV/bin/salt" -t 5 "$NODE" test.ping >/dev/null 2>&1
}
salt_main_file() { say "# See $1.d/ for the configuration of Virtual Core."; }
# Install the configuration (a file of etc/) and the unit of a daemon.
daemon_install() {
    rendered "$2" | install_file "/etc/salt/$1.d/virtual-core.conf"
    # Salt warns on every call where its main file is missing.
    [[ -f /etc/salt/$1 ]] || salt_main_file "$1" >"/etc/salt/$1"
    systemd_runs || return 0
    install_file "/etc/systemd/system/salt-$1.service" <"$CHECKOUT/etc/systemd/salt-$1.service"
    systemctl daemon-reload
}
salt_do() {
    local role FINGER
    touch "$STATE/salt.keys" # the keys are the core's own from here on
    FINGER=$(brain keys "$NODE")
    for role in master minion; do daemon_install "$role" "$role.conf"; done
    # The minion first: it takes half a minute to notice that its master is gone.
    for role in minion master; do daemon_stop "$role"; done
    for role in master minion; do daemon_start "$role"; done
    local n
    for ((n = 0; n < 150; n++)); do
        if minion_answers; then
            salt_stamp >"$STATE/salt.stamp"
            return 0
        fi
        sleep 0.2
    done
    say 'the minion does not answer its master; see /var/log/salt/minion and /var/log/salt/master'
    return 1
}

convergence_title() { say 'Convergence: authority, swarm, images, services'; }
convergence_done() { return 1; } # Salt itself decides what is left to do
convergence_do() { brain converge; }

# --- Steps of a node ---------------------------------------------------------------------------------------------

# The part of the brain that a node has before its master sends the rest.
enrolment() { PYTHONPATH=$CHECKOUT/salt/_utils "$VENV/bin/python" -m vcore.enrolment "$@"; }
finger_of() { enrolment finger "$KEYS/$1.pub" 2>/dev/null || true; }

# Install the modules that the head would send to a new machine. A machine that it knows already may have newer ones.
lay_out_code() {
    local place
    rm -rf "$MODULES"
    mkdir -p "$MODULES"
    for place in "$CHECKOUT"/salt/_*; do cp -R "$place" "$MODULES/${place##*/_}"; done
}

minion_title() { say "Salt minion $NODE, which knows the head by its fingerprint"; }
minion_stamp() { { environment_stamp; rendered node.conf; } | sha256sum; }
# A connected minion does not notice when the head deletes its key; therefore a token always makes it ask anew.
minion_done() {
    [[ -z $TOKEN && -f $KEYS/minion.pub && $(cat "$STATE/salt.stamp" 2>/dev/null) == "$(minion_stamp)" ]] &&
        cmp -s <(rendered node.conf) "$MINION" && daemon_runs minion
}
minion_do() {
    local proof
    touch "$STATE/salt.keys" # the keys are the core's own from here on
    if [[ ! -f $KEYS/minion.pem || ! -f $KEYS/minion.pub ]]; then
        lay_out_code
        # An interrupted run leaves half a pair; nobody has seen its public key yet.
        install -d -m 700 "$KEYS"
        rm -f "$KEYS"/minion.{pem,pub}
        "$VENV/bin/python" -c 'import sys; from salt.crypt import write_keys; write_keys(sys.argv[1], "minion", 4096)' "$KEYS"
    fi
    # The head may be another one than last time, or reinstalled.
    [[ $(finger_of minion_master) == "$FINGER" ]] || rm -f "$KEYS/minion_master.pub" "$STATE/convergence.json"
    if [[ -n $TOKEN ]]; then
        rm -f "$STATE/convergence.json"
        proof=$(enrolment prove "$NODE" "$KEYS/minion.pub" <<<"$TOKEN")
        printf 'autosign_grains: [vcore_enrol, vcore_code]\ngrains: {vcore_enrol: "%s", vcore_code: "%s"}\n' \
            "$proof" "$(enrolment code "$MODULES")" | install_file "$PROOF" 600
    fi
    daemon_install minion node.conf
    daemon_stop minion
    daemon_start minion
    minion_stamp >"$STATE/salt.stamp"
}

# A minion connects to its master's publisher once the master has accepted its key.
accepted() { ss -Htn state established '( dport = :4505 )'; }

acceptance_title() { say "The head, $MASTER, accepts the key of $NODE"; }
acceptance_done() { daemon_runs minion && [[ -n $(accepted) && ! -e $PROOF ]]; }
acceptance_do() {
    local start patience=600 grace=0 said=no
    start=$(now)
    if [[ -e $PROOF ]]; then grace=15; fi
    while [[ -z $(accepted) ]]; do
        if [[ $said == no ]] && (($(now) - start >= grace)); then
            said=yes
            say "      The head has not accepted it yet; salt-call vcore.status on the head says why. To accept it by hand there:"
            say "        salt-key -f $NODE    has to show $(finger_of minion)"
            say "        salt-key -a $NODE"
        fi
        if (($(now) - start >= patience)); then
            complain "      The head has not accepted it within $((patience / 60)) minutes. $(tail -n 1 /var/log/salt/minion 2>/dev/null)"
            return 1
        fi
        sleep 0.5
    done
    rm -f "$PROOF" # it is not needed any more
}

membership_title() { say 'Convergence by the head: names, trust, swarm, services'; }
membership_done() { converged && in_swarm && ! tasks | grep -q starting; }
# Each convergence leaves a record; the head tries again if one fails.
converged() { grep -qs '"ok": true' "$STATE/convergence.json"; }
in_swarm() { [[ $(docker info --format '{{.Swarm.LocalNodeState}}' 2>/dev/null) == active ]]; }
# Print the core's services that run here, and whether they are starting, healthy or unhealthy.
tasks() {
    docker ps --filter label=com.docker.swarm.service.name \
        --format '{{.Label "com.docker.swarm.service.name"}} {{.Status}}' | sed -nE 's/^([^ ]+) .*[ (]([a-z]+)\)$/\1 is \2/p'
}
declare -A SEEN=()
milestone() {
    [[ -z ${SEEN[$1]:-} ]] || return 0
    SEEN[$1]=$(now)
    printf '      %5d s  %.110s\n' $((SEEN[$1] - START)) "$1"
}
membership_do() {
    local patience=1200 task began
    START=$(now)
    while (($(now) - START < patience)); do
        began=$(now)
        if in_swarm; then milestone 'this machine is in the swarm'; fi
        if converged; then
            milestone 'all states are applied'
        elif [[ -e $STATE/convergence.json ]]; then
            milestone "not all states could be applied yet:$(sed -n '/"failed"/,$ s/^ *\(".*"\)/ \1/p' "$STATE/convergence.json")"
        fi
        while read -r task; do milestone "service $task"; done < <(tasks)
        # The swarm may have no service for this node.
        if membership_done && { [[ -n $(tasks) ]] || (($(now) - ${SEEN[all states are applied]:-$(now)} >= 30)); }; then
            return 0
        fi
        # On a slow machine this check costs seconds that the states need.
        sleep $((1 + 4 * ($(now) - began)))
    done
    complain "      Not done within $((patience / 60)) minutes. On the head, see salt-call vcore.status, then run salt $NODE state.apply"
    return 1
}

# --- Running the steps -------------------------------------------------------------------------------------------

declare -A SECONDS_OF=()

run_step() {
    local step=$1 number=$2 start code=0 position
    start=$(now)
    position=$(wc -c <"$LOG")
    printf '%s[%d/%d]%s %s\n' "$BOLD" "$number" "${#STEPS[@]}" "$PLAIN" "$("${step}_title")"
    if "${step}_done"; then
        say '      done already'
        SECONDS_OF[$step]=0
        return
    fi
    # In the background, because errexit has no effect in a list with ||. A step keeps the lock: if this script is
    # killed, the next run waits until everything that it had started has ended.
    case $step in
        site) site_do ;; # exits with a code of its own
        convergence | acceptance | membership) "${step}_do" & ;;
        *) ("${step}_do") >>"$LOG" 2>&1 </dev/null & ;;
    esac
    if [[ $step != site ]]; then wait $! || code=$?; fi
    SECONDS_OF[$step]=$(($(now) - start))
    if ((code)); then
        complain "      failed after ${SECONDS_OF[$step]} s"
        tail -c +"$((position + 1))" "$LOG" | tail -n 30 | sed "s|^|      $LOG: |" >&2
        complain "      When that is fixed, run bootstrap.sh again: it continues from here."
        exit 1
    fi
    say "      ${GREEN}done${PLAIN} in ${SECONDS_OF[$step]} s"
}

# Record how long each step took, for measurements.
write_timings() {
    local step entries=()
    for step in "${STEPS[@]}"; do entries+=("\"$step\": ${SECONDS_OF[$step]}"); done
    (IFS=,; printf '{%s}\n' "${entries[*]}") >"$STATE/bootstrap.json"
}

take_lock() {
    exec 9>"$LOCK"
    flock -n 9 && return 0
    say 'Another run, or a process that a killed run had started, is still at work; waiting for it to end.'
    flock -w 3600 9 || die 1 'It has not ended within an hour; look for it with: ps axf'
}

install_role() {
    local step number=0 start
    start=$(now)
    mkdir -p "$STATE"
    touch "$LOG"
    chmod 600 "$LOG"
    take_lock
    for step in "${STEPS[@]}"; do
        number=$((number + 1))
        # From here on the site file determines the name of the head.
        if [[ $ROLE == head && $step == docker ]]; then
            NODE=$(brain validate "$SITE")
            remember_data
        fi
        run_step "$step" "$number"
    done
    write_timings
    say ''
    "farewell_of_$ROLE" $(($(now) - start))
}

farewell_of_node() {
    say "${GREEN}$NODE is a node of the core${PLAIN}, after $1 s. On the head, salt-call vcore.status shows it."
}
farewell_of_head() {
    "$VENV/bin/salt-call" --retcode-passthrough vcore.status
    cat <<EOF

${GREEN}The core is up${PLAIN}, after $1 s. From here on:
  salt '*' state.apply test=True    what a change of $SITE would do
  salt '*' state.apply              do it
  salt-call vcore.status            how everything is
  salt-call vcore.doctor            end-to-end checks
EOF
}

dry_run() {
    local step number=0
    say 'Nothing is changed. The steps of a run would be:'
    for step in "${STEPS[@]}"; do
        number=$((number + 1))
        if [[ $step != packages && ! -x $VENV/bin/python ]] || ! "${step}_done" 2>/dev/null; then
            say "  [$number/${#STEPS[@]}] $("${step}_title")"
        else
            say "  [$number/${#STEPS[@]}] $("${step}_title"): done already"
        fi
    done
    if [[ $ROLE == head && -x $VENV/bin/python && -f ${SITE_FILE:-$SITE} ]] && ! brain validate "${SITE_FILE:-$SITE}" >/dev/null; then exit 4; fi
}

# --- Uninstalling ------------------------------------------------------------------------------------------------

confirm() {
    [[ $YES == yes ]] && return 0
    [[ -t 0 ]] || die 2 "$1 Give --yes to do this without confirmation."
    local answer
    read -r -p "$1 [y/N] " answer
    [[ $answer == [yY]* ]]
}

# A node without these modules, which it joins with, has nothing that they would have to remove.
can_take_off() { [[ -x $VENV/bin/salt-call && -f $MINION && ($ROLE == head || -d $MODULES/states) ]]; }

uninstall_role() {
    local what="Take the core off this machine; data and authority stay." role command folder
    if [[ $PURGE == yes ]]; then what="Take the core off this machine and DELETE its data, certificate authority and secrets."; fi
    [[ $EUID -eq 0 ]] || die 3 'Run this as root.'
    confirm "$what" || die 1 'Nothing was changed.'
    take_lock
    if can_take_off; then
        say 'Services, swarm and trust'
        # A head that is still connected to the node would restore what is removed.
        if [[ $ROLE == node ]]; then
            daemon_stop minion
            pkill -9 -f "$(daemon_pattern minion)" || true
        fi
        if ! "$VENV/bin/salt-call" --retcode-passthrough "${ABSENT[@]}"; then
            if [[ $ROLE == node ]]; then daemon_start minion; fi
            die 1 'Not everything could be removed; nothing else was changed. Fix the errors above, and run this again.'
        fi
    elif has docker && [[ -n $(docker ps --quiet --filter label=com.docker.swarm.service.name 2>/dev/null) ]]; then
        die 1 'Services run here, but Salt is missing to remove them. Run bootstrap.sh to repair it, then this again.'
    fi
    say 'Salt'
    for role in minion master; do
        daemon_stop "$role"
        if systemd_runs; then
            systemctl disable "salt-$role" 2>/dev/null || true
            rm -f "/etc/systemd/system/salt-$role.service"
        fi
        rm -f "/etc/salt/$role.d/virtual-core.conf"
        if grep -qsxF "$(salt_main_file "$role")" "/etc/salt/$role"; then rm -f "/etc/salt/$role"; fi
    done
    rm -f "$PROOF"
    if systemd_runs; then systemctl daemon-reload; fi
    for command in "${COMMANDS[@]}"; do
        if [[ $(readlink "/usr/local/bin/$command") == "$VENV"/* ]]; then rm -f "/usr/local/bin/$command"; fi
    done
    # The files that a node has from its head, including this script, stay; the line by which it joins replaces them.
    rm -rf "$VENV" "$PREFIX"/{requirements,constraints,overrides}.txt /etc/salt/pki /var/cache/salt
    rmdir --ignore-fail-on-non-empty "$PREFIX" 2>/dev/null || true
    if [[ $ROLE == node ]]; then rm -rf "$STATE"; fi
    if [[ $PURGE == yes ]]; then
        say 'Data, authority, secrets and images'
        # By name: docker refuses ids on which other images are based.
        if has docker; then
            docker images --filter label=vcore.image --format '{{.Repository}}:{{.Tag}}' | sed '/<none>/d' |
                xargs -r docker rmi --force >/dev/null
        fi
        while read -r folder; do
            rm -rf --one-file-system "$folder"
            rmdir --ignore-fail-on-non-empty "$(dirname "$folder")" 2>/dev/null || true
        done < <(cat "$STATE/data" 2>/dev/null)
        rm -rf "$CONFIGURATION" "$STATE"
    elif [[ $ROLE == head ]]; then
        say "Kept: the services' data, $CONFIGURATION (authority and secrets), $SITE"
    else
        say "On the head, run salt-run vcore.retire $NODE to remove it from the core's records."
    fi
    say 'Done. Docker and the other packages stay; apt can remove them.'
}

# --- Command line ------------------------------------------------------------------------------------------------

PYTHON=python3 ACTION=install_role SITE_FILE='' NODE='' YES='' PURGE='' JOIN='' TOKEN_FILE='' TOKEN='' FINGER=''
while (($#)); do
    case $1 in
        --site | --id | --join | --token-file | --finger)
            [[ -n ${2:-} ]] || die 2 "$1 needs a value"
            case $1 in
                --site) SITE_FILE=$2 ;;
                --id) NODE=$2 ;;
                --join) JOIN=$2 ;;
                --token-file) TOKEN_FILE=$2 ;;
                --finger) FINGER=$2 ;;
            esac
            shift
            ;;
        --dry-run) ACTION=dry_run ;;
        --uninstall) ACTION=uninstall_role ;;
        --purge) PURGE=yes ;;
        --yes) YES=yes ;;
        --help | -h) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown option $1" ;;
    esac
    shift
done
[[ -z $PURGE || $ACTION == uninstall_role ]] || die 2 '--purge is only valid with --uninstall'
[[ -z $SITE_FILE || -r $SITE_FILE ]] || die 2 "the site file $SITE_FILE cannot be read"
[[ -z $TOKEN_FILE || -r $TOKEN_FILE ]] || die 2 "the token file $TOKEN_FILE cannot be read"

# A node stays a node: it has a minion with a node's configuration, or this script from its head, without a site.
ROLE='node'
if [[ -e /etc/salt/master.d/virtual-core.conf || (-z $JOIN && -d $CHECKOUT/pillar && ! -e $MINION) ]]; then ROLE='head'; fi
if [[ $ROLE == head ]]; then
    [[ -z $JOIN ]] || die 2 'this machine is the head of a core; it cannot join another one'
    [[ -z $TOKEN_FILE$FINGER ]] || die 2 '--token-file and --finger are only valid with --join'
    MASTER=127.0.0.1
else
    [[ -z $SITE_FILE ]] || die 2 '--site is for a head'
    configured() { sed -nE "s/^$1: \"?([^\"]*)\"?\$/\1/p" "$2" 2>/dev/null || true; }
    MASTER=${JOIN:-$(configured master "$MINION")}
    # A name belongs to a key: without a key, this machine has left the core, or is a copy of one that has.
    if [[ -e $KEYS/minion.pub ]]; then NODE=${NODE:-$(configured id "$MINION")}; fi
    FINGER=${FINGER:-$(configured master_finger "$CHECKOUT/etc/core.yaml")}
    FINGER=${FINGER:-$(configured master_finger "$MINION")}
    [[ $ACTION == uninstall_role || $MASTER =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ ]] ||
        die 2 'give the address of the head to join: --join HEAD'
    [[ -z $FINGER || $FINGER =~ ^([0-9a-f]{2}:){31}[0-9a-f]{2}$ ]] ||
        die 2 "a fingerprint is 32 pairs of hexadecimal digits separated by colons, not $FINGER"
fi

# The token comes from standard input or a file, because every user can read arguments.
if [[ -n $JOIN && $ACTION == install_role ]]; then
    if [[ -n $TOKEN_FILE ]]; then
        read -r TOKEN <"$TOKEN_FILE" || true
    elif [[ ! -t 0 ]]; then
        read -r -t 10 TOKEN || true
    fi
    if [[ -n $TOKEN || -n $TOKEN_FILE ]]; then
        [[ $TOKEN =~ ^vc1\.(role=compute|node=[a-z][a-z0-9-]{0,62})\.([1-9][0-9]{0,11})\.[0-9a-f]{16}\.[0-9a-f]{64}$ ]] ||
            die 2 'this is not an enrolment token; run salt-run vcore.enrol_token on the head to make one'
        SCOPE=${BASH_REMATCH[1]} EXPIRY=${BASH_REMATCH[2]}
        if [[ $SCOPE == node=* ]]; then NODE=${NODE:-${SCOPE#*=}}; fi
    fi
fi
if [[ -z $NODE ]]; then
    NODE=$(uname -n)
    NODE=${NODE%%.*}
    NODE=${NODE,,}
fi
[[ $NODE =~ ^[a-z][a-z0-9-]{0,62}$ ]] || die 2 "$NODE is no name for a node (a-z, 0-9, -, a letter first); choose one with --id"

"role_of_$ROLE"
if [[ $ACTION == uninstall_role ]]; then
    uninstall_role
else
    say "${BOLD}Virtual Core${PLAIN}, checking this machine"
    preflight
    "$ACTION"
fi
