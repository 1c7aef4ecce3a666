#!/usr/bin/env bash
# run_fun.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: the tasks of Fun end in the latents of DiffSynth-Studio, on any ranks,
# and go on from a run file without their inputs; each input matters.
golden=$(realpath "$3") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
synth tiny-control control
for preset in control-ref camera control-A14B camera-A14B i2v-A14B; do
    synth tiny-$preset $preset --parts "$(case $preset in *A14B) echo dit,dit_low ;; *) echo dit ;; esac)"
    ln -s "$dir"/control/{models,Wan,google}* $preset
done
wide=$recorded/image_wide.png tall=$recorded/image_tall.png odd=$recorded/image_odd.png
ffmpeg -v error -y -loop 1 -framerate 16 -i "$wide" -vf "crop=54:40:n:5" -frames:v 5 -c:v ffv1 -pix_fmt bgr0 clip.mkv
ffmpeg -v error -y -i clip.mkv -vf negate -c:v ffv1 -pix_fmt bgr0 other.mkv
origin=0,0.61,0.9,0.45,0.52,0,0,0.96,0.05,-0.27,0.3,-0.02,0.99,0.11,-0.1,0.28,-0.1,0.95,0.2

run() { # run P NAME FLAGS...
    local p=$1 name=$2
    shift 2
    ranks "$p" generate --prompt "Two cats boxing" --size 64*48 --frame_num 5 --sample_steps 4 --sample_solver euler \
        --base_seed 11 --threads 1 --save_file "$name.mp4" --run_file "$name.h5" "$@"
}
diffsynth() { # diffsynth CASE FLAGS...: the case begins with its checkpoint
    local case=$1
    shift
    check "$case" run 1 "$case" --ckpt_dir "${case%%.*}" "$@"
    check "$case ends as DiffSynth" "$golden" "$recorded" fun.safetensors "$case.h5" 2e-4 "$case"
}
matters() { # matters WHAT AGAINST FLAGS...: with these flags the latent is another one
    local what=$1 against=$2
    shift 2
    check "another $what" run 1 other "$@"
    check "the $what matters" moved "$against.h5" other.h5
    rm -f other.h5
}
refuses() { # refuses LINE FLAGS...
    local line=$1
    shift
    check "refused: $line" not run 1 refused "$@"
    cp check.log refused.log
    check "the line: $line" says "$line" refused.log
}

diffsynth control --control_video clip.mkv
diffsynth control.image --control_video clip.mkv --image "$tall"
diffsynth control-ref.none --control_video clip.mkv
diffsynth control-ref --control_video clip.mkv --reference_image "$odd"
diffsynth control-ref.image --control_video clip.mkv --reference_image "$odd" --input_image "$tall"
diffsynth camera.LeftUp --image "$tall" --camera_control_direction LeftUp
diffsynth camera.In --image "$tall" --camera_control_direction In --camera_control_speed 0.1 \
    --camera_control_origin $origin
mv i2v-A14B inp-A14B
diffsynth inp-A14B --task inp-A14B --image "$wide" --end_image "$odd"
diffsynth control-A14B --control_video clip.mkv
diffsynth control-A14B.ref --control_video clip.mkv --reference_image "$odd"
diffsynth camera-A14B --image "$tall" --camera_control_direction RightDown

synth tiny-speed speed
mkdir apart
mv speed/motion_controller apart
diffsynth speed --motion_bucket_id 70 --motion_controller apart/motion_controller/model.safetensors

# Each input matters; what VideoX-Fun does otherwise.
ref=(--ckpt_dir control-ref --control_video clip.mkv --reference_image "$odd")
pair=(--ckpt_dir control-A14B --control_video clip.mkv)
camera=(--ckpt_dir camera --image "$tall")
check "the start image matters" moved control.h5 control.image.h5
check "the reference matters" moved control-ref.none.h5 control-ref.h5
check "the reference of two experts matters" moved control-A14B.h5 control-A14B.ref.h5
check "the path of the camera matters" moved camera.LeftUp.h5 camera.In.h5
matters "control" control --ckpt_dir control --control_video other.mkv
matters "image" camera.LeftUp "${camera[@]}" --image "$wide" --camera_control_direction LeftUp
speed=(--ckpt_dir speed --motion_controller apart/motion_controller/model.safetensors)
matters "speed" speed "${speed[@]}" --motion_bucket_id 10
"$wanmpi" inspect apart/motion_controller/model.safetensors > inspect.log 2>&1
check "inspect knows the controller" says "the tensors of speed-tiny" inspect.log
matters "missing reference, as VideoX-Fun has it," control-ref.none --ckpt_dir control-ref --control_video clip.mkv \
    --fun_official
matters "start image, encoded alone," control.image --ckpt_dir control --control_video clip.mkv --image "$tall" \
    --fun_official
matters "start image of two experts" control-A14B "${pair[@]}" --image "$tall" --fun_official

# On several ranks, of which test_features.c has all numbers; a file of poses that says the same.
few=(--sample_steps 2)
cp clip.mkv a.mkv
check "one rank" run 1 one "${ref[@]}" "${few[@]}" --control_video a.mkv
check "3 ranks, sharded" run 3 part "${ref[@]}" "${few[@]}" --dit_fsdp
check "3 ranks, sharded: the same bits" "$same" one.h5 part.h5
windows=(--sliding_window_size 1 --sliding_window_stride 1)
check "in windows" run 1 windows "${ref[@]}" "${few[@]}" "${windows[@]}"
check "in windows, 3 ranks" run 3 windows-3 "${ref[@]}" "${few[@]}" "${windows[@]}" --cfg_size 1
check "in windows, 3 ranks: the same bits" "$same" windows.h5 windows-3.h5
{
    echo title
    for n in 0 1 2 3 4; do
        echo "0 0.532139961 0.946026558 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 -0.$n"
    done
} > poses.txt
cp poses.txt a.txt
check "a file of poses" run 1 posed "${camera[@]}" "${few[@]}" --control_camera_txt a.txt
check "the same direction, 2 ranks sharded" run 2 moved "${camera[@]}" "${few[@]}" --camera_control_direction In \
    --camera_control_speed 0.1 --dit_fsdp --cfg_size 1
check "the same direction, 2 ranks sharded: near" "$same" posed.h5 moved.h5 1e-6

# Runs that go on, batches, plans.
cp other.mkv a.mkv
sed -i s/0.3/0.4/ a.txt
check "another clip under the name" not run 1 one "${ref[@]}" "${few[@]}" --control_video a.mkv
check "other poses under the name" not run 1 posed "${camera[@]}" "${few[@]}" --control_camera_txt a.txt
rm a.mkv a.txt
check "goes on without the clip" "$wanmpi" generate --resume one.h5 --save_file on.mp4 --run_file on.h5
check "goes on without the poses" "$wanmpi" generate --resume posed.h5 --save_file on2.mp4 --run_file on2.h5
printf '{"prompt": "a", "image": "%s", "camera_control_direction": "%s", "save_file": "%s.mp4"}\n' "$tall" Left b1 \
    "$wide" Up b2 > jobs.jsonl
check "a batch with a direction per line" "$wanmpi" batch jobs.jsonl --ckpt_dir camera --size 64*48 --frame_num 1 \
    --sample_steps 1 --threads 1
check "has both" test -s b2.png -o -s b2.mp4
check "plan" "$wanmpi" plan --task camera-A14B --size 832*480 --gpus 2
check "plan with a reference" "$wanmpi" plan --task control-ref-1.3B --reference_image "$odd" --control_video clip.mkv \
    --frame_num 5 --gpus 1
cp check.log plan.log

# One line each.
refuses "task control-1.3B does not use it" --ckpt_dir control --control_video clip.mkv --reference_image "$odd"
refuses "has 5 frames, and --frame_num 9 needs as many" --ckpt_dir control --control_video clip.mkv --frame_num 9
refuses "task control-1.3B needs --control_video" --ckpt_dir control
refuses "DiffSynth does not use it in task control-A14B" "${pair[@]}" --image "$tall"
refuses "last_frame needs --image" "${pair[@]}" --last_frame "$tall" --fun_official
refuses "fun_official is for the tasks of Fun Control" --ckpt_dir camera --image "$tall" --fun_official
refuses "needs --camera_control_direction" --ckpt_dir camera --image "$tall"
refuses "are two paths of the camera" "${camera[@]}" --camera_control_direction In --control_camera_txt poses.txt
refuses "camera_control_speed needs" --ckpt_dir camera --image "$tall" --control_camera_txt poses.txt \
    --camera_control_speed 1
refuses "3 numbers; a pose has 19" "${camera[@]}" --camera_control_direction In --camera_control_origin 1,2,3
refuses "it has 5 poses after its first line, and the video 9 frames" "${camera[@]}" --frame_num 9 \
    --control_camera_txt poses.txt
refuses "does not divide the path of a camera into windows" "${camera[@]}" --camera_control_direction In \
    --sliding_window_size 1 --sliding_window_stride 1
refuses "the motion controller is missing" --ckpt_dir speed --motion_bucket_id 1
refuses "motion_controller needs --motion_bucket_id" "${speed[@]}"
refuses "motion_bucket_id" "${speed[@]}" --motion_bucket_id -5
synth tiny wide --dim 256 --parts dit
ln -s "$dir"/speed/{models,Wan,google}* wide
refuses "is for a transformer of width 128, and this one has 256" "${speed[@]}" --ckpt_dir wide --motion_bucket_id 1
refuses "does not use it" --ckpt_dir control --control_video clip.mkv --camera_control_direction In
summary
