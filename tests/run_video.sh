#!/usr/bin/env bash
# run_video.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: videos from a clip, and videos in windows, end in the latents of
# DiffSynth-Studio, on any ranks, and go on from a run file without the clip; the clip and the strength matter.
golden=$(realpath "$3") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
synth tiny-5B tiny-5B
synth tiny-i2v-A14B tiny-i2v-A14B
parts() { # parts FILE FILTER: 21 parts of an image, lossless
    ffmpeg -v error -y -loop 1 -framerate 16 -i "$recorded/image_wide.png" -vf "crop=54:40:n:5$2" -frames:v 21 \
        -c:v ffv1 -pix_fmt bgr0 "$1"
}
parts clip.mkv ""
parts other.mkv ,negate

steps=(--sample_steps 4) size=(--size 64*48 --frame_num 9)
run() { # run P NAME FLAGS...
    local p=$1 name=$2
    shift 2
    ranks "$p" generate --ckpt_dir model --task t2v-1.3B "${size[@]}" --prompt "Two cats boxing" \
        "${steps[@]}" --base_seed 11 --threads 1 --save_file "$name.mp4" --run_file "$name.h5" "$@"
}
recorded() { # recorded CASE FLAGS...
    local case=$1
    shift
    check "$case" run 1 "$case" --sample_solver euler "$@"
    check "$case ends as DiffSynth" "$golden" "$recorded" v2v.safetensors "$case.h5" 2e-4 "$case"
}
refuses() { # refuses LINE FLAGS...
    local line=$1
    shift
    not run 1 refused "$@" > refused.log 2>&1 && says "$line" refused.log
}
clip=(--input_video clip.mkv --denoising_strength 0.7)

recorded v2v.0.7 "${clip[@]}"
recorded v2v.0.3 --input_video clip.mkv --denoising_strength 0.3
recorded v2v.ti2v --ckpt_dir tiny-5B --task ti2v-5B --size 128*64 --input_video clip.mkv --denoising_strength 0.8
recorded v2v.tiled "${clip[@]}" --tiled_encode --tile_size 4,5 --tile_stride 2,3
check "encoding in tiles matters" not "$same" v2v.0.7.h5 v2v.tiled.h5 1e-4
check "another clip" run 1 other --sample_solver euler --input_video other.mkv --denoising_strength 0.7
check "the clip matters" moved v2v.0.7.h5 other.h5
check "the strength matters" moved v2v.0.7.h5 v2v.0.3.h5
steps=(--sample_steps 2)
check "one rank" run 1 one "${clip[@]}" --ops ref
for mesh in "2 --cfg_size 2 --dit_fsdp" "5 --ulysses_size 5"; do
    # shellcheck disable=SC2086 # the words of a mesh
    check "ranks $mesh" run "${mesh%% *}" part "${clip[@]}" --ops ref \
        $(echo "$mesh" | cut -s -d' ' -f2-)
    check "ranks $mesh: the same bits" "$same" one.h5 part.h5
    rm -f part.*
done
steps=()
check "steps of a list that have less noise" run 1 few "${clip[@]}" --preset causvid-3
cp check.log few.log
check "are two of three" says "2 steps 757,522 of renoise" few.log
steps=(--sample_steps 2)
cp clip.mkv a.mkv
clip[1]=a.mkv
rm -f stop.*
run 1 stop "${clip[@]}" > stop.log 2>&1
mv other.mkv a.mkv
check "another clip under the name" refuses "it was made from another image, clip or sound" "${clip[@]}" --run_file stop.h5
rm a.mkv
check "goes on without the clip" "$wanmpi" generate --resume stop.h5 --save_file on.mp4 --run_file on.h5
check "the same bits" "$same" stop.h5 on.h5
check "other tiles" refuses "tile_size is .* there and .* here" --sample_solver euler --input_video clip.mkv \
    --denoising_strength 0.7 --sample_steps 4 --tiled_encode --tile_size 6,8 --tile_stride 3,4 \
    --run_file v2v.tiled.h5
size=(--width 49 --height 48 --num_frames 2)
check "DiffSynth's size" run 1 rounded
cp check.log rounded.log
check "is rounded up" says "rounded up to 64\*48 and 5" rounded.log
size=(--size 64*48 --frame_num 9)
check "a clip that is too short" refuses "it has 21 frames, and --frame_num 25 needs as many" --input_video clip.mkv \
    --frame_num 25
check "too much noise" refuses "denoising_strength 1.5" --input_video clip.mkv --denoising_strength 1.5
check "no noise" refuses "denoising_strength 0 gives the clip no noise" --input_video clip.mkv --denoising_strength 0
check "a strength without a clip" refuses "denoising_strength needs --input_video" --denoising_strength 0.5
steps=()
check "a list without such steps" refuses "all steps of the list have more noise" --input_video clip.mkv \
    --denoising_strength 0.05 --sample_solver euler --denoising_steps 900,500
check "plan" "$wanmpi" plan --task i2v-14B --input_video clip.mkv --denoising_strength 0.5 --frame_num 17 --gpus 2
cp check.log plan.log
check "has the encoder" says "  encode " plan.log

# Windows of latent frames.
steps=(--sample_steps 4)
window=(--frame_num 25 --sliding_window_size 4 --sliding_window_stride 3)
i2v=(--ckpt_dir tiny-i2v-A14B --task i2v-A14B --image still.png --size 64*48 --sample_guide_scale 5 \
    --frame_num 29 --context_frames 13 --context_overlap 8 --context_fuse pyramid)
ffmpeg -v error -y -i "$recorded/image_wide.png" -vf crop=64:48:3:1 still.png
recorded window.4.3 "${window[@]}"
cp check.log window.log
recorded window.4.4 --frame_num 21 --input_video clip.mkv --denoising_strength 0.6 --sliding_window_size 4 \
    --sliding_window_stride 4
recorded context.linear --frame_num 33 --context_frames 13 --context_overlap 8
recorded context.i2v "${i2v[@]}"
for mesh in "2 --cfg_size 2 --dit_fsdp" "3"; do
    # shellcheck disable=SC2086 # the words of a mesh
    check "windows, ranks $mesh" run "${mesh%% *}" part --sample_solver euler "${window[@]}" \
        $(echo "$mesh" | cut -s -d' ' -f2-)
    check "windows, ranks $mesh: the same bits" "$same" window.4.3.h5 part.h5
    rm -f part.*
done
rm one.*
steps=(--sample_steps 2)
check "windows of I2V, one rank" run 1 one --ops ref "${i2v[@]}"
check "windows of I2V, ranks 5" run 5 part --ops ref --ulysses_size 5 "${i2v[@]}"
check "windows of I2V, ranks 5: the same bits" "$same" one.h5 part.h5
check "other windows in each step" run 1 uniform --frame_num 25 --context_schedule uniform_standard --context_frames 13 \
    --context_overlap 4
check "the windows matter" moved window.4.3.h5 uniform.h5
# The weights of 4 overlapping frames are thirds: of 1/3 and a guidance of 3 the product is 1.
thirds=(--frame_num 45 --context_frames 29 --context_overlap 16 --sample_steps 2)
check "weights of thirds" run 1 thirds "${thirds[@]}" --sample_guide_scale 3
check "and nearly so" run 1 nearly "${thirds[@]}" --sample_guide_scale 3.0001
check "are near" "$same" thirds.h5 nearly.h5 1e-3
check "a size without a stride" refuses "need each other" --sliding_window_size 4
check "gaps" refuses "leaves gaps" --sliding_window_size 4 --sliding_window_stride 5
check "both kinds" refuses "both say what the windows are" "${window[@]}" --context_frames 13
check "too much overlap" refuses "must be less than --context_frames 13" --context_frames 13
check "a step cache" refuses "step caching is for whole videos" "${window[@]}" --cache easycache
flat() { # memory of a GPU: of 321 frames within 3 % of 81
    for frames in 81 321; do
        "$wanmpi" plan --task t2v-1.3B --frame_num $frames --context_frames 81 --gpus 1 2>&1 |
            awk '/^memory / { print $2 }'
    done | awk '{ gib[NR] = $1 } END { print gib[1], gib[2]; exit !(NR == 2 && gib[2] < 1.03 * gib[1]) }'
}
check "321 frames in the memory of 81" flat
summary
