#!/usr/bin/env bash
# Find a Python that has what requirements.txt asks for, or make one in .venv.
#
#   bash setup.sh                   by itself; run_single.sh, run_multi.sh and tests/run.sh do it first
#   PADDLE=2.6.2 bash setup.sh      Paddle 2.6.2 instead of 3.3.1, in .venv-2.6.2
#   PYTHON=/path/to/python …        use this Python, whatever it has
#
# It may be run again at any time: what is there is kept, and what an interrupted run left is completed.

setup() {
    local here venv wanted active card python
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    local paddle=${PADDLE:-} index=() requirements=("$here/requirements.txt" "$@")
    [ -z "${PYTHON:-}" ] || return 0

    # Use the Python that is active, where it has everything (a Paddle for cards counts as Paddle)
    if [ -z "$paddle" ]; then
        for active in python python3; do
            if PYTHON=$(command -v "$active") && has_everything "$PYTHON" "${requirements[@]}" >/dev/null 2>&1; then
                export PYTHON
                return 0
            fi
        done
    fi

    # Choose the build of Paddle
    wanted=paddlepaddle==3.3.1
    venv=$here/.venv
    if [ -n "$paddle" ] && [ "$paddle" != 3.3.1 ]; then
        [ "$paddle" = 2.6.2 ] || { echo "setup: PADDLE=$paddle: only 3.3.1 and 2.6.2 are known" >&2; return 2; }
        wanted=paddlepaddle==2.6.2
        venv=$here/.venv-2.6.2
        requirements+=("$here/requirements-2.6.2.txt")
    elif [ -z "$paddle" ] && card=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -V | tail -n 1) && [ -n "$card" ]; then
        # 2.6.2 is the newest on PyPI; it has code for these cards alone
        case $card in
            6.1 | 7.0 | 7.5 | 8.0 | 8.6)
                wanted=paddlepaddle-gpu==2.6.2
                requirements+=("$here/requirements-2.6.2.txt")
                ;;
            *)
                wanted=paddlepaddle-gpu==3.3.1
                index=(--extra-index-url https://www.paddlepaddle.org.cn/packages/stable/cu126/)
                ;;
        esac
        echo "setup: found a card of compute capability $card"
    fi

    # Make the environment where it is not complete: it notes which requirements were installed to the end
    PYTHON=$venv/bin/python
    export PYTHON
    if "$PYTHON" -c "" 2>/dev/null && [ -z "$(stamps | grep -vxFf "$venv/complete" 2>/dev/null)" ] && [ -s "$venv/complete" ]; then
        return 0
    fi
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || { echo "setup: needs Python 3.10, 3.11 or 3.12 with venv; none was found" >&2; return 2; }
        echo "setup: making $venv with $python ($("$python" --version))"
        "$python" -m venv "$venv" || return # what is there already stays
    fi
    echo "setup: installing $wanted and the libraries into $venv; some 2.4 GB, a few minutes the first time"
    "$PYTHON" -m pip install "${index[@]}" "$wanted" -r <(cat "${requirements[@]}" | grep -v '^paddlepaddle') || return
    stamps >>"$venv/complete"
    echo "setup: done; to use it yourself: source ${venv#"$PWD"/}/bin/activate"
}

# A line for each file of requirements that `setup` is to meet
stamps() {
    local each
    for each in "${requirements[@]}"; do
        echo "$wanted $(basename "$each") $(cksum <"$each")"
    done
}

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

# Whether a Python has each requirement of some files in a version that fits. Any Paddle from 2.6.2 on will do.
has_everything() {
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

# Run by itself, it does the work; sourced, it leaves that to the caller: `setup`, or `setup more-requirements.txt`
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    setup "$@"
    exit
fi
