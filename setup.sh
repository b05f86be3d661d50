#!/usr/bin/env bash
# Find a Python with the packages of requirements.txt, or create one in .venv.
#
#   bash setup.sh                   alone; run_single.sh, run_multi.sh and tests/run.sh also call it
#   PADDLE=2.6.2 bash setup.sh      Paddle 2.6.2 instead of 3.3.1, in .venv-2.6.2
#   PYTHON=/path/to/python …        use this Python without a check
#
# A second run keeps a complete environment, and completes an interrupted one.

setup() {
    local here venv build active card python
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    local paddle=${PADDLE:-} index=() requirements=("$here/requirements.txt" "$@")
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || { echo "error: PYTHON=$PYTHON: there is no such program" >&2; return 2; }
        return 0
    fi

    # Use the active Python if it has all packages (a Paddle for cards counts as Paddle)
    if [ -z "$paddle" ]; then
        for active in python python3; do
            if PYTHON=$(command -v "$active") && meets_requirements "$PYTHON" "${requirements[@]}" >/dev/null 2>&1; then
                export PYTHON
                warn_of_unused_card
                return 0
            fi
        done
    fi

    # Choose the build of Paddle
    build=paddlepaddle==3.3.1
    venv=$here/.venv
    if [ -n "$paddle" ] && [ "$paddle" != 3.3.1 ]; then
        [ "$paddle" = 2.6.2 ] || { echo "error: PADDLE=$paddle: not a supported version; use 3.3.1 or 2.6.2" >&2; return 2; }
        build=paddlepaddle==2.6.2
        venv=$here/.venv-2.6.2
        requirements+=("$here/requirements-2.6.2.txt")
    elif [ -z "$paddle" ] && card=$(query_cards compute_cap | sort -V | tail -n 1) && [ -n "$card" ]; then
        # PyPI has no paddlepaddle-gpu after 2.6.2, and 2.6.2 has code only for these cards
        case $card in
            6.1 | 7.0 | 7.5 | 8.0 | 8.6)
                build=paddlepaddle-gpu==2.6.2
                requirements+=("$here/requirements-2.6.2.txt")
                ;;
            *)
                build=paddlepaddle-gpu==3.3.1
                index=(--extra-index-url https://www.paddlepaddle.org.cn/packages/stable/cu126/)
                ;;
        esac
        echo "setup: found a card of compute capability $card"
    fi

    # Create or complete the environment; its file "complete" lists the installed requirements
    PYTHON=$venv/bin/python
    export PYTHON
    if "$PYTHON" -c "" 2>/dev/null && [ -z "$(stamp_requirements | grep -vxFf "$venv/complete" 2>/dev/null)" ] && [ -s "$venv/complete" ]; then
        warn_of_unused_card
        return 0
    fi
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || { echo "error: no Python 3.10, 3.11 or 3.12 with venv found; install one, or set PYTHON" >&2; return 2; }
        echo "setup: making $venv with $python ($("$python" --version))"
        "$python" -m venv "$venv" || return # keeps an existing folder
    fi
    echo "setup: installing $build and the libraries into $venv: about 2.4 GB, a few minutes the first time"
    "$PYTHON" -m pip install "${index[@]}" "$build" -r <(cat "${requirements[@]}" | grep -v '^paddlepaddle') || return
    stamp_requirements >>"$venv/complete"
    echo "setup: done; to activate it: source ${venv#"$PWD"/}/bin/activate"
    warn_of_unused_card
}

# Print a property of each card, a line each; none where CUDA_VISIBLE_DEVICES hides all
query_cards() {
    case ${CUDA_VISIBLE_DEVICES-all} in "" | -1) return 1 ;; esac
    nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null
}

# Warn where this machine has a card and $PYTHON a Paddle for the CPU alone
warn_of_unused_card() {
    [ -n "$(query_cards index)" ] || return 0
    "$PYTHON" -c 'from importlib.metadata import version; version("paddlepaddle-gpu")' 2>/dev/null ||
        echo "warning: this machine has a card, but $PYTHON has a Paddle for the CPU alone; a new environment gets the other: deactivate, remove $here/.venv, and start again" >&2
}

# Print a line for each file of requirements: the build of Paddle, the file's name and its checksum
stamp_requirements() {
    local each
    for each in "${requirements[@]}"; do
        echo "$build $(basename "$each") $(cksum <"$each")"
    done
}

# Print the path of a Python that can create the environment
find_python() {
    local each
    for each in python3 python python3.12 python3.11 python3.10; do
        if "$each" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "$each"
            return 0
        fi
    done
    return 1
}

# Test whether a Python meets the requirements of some files. Any Paddle from 2.6.2 on meets that of Paddle.
meets_requirements() {
    local python=$1
    shift
    "$python" - "$@" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
from pip._vendor.packaging.requirements import Requirement

def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None

for file in sys.argv[1:]:
    for line in open(file, encoding="utf-8"):
        line = line.split("#")[0].strip()
        if not line:
            continue
        need = Requirement(line)
        found = installed(need.name)
        if need.name == "paddlepaddle":
            need, found = Requirement("paddlepaddle>=2.6.2"), found or installed("paddlepaddle-gpu")
            older = (found or "").startswith("2.")
        if need.name == "safetensors" and older:
            need = Requirement("safetensors<0.5")  # as in requirements-2.6.2.txt
        if found is None or not need.specifier.contains(found, prereleases=True):
            sys.exit(f"{line}: {found}")
PYTHON
}

# Set up when this script runs alone; a script that sources it calls `setup` or `setup more-requirements.txt`
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    setup "$@"
    exit
fi
