#!/usr/bin/env bash
# Set up the environment, then run ruff, mypy and the tests. Arguments go to pytest; --slow adds the slow tests.
#
#   bash tests/run.sh
#   PADDLE=2.6.2 bash tests/run.sh      on Paddle 2.6.2
set -euo pipefail
cd "$(dirname "$0")/.."
. ./setup.sh
setup tests/requirements.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# Two processes share the files: a test uses only one core
exec "$PYTHON" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
