#!/usr/bin/env bash
# All figures of one NVIDIA GPU, in eight minutes at most.
#
#     bash benchmarks/gpu.sh              on a machine with a GPU
#     bash benchmarks/gpu.sh --toy        do all parts run? Toy sizes, on any machine
#
# Each part is a process with a time limit of its own, and appends its results to
# $OUT/gpu.jsonl as they come ($OUT: benchmarks/results by default); the last line of each result
# says what was measured. PARTS="attention loss" runs only these. Nothing beyond jax, flax, optax,
# orbax, transformers, torch, numpy, jaxtyping, safetensors and what they need is imported.
set -u
case "$*" in "" | --toy) ;; *) echo "error: expected --toy or nothing, not $*" >&2; exit 2 ;; esac
cd "$(dirname "$0")/.."
export OUT="${OUT:-$PWD/benchmarks/results}" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
PYTHON="${PYTHON:-python3}"
mkdir -p "$OUT" && : > "$OUT/gpu.jsonl" || exit 2
run() {  # name, seconds: one part. In the foreground, so that all stay in one process group.
    case " ${PARTS:-$1} " in *" $1 "*) ;; *) return ;; esac
    local name=$1 seconds=$2
    shift 2
    timeout --foreground --kill-after=5 "$seconds" "$PYTHON" benchmarks/gpu.py "$name" "$@" \
        2> >(tail -n 4 >&2) || echo "{\"part\": \"$name\", \"stopped\": $?}" | tee -a "$OUT/gpu.jsonl"
}
# PyTorch compiles beside our parts, and is timed when they have left the device.
export GPU_FREE="$OUT/gpu.free" XLA_PYTHON_CLIENT_MEM_FRACTION=0.6
rm -f "$GPU_FREE"
run pytorch 460 "$@" &
run step 130 "$@"
run large 35 "$@"
run loss 130 "$@"
run attention 120 "$@"
touch "$GPU_FREE"
wait
rm -f "$GPU_FREE"
run record 20 "$@"
