#!/usr/bin/env bash
# run_images.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: videos from an image end in the latents of the official programs,
# on any ranks, and go on from a run file without the image; the image matters.
golden=$(realpath "$3") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
for preset in tiny-i2v-A14B tiny-5B; do
    "$wanmpi" synth --preset $preset --out $preset > synth.log 2>&1 || cat synth.log
done
i2v=(--ckpt_dir tiny-i2v-A14B --size 64*48 --sample_guide_scale 3.5,3.0)
ti2v=(--ckpt_dir tiny-5B --size 128*64)
wide=$recorded/image_wide.png tall=$recorded/image_tall.png odd=$recorded/image_odd.png

run() { # run P NAME FLAGS...
    local p=$1 name=$2
    shift 2
    ranks "$p" generate --prompt "Two cats boxing" --frame_num 9 --sample_steps 4 --base_seed 11 --threads 1 \
        --save_file "$name.mp4" --run_file "$name.h5" "$@"
}
official() { # official CASE FLAGS...
    local case=$1
    shift
    check "$case" run 1 "$case" "$@"
    check "$case ends as the official program" "$golden" "$recorded" tasks.safetensors "$case.h5" 2e-4 "$case"
}
moved() { not "$same" "$1" "$2" 1e-2; } # by over 1 %
status() { # status N COMMAND...
    local want=$1
    shift
    "$@" > status.log 2>&1
    [ $? = "$want" ]
}

official t2v.unipc --ckpt_dir model --task t2v-1.3B --size 64*48
official i2v-A14B.tall.unipc "${i2v[@]}" --image "$tall"
official i2v-A14B.odd.dpm++ "${i2v[@]}" --image "$odd" --sample_solver dpm++
official ti2v.unipc "${ti2v[@]}"
official ti2v.dpm++ "${ti2v[@]}" --sample_solver dpm++
official ti2v.wide.unipc "${ti2v[@]}" --image "$wide"
official ti2v.tall.dpm++ "${ti2v[@]}" --input_image "$tall" --sample_solver dpm++

for task in i2v ti2v; do
    declare -n flags=$task
    check "$task, one rank" run 1 $task "${flags[@]}" --ops ref --image "$wide"
    for mesh in "2 --cfg_size 2" "2 --ulysses_size 2" "3" "4 --cfg_size 2 --ulysses_size 2 --dit_fsdp"; do
        # shellcheck disable=SC2086 # the words of a mesh
        check "$task, ranks $mesh" run "${mesh%% *}" part "${flags[@]}" --ops ref --image "$wide" \
            $(echo "$mesh" | cut -s -d' ' -f2-)
        check "$task, ranks $mesh: the same bits" "$same" $task.h5 part.h5
        rm -f part.*
    done
    ffmpeg -v error -i "$wide" -vf negate turned.png -y
    check "$task, another image" run 1 other "${flags[@]}" --ops ref --image turned.png
    check "$task: the image matters" moved $task.h5 other.h5
    rm -f other.*
done

cp "$wide" a.png
check "stopped half way" status 75 bash -c '
    "$@" & pid=$!
    while [ ! -s stop.h5 ] && kill -0 $pid; do sleep 0.02; done
    kill -USR1 $pid; wait $pid' sh "$wanmpi" generate --prompt "Two cats boxing" --frame_num 9 --sample_steps 400 \
    --base_seed 11 --threads 1 --save_file stop.mp4 --run_file stop.h5 --ops ref "${i2v[@]}" --image a.png
rm a.png
check "goes on without the image" ranks 2 generate --resume stop.h5 --save_file on.mp4 --run_file on.h5
printf '{"prompt": "a", "image": "%s", "save_file": "b1.mp4"}\n{"prompt": "a", "image": "%s", "save_file": "b2.mp4"}\n' \
    "$wide" "$tall" > jobs.jsonl
check "a batch with an image per line" ranks 2 batch jobs.jsonl "${ti2v[@]}" --frame_num 5 --sample_steps 2 --threads 1
check "the first has its aspect" is_video b1.mp4 96 64 5
check "the second has its own" is_video b2.mp4 64 96 5
check "an image is required" status 1 ranks 2 generate "${i2v[@]}" --prompt a
check "T2V takes none" status 1 "$wanmpi" generate --ckpt_dir model --task t2v-1.3B --image "$wide" --prompt a
check "plan" "$wanmpi" plan --task i2v-A14B --size 832*480 --image "$wide" --gpus 8
summary
