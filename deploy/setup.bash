# shellcheck shell=bash
# Sourced by `deploy/demo` and `tests/run`: brings a fresh Debian machine to where both can work. Installs
# only what is missing, and nothing outside Debian's packages and the checkout.

# say TEXT...: a heading.
say() { printf '\n== %s\n' "$*"; }

# die TEXT...: ends the run with one clear line.
die() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: $*"
    fi
}

# nginx lives in /usr/sbin, which is not on everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin

# The packages of those programs that are missing.
missing_packages() {
    command -v cc >/dev/null || echo build-essential
    command -v nginx >/dev/null || echo nginx-light
    # A FastCGI program, for the tests.
    command -v fcgiwrap >/dev/null || echo fcgiwrap
    command -v python3 >/dev/null || echo python3
    # Debian's python3 has venv, but not the ensurepip that venv needs.
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    command -v setsid >/dev/null || echo util-linux
    command -v flock >/dev/null || echo util-linux
    # Checks the units, in the tests.
    command -v systemd-analyze >/dev/null || echo systemd
    # Renders the manual pages, in the tests.
    command -v man >/dev/null || echo man-db
    # Network namespaces, for the tests.
    command -v ip >/dev/null || echo iproute2
}

# The packages of the browser that the tests drive, if they are missing.
missing_browser() {
    command -v chromium >/dev/null || echo chromium
    command -v chromedriver >/dev/null || echo chromium-driver
}

# install_packages [LIST]: what is missing, and what LIST, a function like those above, says besides.
install_packages() {
    local -a packages
    mapfile -t packages < <({ missing_packages && "${1:-true}"; } | sort -u)
    [ "${#packages[@]}" -gt 0 ] || return 0
    say "installing ${packages[*]}"
    as_root apt-get update -qq || die "apt-get update"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" \
        >/dev/null || die "apt-get install ${packages[*]}"
}

need_cargo() {
    # rustup's own place, for shells that have not read its profile.
    command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null || die "cargo is missing; install Rust 1.88 or later from https://rustup.rs"
}

# make_venv DIR REQUIREMENT...: a virtualenv with these packages, made once for these requirements.
make_venv() {
    local dir=$1
    shift
    [ "$(cat "$dir/installed" 2>/dev/null)" = "$*" ] && return 0
    say "making $dir ($*)"
    rm -rf "$dir"
    python3 -m venv "$dir" || die "python3 -m venv $dir"
    "$dir/bin/pip" install --quiet --disable-pip-version-check "$@" || die "pip install $*"
    echo "$*" >"$dir/installed"
}
