#!/usr/bin/env bash
# memory.sh WANMPI SAME_LATENTS: a checkpoint of 1.5 GB on 1, 2 and 4 ranks, sharded: what each rank takes is
# within 10% + 50 MB of the plan, and it reads its share of the blocks. The latents agree.
set -u
wanmpi=$(realpath "$1") same=$(realpath "$2")
if grep -qE '__(asan|hwasan|msan|tsan)_init' "$wanmpi"; then
    echo "memory: a sanitizer's own memory would count too"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
if [ "$(df --output=avail -m . | tail -1)" -lt 3000 ] ||
    [ "$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)" -lt 8000 ]; then
    echo "memory: needs 3 GB of disk and 8 GB of memory"
    exit 77
fi
"$wanmpi" synth --preset tiny --dim 1536 --ffn_dim 8960 --heads 12 --layers 8 --out model \
    > synth.log 2>&1 || { cat synth.log; exit 1; }
for p in 1 2 4; do
    flags=
    [ "$p" -gt 1 ] && flags=--dit_fsdp
    # shellcheck disable=SC2086
    mpirun -q --oversubscribe --bind-to none -n "$p" "$wanmpi" generate --task t2v-1.3B \
        --ckpt_dir model --size 64*64 --frame_num 5 --sample_steps 2 --base_seed 7 \
        --prompt "Two cats" --threads 1 --save_file "$p.mp4" --run_file "$p.h5" $flags \
        > "$p.log" 2>&1 || { cat "$p.log"; exit 1; }
    grep '^memory  rank' "$p.log" | sed "s/^/$p ranks: /"
    [ "$p" = 1 ] || "$same" 1.h5 "$p.h5" 1e-5 || exit 1
done
# read(P) = rest + blocks / P: two and four ranks must tell the same size of the blocks, in MB.
cat 1.log 2.log 4.log | awk '
    /^memory  at most/ { run++ }
    /^memory  rank/ {
        checks++
        if ($5 > $8 * 1.1 + 50 || $8 < 500) { failed++; print "beyond the plan: " $0 }
        read[run] = $11 # of the last rank; rank 0 reads texts too
    }
    END {
        two = 2 * (read[1] - read[2]); four = 4 / 3 * (read[1] - read[3])
        printf "blocks by two ranks %.1f MB, by four %.1f MB\n", two, four
        checks++
        if (two < 1000 || two - four > 2 || four - two > 2) failed++
        printf "memory: %d checks, %d failed\n", checks, failed
        exit failed > 0
    }'
