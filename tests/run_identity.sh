#!/usr/bin/env bash
# run_identity.sh WANMPI SAME_LATENTS: other weights than another rank, or than the run that is resumed, are refused.
. "$(dirname "$0")/run_common.sh"

for name in a b; do
    mkdir $name
    "$wanmpi" synth --preset tiny --seed $([ $name = a ] && echo 1 || echo 2) --out $name/model > synth.log 2>&1 ||
        { cat synth.log; exit 1; }
done
"$wanmpi" synth --preset tiny --seed 1 --diffusers --out c > synth.log 2>&1 || { cat synth.log; exit 1; }
run=(generate --task t2v-1.3B --size 64*64 --frame_num 5 --sample_steps 2 --base_seed 7 --threads 1 --prompt x)

refused() { # STATUS LINE COMMAND...: the status, and one line with the pattern
    local want=$1 line=$2 status
    shift 2
    "$@" > out 2>&1
    status=$?
    [ $status -eq "$want" ] && [ "$(grep -c '^wanmpi: ' out)" -eq 1 ] && grep -q "^wanmpi: .*$line" out ||
        { echo "status $status"; cat out; false; }
}
check "ranks that read other weights" refused 3 'other weights on the node of rank 1' \
    "${mpirun[@]}" --wdir a -n 1 "$wanmpi" "${run[@]}" --ckpt_dir model --save_file x.mp4 \
    : --wdir b -n 1 "$wanmpi" "${run[@]}" --ckpt_dir model --save_file x.mp4
check "a run" ranks 1 "${run[@]}" --ckpt_dir a/model --run_file r.h5 --save_file r.mp4
check "resumed with other weights" refused 1 'other weights of the dit' \
    ranks 2 generate --resume r.h5 --ckpt_dir b/model --save_file s.mp4
check "resumed with the same in another layout" ranks 2 generate --resume r.h5 --ckpt_dir c --save_file s.mp4
summary
