#!/usr/bin/env bash
# run_s2v.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: two clips of a sound end in the latents of the official program, on
# two ranks with sharded weights, and on one rank when stopped between the clips and going on on two; the video gets
# the sound.
golden=$(realpath "$3") here=$(dirname "$(realpath "$0")") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
synth tiny-s2v s2v --seed 1
check "inputs" "$here/make_s2v_inputs.sh" .
s2v=(--ckpt_dir s2v --image "$recorded/image_tall.png" --audio sound.wav --size 64*64 --infer_frames 12 --num_clip 2
     --sample_steps 2 --base_seed 11 --prompt "Two cats boxing" --threads 1)
run() { # run P NAME FLAGS...
    local p=$1 name=$2
    shift 2
    ranks "$p" generate "${s2v[@]}" --save_file "$name.mp4" --run_file "$name.h5" "$@"
}
stopped() { # stopped NAME CLIP FLAGS...: a run that is stopped in that clip
    local name=$1 clip=$2
    shift 2
    "$wanmpi" generate "${s2v[@]}" --save_file "$name.mp4" --run_file "$name.h5" "$@" > stop.log 2>&1 &
    local job=$!
    while ! grep -q "^clip *$clip of" stop.log && kill -0 $job; do sleep 0.02; done
    kill -USR1 $job
    wait $job
    [ $? = 75 ] && grep -q "of clip $clip of 2; to go on\|while decoding; to go on" stop.log
}
refused() { # refused LINE FLAGS...: one line, before anything is loaded
    local line=$1
    shift
    "$wanmpi" generate "${s2v[@]}" --save_file no.mp4 "$@" > refused.log 2>&1
    check "refused: $line" test $? != 0 -a "$(grep -c '^wanmpi: ' refused.log)" = 1
    check "a line that says it: $line" says "^wanmpi: .*$line" refused.log
}

check "poses, from the image, 2 ranks" run 2 all --pose_video poses.mkv --start_from_ref --dit_fsdp
check "ends as the official program" "$golden" "$recorded" s2v_task.safetensors all.h5 2e-4 all
check "stopped in the second clip" stopped sound 2
rm -f sound.mp4
check "goes on, on 2 ranks" ranks 2 generate --resume sound.h5
check "ends as the official program" "$golden" "$recorded" s2v_task.safetensors sound.h5 2e-4 sound
check "the inputs matter" moved sound.h5 all.h5
check "the video" is_video sound.mp4 64 64 21
check "the sound's length" test "$(ffprobe -v error -select_streams a -show_entries stream=codec_name,duration \
    -of csv=p=0 sound.mp4 | sed 's/\(aac,1\.[23]\).*/\1/')" = aac,1.3
check "planned" "$wanmpi" plan "${s2v[@]}"

ffmpeg -v error -y -f lavfi -i aevalsrc=0:d=0.01:s=16000 -c:a pcm_s16le short.wav
ffmpeg -v error -y -i "$recorded/sound.mp3" -ac 2 stereo.mp3
cat "$recorded/sound.mp3" stereo.mp3 > both.mp3
refused "No such file" --audio none.wav
refused "the rate or the channels of its samples change" --audio both.mp3
refused "its clips have their own length" --context_frames 5 --context_overlap 4
refused "multiple of 4; try 12" --infer_frames 10
refused "needs at least 0.05 s" --audio short.wav
refused "follows from --audio" --frame_num 81
refused "pass its file with --audio" --tts_text hello
refused "16 frames a second" --fps 24
summary
