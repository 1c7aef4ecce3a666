#!/usr/bin/env bash
# demo.sh WANMPI GOLDEN_LATENTS SAME_LATENTS: the trained checkpoint in model/demo from prompt to latents: on
# 1, 2 and 4 ranks what tests/golden/make_demo.py recorded in PyTorch; 2 and 4 ranks what one gives.
set -u
here=$(dirname "$(realpath "$0")")
wanmpi=$(realpath "$1") golden=$(realpath "$2") same=$(realpath "$3")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
done=0 failed=0
for axes in 1 "2 --cfg_size 2" "2 --cfg_size 1 --ulysses_size 2" "4 --cfg_size 2 --ulysses_size 2 --dit_fsdp"; do
    read -r p flags <<< "$axes"
    # shellcheck disable=SC2086
    if ! mpirun -q --oversubscribe --bind-to none -n "$p" "$wanmpi" generate --task t2v-1.3B \
        --ckpt_dir "$here/../model/demo" --size 96*64 --frame_num 9 --sample_steps 4 --base_seed 42 \
        --prompt "一个红色的圆形向右移动" --precision fp32 --threads 1 --save_file "$done.mp4" \
        --run_file "$done.h5" $flags > run.log 2>&1; then
        cat run.log
        exit 1
    fi
    "$golden" "$here/golden" demo.safetensors "$done.h5" 1e-4 || failed=$((failed + 1))
    "$same" 0.h5 "$done.h5" 1e-5 || failed=$((failed + 1))
    done=$((done + 1))
done
echo "demo: $done runs, $failed comparisons failed"
[ "$failed" = 0 ]
