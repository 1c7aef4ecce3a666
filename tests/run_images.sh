#!/usr/bin/env bash
# run_images.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: videos from an image end in the latents of the official programs,
# on any ranks, and go on from a run file without the image; the image matters.
golden=$(realpath "$3") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
for preset in tiny-i2v-A14B tiny-5B tiny-i2v-14B tiny-flf2v-14B; do
    synth $preset $preset
done
i2v=(--ckpt_dir tiny-i2v-A14B --size 64*48 --sample_guide_scale 3.5,3.0)
ti2v=(--ckpt_dir tiny-5B --size 128*64)
clip=(--ckpt_dir tiny-i2v-14B --size 64*48 --sample_shift 5)
flf2v=(--ckpt_dir tiny-flf2v-14B --size 64*48 --sample_guide_scale 5)
wide=$recorded/image_wide.png tall=$recorded/image_tall.png odd=$recorded/image_odd.png

frames=9
run() { # run P NAME FLAGS...
    local p=$1 name=$2
    shift 2
    ranks "$p" generate --prompt "Two cats boxing" --frame_num $frames --sample_steps 4 --base_seed 11 --threads 1 \
        --save_file "$name.mp4" --run_file "$name.h5" "$@"
}
official() { # official CASE FLAGS...
    local case=$1
    shift
    check "$case" run 1 "$case" "$@"
    check "$case ends as the official program" "$golden" "$recorded" tasks.safetensors "$case.h5" 2e-4 "$case"
}
stopped() { # stopped FLAGS...: a run from a.png that is stopped after a step
    rm -f stop.*
    "$wanmpi" generate --prompt "Two cats boxing" --frame_num $frames --base_seed 11 --threads 1 --save_file stop.mp4 \
        --run_file stop.h5 --ops ref --image a.png "$@" --sample_steps 100 &
    local job=$!
    while [ ! -s stop.h5 ] && kill -0 $job; do sleep 0.02; done
    kill -USR1 $job
    wait $job
    [ $? = 75 ]
}
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
official i2v.tall.unipc "${clip[@]}" --image "$tall"
official i2v.odd.dpm++ "${clip[@]}" --image "$odd" --sample_solver dpm++
ffmpeg -v error -i "$odd" -vf hflip last.png -y
official flf2v.odd.unipc "${flf2v[@]}" --frame_num 81 --first_frame "$odd" --last_frame last.png
official flf2v.wide.dpm++ "${flf2v[@]}" --frame_num 81 --input_image "$wide" --last_frame last.png --sample_solver dpm++
official inp.tall.euler "${clip[@]}" --task inp-1.3B --image "$tall" --sample_solver euler
official inp.wide.euler "${clip[@]}" --task inp-14B --input_image "$wide" --end_image "$odd" --sample_solver euler

# With the reference's ops, which are slow.
frames=5
clip+=(--sample_steps 3)
for task in i2v ti2v clip; do
    declare -n flags=$task
    check "$task, one rank" run 1 $task "${flags[@]}" --ops ref --image "$wide"
    meshes=("3" "4 --cfg_size 2 --ulysses_size 2 --dit_fsdp")
    [ $task != i2v ] || meshes=("3") # more of two experts: run_experts.sh
    for mesh in "${meshes[@]}"; do
        # shellcheck disable=SC2086 # the words of a mesh
        check "$task, ranks $mesh" run "${mesh%% *}" part "${flags[@]}" --ops ref --image "$wide" \
            $(echo "$mesh" | cut -s -d' ' -f2-)
        check "$task, ranks $mesh: the same bits" "$same" $task.h5 part.h5
        rm -f part.*
    done
    ffmpeg -v error -i "$wide" -vf negate turned.png -y
    check "$task, another image" run 1 other "${flags[@]}" --image turned.png
    check "$task: the image matters" moved $task.h5 other.h5
    rm -f other.*
done

# The last frame, and the image encoder, matter; no rank has other bits.
ends=("${flf2v[@]}" --first_frame "$wide" --ops ref --sample_steps 3)
check "flf2v, one rank" run 1 ends "${ends[@]}" --last_frame "$tall"
check "flf2v, ranks 2" run 2 part "${ends[@]}" --last_frame "$tall" --ulysses_size 2 --dit_fsdp
check "flf2v, ranks 2: the same bits" "$same" ends.h5 part.h5
rm part.*
check "flf2v, another last frame" run 1 other "${ends[@]}" --ops cpu --last_frame "$odd"
check "flf2v: the last frame matters" moved ends.h5 other.h5
inp=("${clip[@]}" --task inp-1.3B --ops ref --image "$wide" --end_image "$odd")
check "inp, one rank" run 1 inp "${inp[@]}"
check "inp, ranks 2" run 2 part "${inp[@]}"
check "inp, ranks 2: the same bits" "$same" inp.h5 part.h5
rm part.*

# A batch keeps the image encoder: rank 0, which alone has it, reads as much more than rank 1 for three lines as for one.
lines() { # lines COUNT NAME FLAGS...: a batch of so many images, on two ranks
    local count=$1 name=$2 image n=0
    shift 2
    for image in "$wide" "$tall" "$odd"; do
        n=$((n + 1))
        [ $n -gt "$count" ] ||
            echo "{\"prompt\": \"a\", \"image\": \"$image\", \"save_file\": \"$name.$n.mp4\", \"run_file\": \"$name.$n.h5\"}"
    done > "$name.jsonl"
    ranks 2 batch "$name.jsonl" "${clip[@]}" --frame_num 5 --sample_steps 1 --base_seed 3 --threads 1 "$@" \
        > "$name.log" 2>&1 || { cat "$name.log"; return 1; }
}
once() { # once LOG: whether rank 0 reads as much more than rank 1 as in one.log
    awk '/^memory  rank/ { mb[FILENAME, $3] = $(NF - 3) }
        END { one = mb["one.log", "0:"] - mb["one.log", "1:"]; this = mb[ARGV[2], "0:"] - mb[ARGV[2], "1:"]
            print one, this; exit !(one > 0 && this < one + 0.3) }' one.log "$1"
}
check "a batch of one image" lines 1 one
check "a batch of three images" lines 3 kept
check "the image encoder is read once" once kept.log
check "a batch that keeps no models" lines 3 freed --offload_model True
check "the image encoder is read for each image" not once freed.log
check "three images: the same bits" "$same" kept.3.h5 freed.3.h5
synth tiny-i2v-14B encoder --parts clip --seed 1
mkdir mixed
ln -s "$dir"/tiny-i2v-14B/* mixed
ln -sf "$dir"/encoder/models_clip*.pth mixed
cp -r tiny-i2v-14B bare
rm bare/models_clip*.pth
check "another image encoder" run 1 mixed "${clip[@]}" --image "$wide" --ckpt_dir mixed
check "the image encoder matters" moved clip.h5 mixed.h5

cp "$wide" a.png
check "stopped half way" stopped "${i2v[@]}"
rm a.png
check "goes on without the image" ranks 2 generate --resume stop.h5 --save_file on.mp4 --run_file on.h5
cp "$wide" a.png
check "stopped half way, with tokens" stopped "${clip[@]}"
rm a.png
check "goes on without the image" ranks 2 generate --resume stop.h5 --save_file on2.mp4 --run_file on2.h5
check "no image encoder" not "$wanmpi" generate "${clip[@]}" --ckpt_dir bare --image "$wide" --prompt a
cp check.log refused.log
check "no image encoder: the line" grep -q 'bare: the image encoder is missing' refused.log
printf '{"prompt": "a", "image": "%s", "save_file": "b1.mp4"}\n{"prompt": "a", "image": "%s", "save_file": "b2.mp4"}\n' \
    "$wide" "$tall" > jobs.jsonl
check "a batch with an image per line" ranks 2 batch jobs.jsonl "${ti2v[@]}" --frame_num 5 --sample_steps 2 --threads 1
check "the first has its aspect" is_video b1.mp4 96 64 5
check "the second has its own" is_video b2.mp4 64 96 5
check "an image is required" status 1 ranks 2 generate "${i2v[@]}" --prompt a
check "FLF2V needs a first frame" status 1 "$wanmpi" generate "${flf2v[@]}" --last_frame "$wide" --prompt a
check "a folder without the image encoder" status 2 "$wanmpi" inspect bare
mkdir -p comfy/unet comfy/clip_vision
synth tiny-i2v-14B encoder-d --diffusers --parts clip
ln -s "$dir"/tiny-i2v-14B/[cdgmW]* comfy/unet
rm comfy/unet/models_clip*.pth
ln -s "$dir"/encoder-d/image_encoder/model.safetensors comfy/clip_vision/clip_vision_h.safetensors
check "ComfyUI's folder of image encoders" run 1 comfy "${clip[@]}" --image "$wide" \
    --ckpt_dir comfy/unet/diffusion_pytorch_model.safetensors
check "T2V takes none" status 1 "$wanmpi" generate --ckpt_dir model --task t2v-1.3B --image "$wide" --prompt a
check "plan" "$wanmpi" plan --task i2v-A14B --size 832*480 --image "$wide" --gpus 8
summary
