#!/usr/bin/env bash
# run_decode_memory.sh WANMPI SAME_LATENTS NOMEM: when the memory for decoding cannot be allocated, on all
# ranks or on one, the run goes on in a way that needs less; if there is none, the latent is kept and the line
# names the command that decodes it.
if grep -qE '__(asan|hwasan|msan|tsan)_init' "$1"; then
    echo "run_decode_memory: a sanitizer has its own aligned_alloc"
    exit 77
fi
nomem=$(realpath "$3") demo=$(realpath "$(dirname "$0")/../model/demo")
. "$(dirname "$0")/run_common.sh" "$1" "$2"
run=(--ckpt_dir "$demo" --size 256*256 --frame_num 5 --sample_steps 1 --base_seed 7 --threads 1)

# limited MB RANK P COMMAND...: the ranks' devices have so much memory, or only RANK's has. The ops' workspace
# takes 67 MB, the transformer 38 with a step. The VAE in fp32 takes 164 on one rank, 88 on two; frame by frame
# 138 and 75; in bf16 half.
limited() {
    local mb=$1 only=$2 p=$3
    shift 3
    env LD_PRELOAD="$nomem" NOMEM_LIMIT="${mb}000000" ${only:+NOMEM_RANK="$only"} \
        "${mpirun[@]}" -n "$p" "$wanmpi" "$@" > log 2>&1
    status=$?
    cat log
    return $status
}
generate() { # generate MB RANK P NAME FLAGS...
    local mb=$1 only=$2 p=$3 name=$4
    shift 4
    limited "$mb" "$only" "$p" generate "${run[@]}" --prompt "a red circle" --save_file "$name.mp4" "$@"
}
ok() { is_video "$1" 256 256 5; }
comment() { ffprobe -v error -of default=nw=1:nk=1 -show_entries format_tags=comment "$1"; }
psnr_above() { # psnr_above LEAST A B
    ffmpeg -i "$2" -i "$3" -lavfi psnr -f null - 2>&1 | sed -n 's/.*average:\([0-9.inf]*\).*/\1/p' |
        awk -v least="$1" '{ print } { ok = $1 == "inf" || $1 >= least } END { exit !ok }'
}

check "enough" generate 260 "" 1 good --run_file good.h5
check "enough: no note" not grep -q instead log

check "frame by frame" generate 220 "" 1 frames
check "frame by frame: the note" grep -q '^note .*cannot allocate .*: the last layers decode frame by frame' log
check "frame by frame: nothing else" not grep -qE 'instead|transformer is freed' log
check "frame by frame: exact" psnr_above 100 frames.mp4 good.mp4
check "frame by frame: nothing is kept" test ! -e frames.mp4.h5
check "frame by frame, one rank of two" generate 150 1 2 frames2
check "frame by frame, one rank of two: one note" test "$(grep -c 'frame by frame' log)" = 1
check "frame by frame, one rank of two: nothing else" not grep -q instead log

check "bf16" generate 200 "" 1 half
check "bf16: the video" ok half.mp4
check "bf16: near" psnr_above 40 half.mp4 good.mp4
check "bf16: the note" grep -q '^note .*cannot allocate .*: decoding as with --vae_precision bf16 instead' log
check "bf16: the latent is kept" "$same" good.h5 half.mp4.h5
check "bf16: recorded in the video" grep -q '"decoded":' <(comment half.mp4)
check "bf16: goes on as requested" ranks 1 generate --resume half.mp4.h5 --save_file again.mp4
check "bf16: then exact" cmp <(ffmpeg -v error -i again.mp4 -map 0:v -c copy -f md5 -) \
    <(ffmpeg -v error -i good.mp4 -map 0:v -c copy -f md5 -)
check "bf16: no longer recorded" not grep -q '"decoded":' <(comment again.mp4)

check "one rank of two" generate 130 1 2 one --run_file one.h5
check "one rank: the video" ok one.mp4
check "one rank: one note" test "$(grep -c 'bf16 instead' log)" = 1

check "tiles" generate 122 "" 1 tiles
check "tiles: the video" ok tiles.mp4
check "tiles: near" psnr_above 25 tiles.mp4 good.mp4
check "tiles: the note" grep -q '^note .* --tiled --tile_size 15,26 --tile_stride 8,13 instead' log

check "too little" not generate 107 "" 1 none --tiled --tile_size 15,52 --tile_stride 8,26
check "too little: status" test "$status" = 4
check "too little: one line" test "$(grep -c '^wanmpi: ' log)" = 1
check "too little: the command" grep -q '^wanmpi: .*wanmpi generate --resume none.mp4.h5 decodes it' log
check "too little: no video" test ! -e none.mp4
check "too little: the latent" "$same" good.h5 none.mp4.h5
check "too little, one rank of two" not limited 80 1 2 generate --resume good.h5 --save_file never.mp4
check "too little, one rank of two: status" test "$status" = 4
check "too little, one rank of two: one line" test "$(grep -c '^wanmpi: ' log)" = 1
check "too little, one rank of two: the command" grep -q '^wanmpi: .* --resume good.h5 decodes it' log
ranks 1 generate --resume none.mp4.h5 > log 2>&1
check "too little: goes on" test $? = 0
check "too little: then without the transformer" grep -q '^memory  at most [0-9]* MB a rank (decode ' log
check "too little: then the video" ok none.mp4

printf '{"prompt": "a red circle", "save_file": "b%d.mp4"}\n' 1 2 > jobs.jsonl
check "batch" limited 240 "" 1 batch jobs.jsonl "${run[@]}"
check "batch: the transformer is freed" grep -q '^note .*: the transformer is freed' log
check "batch: nothing else" not grep -q instead log
check "batch: both" eval 'ok b1.mp4 && ok b2.mp4'
check "batch: exact" psnr_above 100 b1.mp4 good.mp4
summary
