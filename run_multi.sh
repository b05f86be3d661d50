#!/usr/bin/env bash
# Fine-tune on several cards: all visible ones, or those in GPUS. Without a card, use NPROC processes on the CPU.
# The settings are those of run_single.sh:
#
#   bash run_multi.sh
#   GPUS=0,1,2,3 bash run_multi.sh --gradient_checkpointing
#   NNODES=2 MASTER=10.0.0.1:8000 NODE_RANK=0 bash run_multi.sh      (and NODE_RANK=1 on the other machine)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
visible=$(query_cards index | paste -sd, || true)
gpus=${GPUS:-${visible:+${CUDA_VISIBLE_DEVICES:-$visible}}}
if [ -n "${GPUS:-}" ] && [ -z "$visible" ]; then
    echo "error: GPUS=$GPUS: this machine has no card; omit GPUS to use the CPU" >&2
    exit 2
fi
setup
if ! has_paddle_for_cards; then
    if [ -n "${GPUS:-}" ]; then
        echo "error: GPUS=$GPUS: $PYTHON has a Paddle for the CPU alone; omit GPUS to use the CPU, or see docs/install.md" >&2
        exit 2
    fi
    gpus=
fi
# Silence the messages of Paddle's import: the launcher imports it too
export GLOG_minloglevel=${GLOG_minloglevel:-2} PYTHONWARNINGS=${PYTHONWARNINGS:-ignore:No ccache found}
logs=${LAUNCH_LOG:-$(mktemp -d)}
LAUNCHER=(-m paddle.distributed.launch --log_level ERROR --log_dir "$logs")
# The launcher stops listening to the processes before they end; its notes of their environments may have a token
finish() {
    rm -f "$logs"/envlog.*
    if [ "$1" != 0 ] && [ -e "$logs/workerlog.0" ]; then
        grep "^stopped by" "$logs/workerlog.0" >&2 || true
        echo "the output of each process is in $logs" >&2
    fi
    exit "$1"
}
trap 'finish $?' EXIT
trap 'exit 130' INT # the launcher ends with 2
if [ -n "$gpus" ]; then
    LAUNCHER+=(--gpus "$gpus")
else
    # Paddle's launcher fails where the user has hidden all cards
    LAUNCHER=("$(dirname "${BASH_SOURCE[0]}")/dreambooth/system/devices/launcher.py" "${LAUNCHER[@]:2}" --nproc_per_node "${NPROC:-2}")
fi
if [ -n "${NNODES:-}" ]; then
    if [ -z "${MASTER:-}" ] || [ -z "${NODE_RANK:-}" ]; then
        echo "error: NNODES=$NNODES needs MASTER, the first machine's address and port, and NODE_RANK, 0 on that machine" >&2
        exit 2
    fi
    LAUNCHER+=(--nnodes "$NNODES" --master "$MASTER" --rank "$NODE_RANK")
fi
. "$(dirname "${BASH_SOURCE[0]}")/run_single.sh"
