# shellcheck shell=bash
# What the scripts of this folder share: where the repository is, and a machine that has what a build needs.
# Sourced, never run. Changes nothing on a machine that has everything already.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ROOT

# Everything said goes to stderr: stdout belongs to the program that a script ends in.
say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $1"
    [ $# -lt 2 ] || say "hint: $2"
    exit 1
}

# Whether a Postgres server's programs are there, on the path or where Debian puts them.
have_postgres() {
    local initdb
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        [ ! -x "$initdb" ] || return 0
    done
    command -v initdb >/dev/null 2>&1
}

# Names of Debian packages that this machine lacks, one a line.
missing_packages() {
    have_postgres || echo postgresql
    command -v cc >/dev/null 2>&1 || echo build-essential
    command -v pkg-config >/dev/null 2>&1 || echo pkg-config
}

# What only some tests need; where it cannot be installed they say that they were skipped.
missing_for_tests() {
    command -v redis-server >/dev/null 2>&1 || echo redis-server
    command -v openssl >/dev/null 2>&1 || echo openssl
    command -v zstd >/dev/null 2>&1 || echo zstd
    command -v promtool >/dev/null 2>&1 || echo prometheus
    [ -x /usr/sbin/sshd ] || echo openssh-server
    command -v ssh >/dev/null 2>&1 || echo openssh-client
    command -v pebble >/dev/null 2>&1 || echo pebble
    [ -x /usr/sbin/pgbouncer ] || echo pgbouncer
    # Servers of their own in containers, a registry for their images, and who judges what `berth render` writes.
    command -v podman >/dev/null 2>&1 || printf '%s\n' podman runc catatonit
    command -v mmdebstrap >/dev/null 2>&1 || echo mmdebstrap
    command -v docker-registry >/dev/null 2>&1 || echo docker-registry
    command -v htpasswd >/dev/null 2>&1 || echo apache2-utils
    command -v docker-compose >/dev/null 2>&1 || echo docker-compose
    [ -x /usr/sbin/nginx ] || echo nginx-light
}

# The package that has PostGIS for the newest PostgreSQL here, where it is missing.
missing_postgis() {
    local newest
    newest=$(find /usr/lib/postgresql -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | sort -V | tail -n 1) || true
    [ -z "$newest" ] || [ -e "/usr/share/postgresql/$newest/extension/postgis.control" ] || echo "postgresql-$newest-postgis-3"
}

# The package by which containers of one network find each other by name, where podman's networks have none.
missing_names() {
    [ -e /usr/lib/cni/dnsname ] || [ -x /usr/lib/podman/aardvark-dns ] || [ -x /usr/libexec/podman/aardvark-dns ] ||
        echo golang-github-containernetworking-plugin-dnsname
}

# install_quietly PACKAGE...: installs programs and starts none of them. Debian asks this file before it starts a server.
install_quietly() {
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 ||
        say "could not install $*; the tests that need it will be skipped."
    [ -z "$made" ] || rm -f "$policy"
}

is_debian() {
    [ -r /etc/os-release ] || return 1
    # shellcheck disable=SC1091
    (. /etc/os-release && case " ${ID:-} ${ID_LIKE:-} " in *" debian "* | *" ubuntu "*) exit 0 ;; *) exit 1 ;; esac)
}

# Debian's package makes a cluster and starts a server unless this file says otherwise before it is installed.
no_server_of_its_own() {
    local conf=/etc/postgresql-common/createcluster.d/berth.conf
    mkdir -p "${conf%/*}"
    printf '# Written by Berth before installing postgresql: it runs private servers of its own.\ncreate_main_cluster = false\n' >"$conf"
}

need_rust() {
    if ! command -v cargo >/dev/null 2>&1; then
        # shellcheck disable=SC1091
        [ ! -r "${CARGO_HOME:-$HOME/.cargo}/env" ] || . "${CARGO_HOME:-$HOME/.cargo}/env"
    fi
    command -v cargo >/dev/null 2>&1 ||
        fail "there is no Rust" "install it from https://rustup.rs; rust-toolchain.toml names the version, and rustup fetches it"
}

# prepare WHAT TIME MEMORY DISK: says what will happen, then installs what is missing or says what to install.
prepare() {
    local packages
    mapfile -t packages < <(missing_packages)
    say "$1: takes $2; needs $3 of memory and $4 of disk."
    if [ ${#packages[@]} -eq 0 ]; then
        say "Nothing to install: Postgres and a C compiler are there, and no running server is touched."
    elif ! is_debian; then
        say "Will not install anything here: this is neither Debian nor Ubuntu."
        fail "missing: ${packages[*]}" "install a PostgreSQL server (15 or later; its programs on PATH), a C compiler and pkg-config with your package manager"
    elif [ "$(id -u)" -ne 0 ]; then
        say "Will install: ${packages[*]}. That needs root; run this line, then start again:"
        say "  sudo sh -c 'mkdir -p /etc/postgresql-common/createcluster.d && echo create_main_cluster=false >/etc/postgresql-common/createcluster.d/berth.conf && apt-get update && apt-get install -y --no-install-recommends ${packages[*]}'"
        exit 1
    else
        say "Will install: ${packages[*]} (apt-get; no server is started, none that runs is touched)."
        case " ${packages[*]} " in *" postgresql "*) no_server_of_its_own ;; esac
        DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 || fail "apt-get update failed" "its message is above"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2 ||
            fail "apt-get could not install ${packages[*]}" "its message is above"
    fi
    need_rust
}

# Where cargo puts what it builds.
target() { printf '%s' "${CARGO_TARGET_DIR:-$ROOT/target}"; }

# release PACKAGE...: builds them, with cargo's talk on stderr. Without the outer rings, which a first build need not wait for.
release() {
    local package arguments=()
    for package in "$@"; do arguments+=(-p "$package"); done
    cargo build --manifest-path "$ROOT/Cargo.toml" --release --locked --no-default-features "${arguments[@]}" >&2
}
