#!/usr/bin/env bash
# run_vace.sh WANMPI SAME_LATENTS GOLDEN_LATENTS TEST_VACE: VACE ends in the latents of the official program, or of
# DiffSynth by its names, on any ranks, and goes on from a run file without its inputs; each of them matters, and wrong
# ones are refused.
golden=$(realpath "$3") test_vace=$(realpath "$4") here=$(dirname "$(realpath "$0")")
recorded=$here/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
"$here/clips.sh" "$dir"
synth tiny-vace vace
references=$recorded/image_wide.png,$recorded/image_odd.png
mixed=(--src_video clip.mkv --src_mask mask.mkv --src_ref_images "$references" --vace_scale 0.5)

run() { # run P NAME FLAGS...
    local p=$1 name=$2
    shift 2
    ranks "$p" generate --ckpt_dir vace --size 64*48 --prompt "Two cats boxing" --frame_num 9 --sample_steps 4 \
        --base_seed 11 --threads 1 --save_file "$name.mp4" --run_file "$name.h5" "$@"
}
official() { # official CASE FLAGS...
    local case=$1
    shift
    check "$case" run 1 "$case" "$@"
    check "$case ends as the official program" "$golden" "$recorded" vace.safetensors "$case.h5" 2e-4 "$case"
}
refuses() { # refuses LINE FLAGS...
    local line=$1
    shift
    check "$line" not run 1 refused "$@"
    cp check.log refused.log
    check "$line: the line" [ "$(grep -c "^wanmpi: .*$line" refused.log)" = 1 ]
}

check "frames, masks and references" "$test_vace" "$recorded" .
official free.unipc --task vace-1.3B
official r2v.unipc --src_ref_images "$recorded/image_wide.png,$recorded/image_tall.png"
official v2v.dpm++ --src_video clip.mkv --sample_solver dpm++
official mv2v.unipc "${mixed[@]}"
theirs=(--vace_video clip.mkv --vace_video_mask grey.mkv --vace_reference_image "$references" --vace_scale 0.5)
official diffsynth.euler "${theirs[@]}" --sample_solver euler --sample_shift 5
check "the video has the clip's size and length, without the references" is_video mv2v.unipc.mp4 48 32 13

ffmpeg -v error -y -i mask.mkv -frames:v 5 -c:v ffv1 hole.mkv
short=("${mixed[@]}" --src_video short.mkv --src_mask hole.mkv --sample_steps 2 --ops ref)
check "one rank" run 1 one "${short[@]}"
for mesh in "2 --cfg_size 2 --dit_fsdp --cache firstblock" "5 --ulysses_size 5 --num_persistent_param_in_dit 0"; do
    # shellcheck disable=SC2086 # the words of a mesh
    check "ranks $mesh" run "${mesh%% *}" part "${short[@]}" $(echo "$mesh" | cut -s -d' ' -f2-)
    check "ranks $mesh: the same bits" "$same" one.h5 part.h5
    rm -f part.*
done

matters() { # matters WHAT FLAGS...: the flags in place of those of mv2v.unipc
    local what=$1
    shift
    check "another $what" run 1 other "${mixed[@]}" "$@"
    check "the $what matters" moved mv2v.unipc.h5 other.h5
    rm -f other.*
}
matters video --src_video other.mkv
ffmpeg -v error -y -i mask.mkv -vf negate -c:v ffv1 inverse.mkv
matters mask --src_mask inverse.mkv
matters reference --src_ref_images "$recorded/image_odd.png,$recorded/image_wide.png"
matters scale --vace_scale 1

mkdir gone
cp short.mkv gone
check "a run" run 1 half --sample_steps 1 --src_video gone/short.mkv
rm -r gone
check "decoded again without the clip" "$wanmpi" generate --resume half.h5 --save_file again.mp4
check "of another scale it is not the same run" not run 1 half --sample_steps 1 --src_video short.mkv --vace_scale 2

refuses 'src_mask needs --src_video' --src_mask mask.mkv
refuses 'src_mask has 14 frames and --src_video 5; cut the longer one' --src_video short.mkv --src_mask mask.mkv
refuses "task t2v-1.3B does not use it; remove it, or use --task vace-1.3B or vace-14B" --ckpt_dir model --task t2v-1.3B \
    --src_video clip.mkv
refuses 'src_ref_images a.png: No such file' --src_ref_images a.png,
refuses 'a name is missing between the commas' --src_ref_images "$references,"
refuses 'src_video .*: it is no image or clip' --src_video "$here/clips.sh"
refuses 'remove one of them' --src_video clip.mkv --input_video clip.mkv
refuses 'use those of one program' --src_video clip.mkv --vace_reference_image "$references"
refuses 'vace_video short.mkv: it has 5 frames, and --frame_num 9 needs as many' --vace_video short.mkv
refuses '15 reference images: this version takes at most 14' --src_ref_images "$(yes "$recorded/image_odd.png" | head -15 | paste -sd,)"
sed -i 's/\[0, 2\]/[0, 1]/' vace/config.json
refuses 'vace_layers has 1 for block 1 of VACE' --sample_steps 1
sed -i 's/\[0, 1\]/[0, 2]/' vace/config.json

printf '{"prompt": "a", "src_video": "short.mkv", "save_file": "b1.mp4"}\n{"prompt": "a", "src_ref_images": "%s", "save_file": "b2.mp4"}\n' \
    "$references" > jobs.jsonl
check "a batch" ranks 1 batch jobs.jsonl --ckpt_dir vace --size 64*48 --frame_num 5 --sample_steps 1 --threads 1
check "its first video" is_video b1.mp4 48 32 5
check "its second video" is_video b2.mp4 64 48 5
check "plan" "$wanmpi" plan --task vace-14B --size 832*480 --src_video clip.mkv --src_ref_images "$references" --gpus 8
cp check.log plan.log
check "plan: the frames of the references" says 'latent 16 x 6 x 4 x 6' plan.log
check "inspect" "$wanmpi" inspect vace
cp check.log inspect.log
check "inspect: the task" says 'vace-1.3B' inspect.log
check "bench" "$wanmpi" bench dit,whole --model tiny-vace --size 64*48 --frame_num 5 --repeats 1 --device cpu
summary
