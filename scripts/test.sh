#!/usr/bin/env bash
# Every check of the repository: ruff, pyright, pip, pytest. Makes .venv if it is missing.
#
#   bash scripts/test.sh                     all checks, the whole suite in two processes
#   bash scripts/test.sh --peers             the same with requirements-peers.txt installed, so that
#                                            no test of another library is skipped
#   bash scripts/test.sh -k moments -n 0     pytest alone; the arguments go to it
#   bash scripts/test.sh --peers -m peers    the tests of other libraries, and the checks whose result
#                                            depends on what is installed: pyright and pip
#
# All steps run even if one fails. The exit status is 1 if any failed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

peers=no
selected=no
# The tests of a file share compiled programs and fixtures, so one process runs all of them.
pytest_args=(-n 2 --dist loadfile --no-loadscope-reorder)
for argument in "$@"; do
    if [[ "$argument" == --peers ]]; then
        peers=yes
    else
        selected=yes
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

if [[ "$selected" == no ]]; then
    step "ruff check" "$PY" -m ruff check .
    step "ruff format" "$PY" -m ruff format --check --output-format=concise .
fi
if [[ "$selected" == no || "$peers" == yes ]]; then
    step "pyright" "$PY" -m pyright
    step "pip check" "$PY" -m pip check
fi
step "pytest" "$PY" -m pytest "${pytest_args[@]}"

say "summary"
printf '%s' "$summary"
exit "$failed"
