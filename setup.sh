#!/usr/bin/env bash
# Find a Python with the packages of requirements.txt, or create one in .venv.
#
#   bash setup.sh                   alone; run_single.sh, run_multi.sh and tests/run.sh also call it
#   PADDLE=2.6.2 bash setup.sh      Paddle 2.6.2 instead of 3.3.1, in .venv-2.6.2
#   PYTHON=/path/to/python …        use this Python without a check
#
# A second run keeps a complete environment, and completes an interrupted one.

setup() {
    local here venv build kind other size remedy name tried= active card= cards served names= driver python
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

    # List the builds of Paddle to try, the best for this machine first
    venv=$here/.venv
    local builds=(cpu) common=("${requirements[@]}")
    if [ -n "$paddle" ] && [ "$paddle" != 3.3.1 ]; then
        [ "$paddle" = 2.6.2 ] || { echo "error: PADDLE=$paddle: not a supported version; use 3.3.1 or 2.6.2" >&2; return 2; }
        builds=(cpu-2.6.2)
        venv=$here/.venv-2.6.2
    elif [ -z "$paddle" ] && mapfile -t cards < <(query_cards compute_cap | sort -uV) && [ ${#cards[@]} != 0 ]; then
        driver=$(query_cards driver_version | head -n 1) || driver=
        mapfile -t served < <(serve_most "$driver" "${cards[@]}")
        mapfile -t builds < <(common_builds "$driver" "${served[@]}")
        card=${cards[*]} card=${card// / and }
        if [ ${#builds[@]} = 0 ]; then
            remedy="install a newer driver (570 for all cards), or use the CPU"
            if ! at_least 6.0 "${cards[${#cards[@]} - 1]}"; then remedy="it is too old; use the CPU"; fi
            echo "error: no Paddle works on a card of compute capability $card with driver $driver; $remedy: export CUDA_VISIBLE_DEVICES=" >&2
            return 2
        fi
        echo "setup: found a card of compute capability $card, driver $driver"
        if [ ${#served[@]} != ${#cards[@]} ]; then
            names=$(name_cards "${served[@]}")
            echo "setup: no Paddle serves all of them; this one serves ${served[*]}; to see no other: export CUDA_VISIBLE_DEVICES=$names"
        fi
    elif [ -z "$paddle" ] && [ -n "$(query_cards index)" ]; then
        echo "error: neither nvidia-smi nor the driver tells the compute capability of the card; install a newer driver (570 for all cards), or use the CPU: export CUDA_VISIBLE_DEVICES=" >&2
        return 2
    fi

    # Keep an environment that is complete; its file "complete" lists the installed requirements
    PYTHON=$venv/bin/python
    export PYTHON
    for name in "${builds[@]}"; do
        use_build "$name"
        if "$PYTHON" -c "from importlib.metadata import version; version('${build%%=*}')" 2>/dev/null && [ -s "$venv/complete" ] && [ -z "$(stamp_requirements | grep -vxFf "$venv/complete" 2>/dev/null)" ]; then
            add_cuda_libraries
            warn_of_unused_card
            return 0
        fi
    done

    # Create or complete it with the first build that works
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || { echo "error: no Python 3.10, 3.11 or 3.12 with venv found; install one, or set PYTHON" >&2; return 2; }
        echo "setup: making $venv with $python ($("$python" --version))"
        "$python" -m venv "$venv" || return # keeps an existing folder
    fi
    for name in "${builds[@]}"; do
        use_build "$name"
        echo "setup: installing $build${index[1]:+ from ${index[1]}} and the libraries into $venv: about $size, a few minutes the first time"
        # One environment has one Paddle: the two kinds would write over each other's files
        if [ -f "$venv/complete" ]; then sed -i "/^$other==/d" "$venv/complete"; fi
        "$PYTHON" -m pip uninstall -q -y "$other" >/dev/null 2>&1 || true
        if "$PYTHON" -m pip install "${index[@]}" "$build" -r <(cat "${requirements[@]}" | grep -v '^paddlepaddle'); then
            add_cuda_libraries
            if [ "$kind" = cpu ] || check_card; then
                stamp_requirements >>"$venv/complete"
                echo "setup: done; to activate it: source ${venv#"$PWD"/}/bin/activate"
                warn_of_unused_card
                return 0
            fi
            "$PYTHON" -m pip uninstall -q -y paddlepaddle-gpu || return
        fi
        tried="${tried:+$tried, }$build${index[1]:+ ($name)}"
    done
    echo "error: could not set up $tried; see the lines above, and docs/install.md${card:+; to use the CPU: export CUDA_VISIBLE_DEVICES=}" >&2
    return 1
}

# Print the builds of Paddle for a card's compute capability and a driver, a line each, the best first.
# The drivers are the oldest that CUDA 11, CUDA 12 and Blackwell's cards take, by NVIDIA's notes on compatibility;
# PyPI's 2.6.2 has code for some cards alone.
choose_builds() {
    local card=$1 driver=$2
    if at_least 10.0 "$card"; then
        ! at_least 570 "$driver" || echo cu129
        return
    fi
    if at_least 7.0 "$card" && at_least 525.60 "$driver"; then echo cu126; fi
    if at_least 6.0 "$card" && at_least 450.80 "$driver"; then
        echo cu118
        case $card in 6.1 | 7.0 | 7.5 | 8.0 | 8.6) echo pypi ;; esac
    fi
}

# Print the builds that serve all of some cards: DRIVER CAPABILITY…
common_builds() {
    local driver=$1 common each
    common=$(choose_builds "${2:-}" "$driver")
    for each in "${@:3}"; do
        common=$(grep -xFf <(choose_builds "$each" "$driver") <<<"$common") || true
    done
    [ -z "$common" ] || echo "$common"
}

# Print the capabilities, a line each, that one build serves: those that have any, without the oldest until one serves
# the others. DRIVER CAPABILITY… in rising order
serve_most() {
    local driver=$1 each found=()
    for each in "${@:2}"; do
        [ -z "$(choose_builds "$each" "$driver")" ] || found+=("$each")
    done
    while [ ${#found[@]} != 0 ]; do
        [ -z "$(common_builds "$driver" "${found[@]}")" ] || break
        found=("${found[@]:1}")
    done
    [ ${#found[@]} = 0 ] || printf '%s\n' "${found[@]}"
}

# Print the names of the cards of some capabilities, as CUDA_VISIBLE_DEVICES takes them
name_cards() {
    local each
    for each in "$@"; do
        nvidia-smi --query-gpu=compute_cap,uuid --format=csv,noheader | tr -d '\r ' | sed -n "s/^$each,//p"
    done | paste -sd,
}

# Test whether the second version is at least the first
at_least() {
    printf '%s\n%s\n' "$1" "$2" | sort -VC
}

# Set what belongs to a build: its package, its index, its requirements, and the kind that it excludes
use_build() {
    kind=gpu build=paddlepaddle-gpu==3.3.1 other=paddlepaddle size="several GB" index=() requirements=("${common[@]}")
    case $1 in
        cpu*)
            kind=cpu build=paddlepaddle==3.3.1 other=paddlepaddle-gpu size="2.4 GB"
            if [ "$1" = cpu-2.6.2 ]; then
                build=paddlepaddle==2.6.2
                requirements+=("$here/requirements-2.6.2.txt")
            fi
            ;;
        pypi)
            build=paddlepaddle-gpu==2.6.2
            requirements+=("$here/requirements-2.6.2.txt" "$here/requirements-cuda11.txt")
            ;;
        *) index=(--extra-index-url "https://www.paddlepaddle.org.cn/packages/stable/$1/") ;;
    esac
}

# Let Paddle 2.6.2 for cards find the libraries of requirements-cuda11.txt, here and in activated shells
add_cuda_libraries() {
    [ "$build" = paddlepaddle-gpu==2.6.2 ] || return 0
    local each name path=
    # Paddle opens libcudnn.so, and NVIDIA's packages have libcudnn.so.8 alone
    for each in "$venv"/lib/python3*/site-packages/nvidia/*/lib/lib*.so.*; do
        name=${each##*/}
        [ ! -e "$each" ] || ln -sfn "$name" "${each%/*}/${name%%.so.*}.so"
    done
    for each in "$venv"/lib/python3*/site-packages/nvidia/*/lib; do
        path=$path${path:+:}$each
    done
    export LD_LIBRARY_PATH=$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    grep -qs "added by setup.sh" "$venv/bin/activate" ||
        printf 'export LD_LIBRARY_PATH="%s${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" # added by setup.sh\n' "$path" >>"$venv/bin/activate"
}

# Test whether Paddle computes on the cards: its own check, which tries several together too; then a convolution, a
# product and an attention, forward and backward
check_card() {
    echo "setup: testing $build on the card"
    (
        if [ -n "$names" ]; then export CUDA_VISIBLE_DEVICES=$names; fi
        cd "$here" && "$PYTHON" -c 'import zlib, paddle; paddle.utils.run_check()' && "$PYTHON" -m dreambooth.selfcheck --operations
    )
}

# Print a property of each visible card, a line each; none where CUDA_VISIBLE_DEVICES hides all. Its numbers are those
# of nvidia-smi in PCI_BUS_ID order alone, so otherwise all cards count, unless it has names.
query_cards() {
    local answer ask=(nvidia-smi "--query-gpu=$1" --format=csv,noheader) only=()
    case "${CUDA_DEVICE_ORDER:-} ${CUDA_VISIBLE_DEVICES-all}" in
        *" " | *" -1") return 1 ;;
        *" all") ;;
        *" GPU-"* | "PCI_BUS_ID "*) only=(-i "$CUDA_VISIBLE_DEVICES") ;;
    esac
    answer=$("${ask[@]}" "${only[@]}" 2>/dev/null) || answer=$("${ask[@]}" 2>/dev/null) ||
        { [ "$1" = compute_cap ] && answer=$(ask_driver); } || return 1
    tr -d '\r' <<<"$answer" | grep -E '^[0-9]+(\.[0-9]+)*$' # without its complaints, and what it does not know
}

# Print the compute capability of each visible card by the driver itself: nvidia-smi does not know it before driver 510
ask_driver() {
    "$(find_python)" - 2>/dev/null <<'PYTHON'
import ctypes

driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
    raise SystemExit(1)
for card in range(count.value):
    parts = ctypes.c_int(), ctypes.c_int()
    for part, attribute in zip(parts, (75, 76)):  # the major and the minor number, in cuda.h
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, card)
    print(f"{parts[0].value}.{parts[1].value}")
PYTHON
}

# Warn where this machine has a card and $PYTHON a Paddle for the CPU alone; say so where the user chose that one
warn_of_unused_card() {
    [ -n "$(query_cards index)" ] || return 0
    if [ -n "${PADDLE:-}" ]; then
        echo "setup: PADDLE=$PADDLE is a Paddle for the CPU alone, so the card is not used; without PADDLE, the card gets its own"
        return 0
    fi
    has_paddle_for_cards ||
        echo "warning: this machine has a card, but $PYTHON has a Paddle for the CPU alone; a new environment gets the other: deactivate, remove $here/.venv, and start again" >&2
}

# Test whether the Paddle of $PYTHON is one for cards
has_paddle_for_cards() {
    "$PYTHON" -c 'from importlib.metadata import version; version("paddlepaddle-gpu")' >/dev/null 2>&1
}

# Print a line for each file of requirements: the build of Paddle, the file's name and its checksum
stamp_requirements() {
    local each
    for each in "${requirements[@]}"; do
        echo "$build${index[1]:+ ${index[1]}} $(basename "$each") $(sed 's/ *#.*//' "$each" | cksum)"
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
        if need.marker and not need.marker.evaluate():
            continue
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
