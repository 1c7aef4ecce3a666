#!/usr/bin/env bash
# run_phantom.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: videos of Phantom end in the latents of its program, on any ranks;
# the images and both scales matter.
golden=$(realpath "$3") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
run() { # run P NAME FLAGS...
    local p=$1 name=$2
    shift 2
    ranks "$p" generate --ckpt_dir model --task phantom-1.3B --size 64*48 --frame_num 9 --prompt "Two cats boxing" \
        --sample_steps 4 --base_seed 11 --threads 1 --save_file "$name.mp4" --run_file "$name.h5" "$@"
}
refuses() { # refuses LINE FLAGS...
    local line=$1
    shift
    not run 1 refused "$@" > refused.log 2>&1 && says "$line" refused.log
}
one=(--ref_image "$recorded/image_wide.png")
two=(--ref_image "$recorded/image_tall.png,$recorded/image_odd.png" --sample_guide_scale_img 3 --sample_shift 8
    --sample_guide_scale_text 6)
check "one image" run 1 one "${one[@]}"
check "one image ends as Phantom" "$golden" "$recorded" phantom.safetensors one.h5 2e-4 one
check "has the frames of the video" is_video one.mp4 64 48 9
check "two images" run 1 two "${two[@]}"
check "two images end as Phantom" "$golden" "$recorded" phantom.safetensors two.h5 2e-4 two
check "the same on 2 ranks, sharded" run 2 part --ulysses_size 2 --dit_fsdp "${two[@]}"
check "the same bits" "$same" two.h5 part.h5
rm part.*
check "the same on 3 ranks" run 3 part "${two[@]}"
check "the same bits on 3" "$same" two.h5 part.h5
check "another image" run 1 other --ref_image "$recorded/image_tall.png"
check "the image matters" moved one.h5 other.h5
check "another scale" run 1 scale "${one[@]}" --sample_guide_scale_img 1
check "the scale matters" moved one.h5 scale.h5
check "no image" refuses "needs --ref_image"
check "two groups of branches" refuses "three branches" "${one[@]}" --cfg_size 2
check "a gate" refuses "cfg_gate is for a guidance with two branches" "${one[@]}" --cfg_gate 0.5
check "windows" refuses "windows are not for task phantom" "${one[@]}" --context_frames 5 --context_overlap 0
check "the scale of another task" refuses "has no such guidance" --task t2v-1.3B --sample_guide_scale_img 3
check "plan" "$wanmpi" plan --task phantom-14B "${one[@]}" --gpus 2 --meshes
cp check.log plan.log
check "plan has three forwards a step" says "; 150 forwards" plan.log
summary
