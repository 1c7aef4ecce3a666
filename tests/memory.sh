#!/usr/bin/env bash
# memory.sh WANMPI SAME_LATENTS: what each rank takes is never more than the plan says, and at most 5% + 8 MB less:
# a checkpoint of 0.8 GB on 1, 2 and 4 ranks, sharded, which read their shares of the blocks and agree in the
# latents; the same in bf16; two experts, however they are kept; the small checkpoint with a video that takes more
# memory than the model.
set -u
wanmpi=$(realpath "$1") same=$(realpath "$2") demo=$(realpath "$(dirname "$0")/../model/demo")
unset MALLOC_PERTURB_ # it writes into memory that the program does not use
if grep -qE '__(asan|hwasan|msan|tsan)_init' "$wanmpi"; then
    echo "memory: a sanitizer's own memory would count too"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
if [ "$(df --output=avail -m . | tail -1)" -lt 2000 ] ||
    [ "$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)" -lt 4000 ]; then
    echo "memory: needs 2 GB of disk and 4 GB of memory"
    exit 77
fi
"$wanmpi" synth --preset tiny --dim 1536 --ffn_dim 8960 --heads 12 --layers 4 --out model \
    > synth.log 2>&1 || { cat synth.log; exit 1; }
run() { # run P NAME FLAGS...: its log in NAME.log
    local p=$1 name=$2
    shift 2
    mpirun -q --oversubscribe --bind-to none -n "$p" "$wanmpi" generate --task t2v-1.3B \
        --sample_steps 2 --base_seed 7 --prompt "Two cats" --threads 1 --save_file "$name.mp4" "$@" \
        > "$name.log" 2>&1 || { cat "$name.log"; exit 1; }
    grep '^memory  rank' "$name.log" | sed "s/^/$name, $p ranks: /"
}
mid=(--ckpt_dir model --size 64*64 --frame_num 5)
for p in 1 2 4; do
    flags=
    [ "$p" -gt 1 ] && flags=--dit_fsdp
    # shellcheck disable=SC2086
    run "$p" "$p" "${mid[@]}" --run_file "$p.h5" $flags
    [ "$p" = 1 ] || "$same" 1.h5 "$p.h5" 1e-5 || exit 1
done
run 1 bf16 "${mid[@]}" --precision bf16
"$wanmpi" synth --preset tiny-A14B --dim 1536 --ffn_dim 8960 --heads 12 --layers 2 --out pair \
    > synth.log 2>&1 || { cat synth.log; exit 1; }
pair=(--task t2v-A14B --ckpt_dir pair --size 64*64 --frame_num 5 --sample_steps 4)
run 1 pair-both "${pair[@]}" --experts both
run 1 pair-later "${pair[@]}" --experts later
run 1 pair-ahead "${pair[@]}" --experts ahead
run 2 pair-ahead-2 "${pair[@]}" --experts ahead --dit_fsdp
run 1 video --ckpt_dir "$demo" --size 256*256 --frame_num 33 --sample_guide_scale 1
run 2 video-2 --ckpt_dir "$demo" --size 256*256 --frame_num 33 --sample_guide_scale 1
cat ./*.log | awk '
    /^memory  rank/ {
        checks++
        if ($5 > $8 || $8 > $5 * 1.05 + 8) { failed++; print "not as planned: " $0 }
    }
    END {
        printf "%d ranks, %d not as planned\n", checks, failed
        exit failed > 0 || checks < 15
    }' || exit 1
# read(P) = rest + blocks / P: two and four ranks must tell the same size of the blocks, in MB.
cat 1.log 2.log 4.log | awk '
    /^memory  at most/ { run++ }
    /^memory  rank/ {
        read[run] = $11 # of the last rank; rank 0 reads texts too
    }
    END {
        two = 2 * (read[1] - read[2]); four = 4 / 3 * (read[1] - read[3])
        printf "blocks by two ranks %.1f MB, by four %.1f MB\n", two, four
        checks++
        if (two < 500 || two - four > 2 || four - two > 2) failed++
        printf "memory: %d checks, %d failed\n", checks, failed
        exit failed > 0
    }'
