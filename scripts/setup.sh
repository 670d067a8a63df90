# Sourced by reproduce.sh and test.sh: makes .venv in the repository and keeps it as the lock says.
# Offers ROOT, PY and the functions need_run, need_test, need_peers. Runs in bash 3.2 and later.
#
# A layer (run, test, peers) is complete when .venv/normlab-<layer> equals what the layer was made
# from, so a second call costs milliseconds and a changed lock is noticed. While anything is being
# installed .venv/normlab-unfinished exists; whoever finds it left behind starts .venv afresh.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
PY="$VENV/bin/python"
UNFINISHED="$VENV/normlab-unfinished"

unset PYTHONHOME PYTHONPATH # they would put other libraries before the locked ones
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '[normlab] %s\n' "$*"; }
die() { printf '[normlab] error: %s\n' "$*" >&2; exit 1; }

# Debian splits ensurepip off: without it venv makes an environment without pip.
usable() { "$1" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    if [[ -n "${PYTHON:-}" ]]; then
        usable "$PYTHON" || die "PYTHON=$PYTHON is no Python >= 3.11 with venv; name another one"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if usable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python >= 3.11 with venv found; install one or name it: PYTHON=/path/to/python3 bash $0"
}

version_of() { "$1" -c 'import sys; print(*sys.version_info[:3], sep=".")'; }

# Says why .venv cannot be used as it is; nothing when it can.
venv_fault() {
    local maker
    if [[ ! -d "$VENV" ]]; then
        echo "there is none"
    elif [[ -f "$UNFINISHED" ]]; then
        maker="$(cat "$UNFINISHED")"
        if [[ -n "$maker" ]] && kill -0 "$maker" 2>/dev/null; then
            die "process $maker is installing into .venv; wait for it, or remove $VENV"
        fi
        echo "the last installation was interrupted"
    elif ! usable "$PY"; then
        echo "its Python does not work"
    elif [[ -f "$VENV/normlab-root" && "$(cat "$VENV/normlab-root")" != "$ROOT" ]]; then
        echo "the repository was moved"
    elif [[ -n "${PYTHON:-}" && "$(version_of "$PYTHON")" != "$(version_of "$PY")" ]]; then
        echo "PYTHON=$PYTHON is another version"
    fi
}

begin() { echo $$ >"$UNFINISHED"; }
finish() { rm "$UNFINISHED"; }

make_venv() {
    local fault python began=$SECONDS
    fault="$(venv_fault)"
    if [[ -n "$fault" ]]; then
        python="$(find_python)"
        say "making .venv with $python $(version_of "$python") ($fault)"
        rm -rf "$VENV"
        mkdir "$VENV"
        begin
        "$python" -m venv "$VENV"
        printf '%s\n' "$ROOT" >"$VENV/normlab-root"
        finish
        say "made .venv in $((SECONDS - began)) s"
    fi
}

# ensure LAYER WHAT FILES -- PIP-ARGUMENTS: install unless the layer was made from these very files.
ensure() {
    local layer="$1" what="$2" files=() wanted began=$SECONDS
    shift 2
    while [[ "$1" != -- ]]; do
        files+=("$1")
        shift
    done
    shift
    wanted="$(version_of "$PY"; cat "${files[@]}")"
    if [[ "$(cat "$VENV/normlab-$layer" 2>/dev/null)" == "$wanted" ]]; then
        return
    fi
    say "installing $what"
    begin
    # -qq: errors only; -q would still repeat notes about pip's own settings.
    "$PY" -m pip install -qq "$@" ||
        die "pip could not install $what (see above; it needs its package index): run this again"
    printf '%s\n' "$wanted" >"$VENV/normlab-$layer"
    finish
    say "installed $what in $((SECONDS - began)) s"
}

need_run() {
    cd "$ROOT"
    make_venv
    ensure run "normlab and what it needs" requirements.lock requirements.txt pyproject.toml -- \
        --no-deps -r requirements.lock -e .
}

need_test() {
    need_run
    ensure test "test tools" requirements-test.lock -- --no-deps -r requirements-test.lock
}

# The locks are constraints here: another library may join, but may not change a locked version.
need_peers() {
    need_test
    ensure peers "libraries to compare with" requirements-peers.txt requirements.lock -- \
        -r requirements-peers.txt -c requirements.lock -c requirements-test.lock
}
