#!/usr/bin/env bash
# gpu_memory.sh WANMPI [RANKS [TASK SIZE FRAMES]]: a run of real sizes on GPUs, of random weights and a
# shortened text encoder. What each rank holds on its GPU at most, as the driver counts it, is within
# 3% of the plan, on the host within 2 GiB; for 1.3B at 480P on one rank (what is run by default)
# that is 6 GiB at most.
set -u
wanmpi=$(realpath "$1") ranks=${2:-1} task=${3:-t2v-1.3B} size=${4:-832*480} frames=${5:-81}
memory=/dev/shm
[ -d "$memory" ] && [ "$(df --output=avail -m "$memory" | tail -1)" -gt 40000 ] || memory=${TMPDIR:-/tmp}
dir=$(mktemp -d -p "$memory")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
if ! nvidia-smi -L > gpus.txt 2>&1 || [ "$(grep -c '^GPU ' gpus.txt)" -lt "$ranks" ]; then
    echo "gpu_memory: needs $ranks GPUs"
    exit 77
fi
"$wanmpi" synth --preset "$task" --dit_dtype bf16 --t5_layers 4 --out model > synth.log 2>&1 ||
    { cat synth.log; exit 1; }
flags="--vae_precision bf16" # half the memory of fp32
[ "$ranks" -gt 1 ] && flags="$flags --dit_fsdp"
began=$(date +%s%N)
# shellcheck disable=SC2086
mpirun -q --oversubscribe --bind-to none -n "$ranks" "$wanmpi" generate --device cuda --task "$task" \
    --ckpt_dir model --size "$size" --frame_num "$frames" --sample_steps 2 --base_seed 7 \
    --prompt "Two cats boxing" --save_file out.mp4 $flags > run.log 2>&1 || { cat run.log; exit 1; }
echo "$task at $size x $frames, $ranks ranks: $((($(date +%s%N) - began) / 1000000)) ms with two steps"
grep '^memory  rank\|^wrote' run.log
awk -v ranks="$ranks" -v task="$task" -v size="$size" '
    /^memory  rank .* GPU peak/ {
        checks++; gpus++
        if ($6 > $9 * 1.03 || $6 < $9 * 0.97) { failed++; print "not within 3%: " $0 }
        if (ranks == 1 && task == "t2v-1.3B" && size == "832*480") {
            checks++
            if ($6 > 6442) { failed++; print "beyond 6 GiB: " $0 }
        }
    }
    /^memory  rank [0-9]*: peak/ {
        checks++
        if ($5 > 2147) { failed++; print "beyond 2 GiB of the host: " $0 }
    }
    END {
        checks++
        if (gpus != ranks) { failed++; print gpus + 0 " lines about GPUs" }
        printf "gpu_memory: %d checks, %d failed\n", checks, failed
        exit failed > 0
    }' run.log
