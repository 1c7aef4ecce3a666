#!/usr/bin/env bash
# demo.sh WANMPI GOLDEN_LATENTS SAME_LATENTS FIRST_FRAME: the trained checkpoints in model/ from prompt to latents: on
# 1, 2 and 4 ranks what tests/golden/make_demo.py recorded in PyTorch; 2 and 4 ranks what one gives. I2V
# begins with its image.
set -u
here=$(dirname "$(realpath "$0")")
wanmpi=$(realpath "$1") golden=$(realpath "$2") same=$(realpath "$3") first=$(realpath "$4")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
done=0 failed=0

run() { # RECORDED FOLDER RANKS FLAGS...
    recorded=$1 folder=$here/../model/$2 ranks=$3
    shift 3
    if ! mpirun -q --oversubscribe --bind-to none -n "$ranks" "$wanmpi" generate --ckpt_dir "$folder" \
        --sample_steps 4 --base_seed 42 --precision fp32 --threads 1 --save_file "$recorded-$done.mp4" \
        --run_file "$recorded-$done.h5" "$@" > run.log 2>&1; then
        cat run.log
        exit 1
    fi
    "$golden" "$here/golden" demo.safetensors "$recorded-$done.h5" 1e-4 "$recorded" || failed=$((failed + 1))
    done=$((done + 1))
}

for axes in 1 "2 --cfg_size 2" "2 --cfg_size 1 --ulysses_size 2" "4 --cfg_size 2 --ulysses_size 2 --dit_fsdp"; do
    read -r p flags <<< "$axes"
    # shellcheck disable=SC2086
    run latents demo "$p" --task t2v-1.3B --size 96*64 --frame_num 9 --prompt "一个红色的圆形向右移动" $flags
    "$same" latents-0.h5 "latents-$((done - 1)).h5" 1e-5 || failed=$((failed + 1))
done
run fast demo 2 --task t2v-1.3B --size 96*64 --frame_num 9 --prompt "一个红色的圆形向右移动" --dit_fsdp \
    --lora "$here/../model/demo/lora_4steps.safetensors" --preset lightx2v-4
run pair demo-pair 1 --task t2v-A14B --size 96*64 --frame_num 9 --prompt "一个红色的圆形向右移动"
run i2v demo-i2v 2 --task i2v-14B --size 128*128 --frame_num 5 --sample_shift 5 \
    --prompt "a blue triangle moves upward on a gray background" --image "$here/../model/demo-i2v/first.png"
"$first" "i2v-$((done - 1)).mp4" "$here/../model/demo-i2v/first.png" 30 || failed=$((failed + 1))
echo "demo: $done runs, $failed comparisons failed"
[ "$failed" = 0 ]
