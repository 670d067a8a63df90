#!/usr/bin/env bash
# Every check of the repository in .venv, which it makes if need be: ruff, pyright, pip, pytest.
#
#   bash scripts/test.sh                     all checks, the whole suite in two processes
#   bash scripts/test.sh -k moments -n 0     the arguments go to pytest
#   bash scripts/test.sh --peers             also installs requirements-peers.txt, so that no test of
#                                            other libraries is skipped
#
# All steps run even if one fails; the exit status is 1 if any did.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

peers=no
pytest_args=(-n 2)
for argument in "$@"; do
    if [[ "$argument" == --peers ]]; then
        peers=yes
    fi
    pytest_args+=("$argument")
done

if [[ "$peers" == no ]]; then
    need_test
elif [[ -f "$ROOT/requirements-peers.txt" ]]; then
    need_peers
else
    die "--peers needs requirements-peers.txt, which is not there"
fi

summary=""
failed=0
step() {
    local name="$1" began=$SECONDS verdict=passed
    shift
    say "$name"
    if ! "$@"; then
        verdict=FAILED
        failed=1
    fi
    summary+="$(printf '%-12s %-7s %4d s' "$name" "$verdict" "$((SECONDS - began))")"$'\n'
}

step "ruff check" "$PY" -m ruff check .
step "ruff format" "$PY" -m ruff format --check --output-format=concise .
step "pyright" "$PY" -m pyright
step "pip check" "$PY" -m pip check
step "pytest" "$PY" -m pytest "${pytest_args[@]}"

say "summary"
printf '%s' "$summary"
exit "$failed"
