#!/usr/bin/env bash
# From a fresh machine to the report: makes .venv, installs the locked versions, runs the studies.
#
#   bash scripts/reproduce.sh                        the three main studies on the embedded digits
#   bash scripts/reproduce.sh --all                  thirteen: all but the extra one
#   bash scripts/reproduce.sh --all --profile=standard     on MNIST and Fashion-MNIST
#   bash scripts/reproduce.sh --study=batch_size --seeds=20
#
# Every other flag goes to scripts/study.py, where the last one of a kind wins; relative paths in
# flags start at the repository. PYTHON=/path/to/python picks the Python (>= 3.11). A second call
# starts at once and continues where the first one ended.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

flags=(--study=convergence,learning_rate,batch_size --profile=quick)
for flag in "$@"; do
    if [[ "$flag" == --all ]]; then
        flag=--study=all
    fi
    flags+=("$flag")
done

need_run
say "python scripts/study.py ${flags[*]}"
exec "$PY" scripts/study.py "${flags[@]}"
