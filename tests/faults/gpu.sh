#!/usr/bin/env bash
# faults/gpu.sh [BUILD] [CHECKPOINT]: one of two ranks on GPUs is stopped or killed while loading, in a step and
# while decoding. All ranks must be gone within the deadline and 10 seconds, with one line that names that
# rank. Without CHECKPOINT one of random weights of 1.3B's size is made (3 GB).
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "${1:-$here/../../build}" && pwd) || exit 1
wanmpi=$build/wanmpi deadline=5
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
if ! nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
    echo "faults/gpu: skipped, no GPU here"
    exit 77
fi
model=${2:-$scratch/model}
[ -d "$model" ] || "$wanmpi" synth --preset t2v-1.3B --dit_dtype bf16 --t5_layers 1 --t5_vocab 1000 --out "$model" \
    > synth.log 2>&1 || { cat synth.log; exit 1; }
wrong=0 cases=0

ours() { # the processes of the program that work in this folder
    local pid
    for pid in $(pgrep -x wanmpi); do
        [ "$(readlink "/proc/$pid/cwd")" != "$(pwd -P)" ] || echo "$pid"
    done
}

rank_pid() { # the process of rank $1
    local pid
    for pid in $(ours); do
        tr '\0' '\n' 2> /dev/null < "/proc/$pid/environ" | grep -q "^OMPI_COMM_WORLD_RANK=$1$" && echo "$pid"
    done
}

fault() { # SIGNAL RANK STAGE 'PATTERN of the log when it begins' DELAY
    local signal=$1 rank=$2 stage=$3 pattern=$4 delay=$5 job pid started status seconds lines ok=ok
    rm -f a.mp4 a.h5 # an existing run file would be continued
    : > log
    # shellcheck disable=SC2086
    ${MPIRUN:-mpirun -q --bind-to none} -n 2 "$wanmpi" generate --task t2v-1.3B --ckpt_dir "$model" --size 832*480 \
        --frame_num 81 --sample_steps 30 --cfg_size 1 --prompt "A cat" --device cuda --timeout $deadline \
        --save_file a.mp4 --run_file a.h5 > log 2>&1 &
    job=$!
    until grep -q "$pattern" log || ! kill -0 $job 2> /dev/null; do sleep 0.01; done
    sleep "$delay"
    pid=$(rank_pid "$rank")
    kill -s "$signal" $pid
    started=$(date +%s.%N)
    (
        sleep 60
        for pid in $(ours); do kill -KILL "$pid"; done
    ) &
    local killer=$!
    wait $job
    status=$?
    while [ -n "$(ours)" ]; do sleep 0.1; done
    seconds=$(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    kill $killer 2> /dev/null
    lines=$(grep -c '^wanmpi: ' log)
    case $signal in
    STOP) [ $status -eq 6 ] && grep -q "^wanmpi: .*rank $rank on .* silent" log && [ "$lines" -eq 1 ] || ok=WRONG ;;
    KILL) [ $status -eq 137 ] && grep -q "^wanmpi: .*rank $rank on .* has ended" log && [ "$lines" -eq 1 ] || ok=WRONG ;;
    esac
    awk -v s="$seconds" -v most=$((deadline + 10)) 'BEGIN { exit s > most }' || ok=WRONG
    cases=$((cases + 1))
    printf '%-5s rank %d %-8s %6.1f s, status %3d, %d lines  %s\n' "$signal" "$rank" "$stage" "$seconds" "$status" \
        "$lines" "$ok"
    [ $ok = ok ] || { wrong=$((wrong + 1)); tail -5 log; }
    grep '^wanmpi: ' log | head -1
}

for signal in STOP KILL; do
    for rank in 1 0; do
        fault $signal $rank load '^text and weights' 0.05
        fault $signal $rank step '^sampling: 1/' 0.3
        fault $signal $rank decode '^decoding' 0.2
    done
done
echo "faults/gpu: $cases cases, $wrong wrong"
[ $wrong -eq 0 ]
