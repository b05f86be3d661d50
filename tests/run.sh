#!/usr/bin/env bash
# Pass the tests: set up what they need, then ruff, mypy and pytest. Arguments go to pytest; --slow adds the slow ones.
#
#   bash tests/run.sh
#   PADDLE=2.6.2 bash tests/run.sh      the same on Paddle 2.6.2
set -euo pipefail
cd "$(dirname "$0")/.."
. ./setup.sh
setup tests/requirements.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# two processes, each taking whole files: a test alone uses one core
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
