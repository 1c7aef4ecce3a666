#!/bin/sh
# An error in a command line or its files: one line, printed by one rank, after the lines of progress if there
# are any; the status is not 0; no file is left.
#     cli_errors.sh WANMPI MPIRUN [its arguments]
wanmpi=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
count=0
wrong=0

bad() {
    wrong=$((wrong + 1))
    echo "$*"
    sed 's/^/    /' "$dir/err"
}

# expect LINE PROGRAM ...: a pattern that the one line must hold, and what to run
expect() {
    line=$1
    shift
    count=$((count + 1))
    before=$(ls -A "$dir/out")
    timeout -k 5 300 "$@" >"$dir/stdout" 2>"$dir/err"
    result=$?
    if [ $result = 0 ]; then
        bad "succeeded: $*"
    elif [ $result = 124 ]; then
        bad "did not end in 300 s: $*"
    elif [ "$(grep -c '^wanmpi: ' "$dir/err")" != 1 ] || ! tail -n 1 "$dir/err" | grep -q '^wanmpi: '; then
        bad "not one line, at the end: $*"
    elif grep -q -i -e mpi_abort -e mpirun -e signal -e assert "$dir/err"; then
        bad "more than our line: $*"
    elif ! grep -q "^wanmpi: .*$line" "$dir/err"; then
        bad "another line than '$line': $*"
    elif [ -s "$dir/stdout" ]; then
        bad "something on standard output: $*"
    elif [ "$(ls -A "$dir/out")" != "$before" ]; then
        bad "left something: $(ls -A "$dir/out"): $*"
    fi
}

mkdir "$dir/out" "$dir/empty"
"$wanmpi" synth --preset tiny --out "$dir/tiny" >/dev/null 2>&1 || {
    echo "cli_errors: no tiny checkpoint"
    exit 1
}
ckpt="--ckpt_dir $dir/tiny --task t2v-1.3B --size 64*64 --frame_num 5 --sample_steps 1"
ckpt="$ckpt --save_file $dir/out/a.mp4"

# The command line.
expect 'a command is needed' "$wanmpi"
expect 'no command genrate; did you mean generate?' "$wanmpi" genrate
expect 'did you mean --sample_steps?' "$wanmpi" generate --sample_stps 5
expect 'did you mean --ulysses_size?' "$@" -n 3 "$wanmpi" generate --ulyses-size 2
expect 'ckpt_dir DIR is needed' "$@" -n 3 "$wanmpi" generate --task t2v-1.3B
expect 'dit and --dit_high are the same' "$wanmpi" plan --dit a --dit_high b
expect 'none.gguf' "$wanmpi" generate --dit "$dir/none.gguf"
expect 'task t2v-14B has one transformer' "$wanmpi" plan --task t2v-14B --dit_low b
expect 'must be 4n+1; try 77 or 81' "$wanmpi" plan --frame_num 80
expect 'leaves none of the 30 blocks in fp8' "$wanmpi" plan --task t2v-1.3B --matmul fp8 --matmul_bf16_blocks 15
expect 'this version does not run it; it runs t2v-1.3B' "$@" -n 2 "$wanmpi" generate --task animate-14B
expect 'no such task; did you mean t2v-1.3B?' "$wanmpi" plan --task t2v-1.3b
echo '{"prompt": "a", "save_file": "out/b.mp4"}' >"$dir/groups.jsonl"
expect '.-groups 2 does not divide the 3 ranks of this job: all groups have the same size; choose of 1, 3' \
    "$@" -n 3 "$wanmpi" batch "$dir/groups.jsonl" --groups 2 --ckpt_dir "$dir/tiny" --task t2v-1.3B --size 64*64
expect 'generate does not use --groups' "$wanmpi" generate --groups 2
expect 'batch does not use --save_file' "$wanmpi" batch a.jsonl --save_file b.mp4
expect 'inspect needs the path' "$wanmpi" inspect
expect 'synth needs --preset NAME and --out DIR' "$wanmpi" synth
expect 'no such model; did you mean t2v-14B?' "$wanmpi" synth --preset t2v-14b --out "$dir/out/x"
expect 'dim must be heads times' "$wanmpi" synth --preset tiny --heads 3 --out "$dir/out/x"

# Lists of steps.
for list in '' 0 500,750 1001,5 1000,x; do
    expect 'denoising_steps' "$@" -n 2 "$wanmpi" generate $ckpt --denoising_steps "$list"
done
expect 'more than 64 numbers' "$wanmpi" plan --denoising_steps "$(seq -s , 1000 -1 900)"
expect 'no such preset' "$wanmpi" bench whole --preset none
expect 'cfg_size 2 needs guidance, which --preset fastwan-3 turns off' "$wanmpi" bench --preset fastwan-3 --cfg_size 2
expect 'attention_exact_blocks is for --attention 8bit' "$wanmpi" bench --attention_exact_blocks 1,1
expect 'of 30 blocks the first 15 and the last 15 stay exact' "$wanmpi" bench dit --device cpu --attention 8bit \
    --attention_exact_blocks 15,15
expect 'did you mean lightx2v-4?' "$wanmpi" plan --preset lightx2v-5
expect 'jobs.jsonl:1: denoising_steps: expected an array of numbers' sh -c "echo '{\"denoising_steps\": [1, \"x\"]}' \
    >$dir/jobs.jsonl; exec $wanmpi batch $dir/jobs.jsonl --ckpt_dir $dir/tiny"

# Guidance.
for flags in '1.5' '51' '0.5,0.4' x; do
    expect 'cfg_gate' "$wanmpi" plan --task t2v-1.3B --cfg_gate $flags
done
for flags in 0.5 '0.5,0.4' '5,0.9' '0.5,20' '10,60' '0.501,0.502'; do
    expect 'cfg_interval' "$wanmpi" plan --task t2v-1.3B --cfg_interval $flags
done
expect 'there are 4 steps' "$wanmpi" plan --sample_steps 4 --zero_init_steps 4
expect '.-cfg_zero_star needs guidance' "$wanmpi" plan --preset lightx2v-4 --cfg_zero_star

# Step caches.
expect 'cache_threshold needs --cache magcache, teacache, easycache or firstblock' "$wanmpi" plan --cache_threshold 0.1
expect 'tea_cache_l1_thresh is for --cache teacache' "$wanmpi" plan --cache easycache --tea_cache_l1_thresh 0.1
expect 'have no polynomial for task t2v-A14B: choose' "$wanmpi" plan --task t2v-A14B --cache teacache
expect 'have no table for task flf2v-14B: measure one' "$wanmpi" plan --task flf2v-14B --cache magcache
expect 'choose off, magcache, teacache, easycache or firstblock' "$wanmpi" plan --cache mag
expect 'calibrate_cache measures a whole run: remove --run_file' "$@" -n 2 "$wanmpi" generate $ckpt \
    --calibrate_cache "$dir/out/c.json" --run_file "$dir/out/a.h5"
expect 'none.json: No such file' "$@" -n 2 "$wanmpi" generate $ckpt --cache magcache --cache_ratios "$dir/none.json"
for table in '{}' '[1]' '{"cond": [1, 0]}' '{"cond": [1, 1], "uncond": [1]}' 'x'; do
    echo "$table" >"$dir/ratios.json"
    expect 'ratios.json: ' "$wanmpi" plan --cache magcache --cache_ratios "$dir/ratios.json"
done

# Files.
expect "$dir/none" "$@" -n 3 "$wanmpi" generate --ckpt_dir "$dir/none"
expect "$dir/empty" "$wanmpi" inspect "$dir/empty"
expect 'nowhere' "$@" -n 2 "$wanmpi" generate $ckpt --save_file "$dir/out/nowhere/a.mp4"
expect 'nowhere' "$@" -n 2 "$wanmpi" generate $ckpt --run_file "$dir/out/nowhere/a.h5"
expect 'nowhere' "$@" -n 2 "$wanmpi" generate $ckpt --contact_sheet "$dir/out/nowhere/a.png"
expect 'none.h5' "$@" -n 2 "$wanmpi" generate --resume "$dir/none.h5"
expect 'none.h5' "$@" -n 2 "$wanmpi" generate $ckpt --noise "$dir/none.h5"
echo text >"$dir/text.h5"
expect 'text.h5: no HDF5 file' "$@" -n 2 "$wanmpi" generate $ckpt --text "$dir/text.h5"
expect 'none.jsonl' "$@" -n 2 "$wanmpi" batch "$dir/none.jsonl" --ckpt_dir "$dir/tiny"
printf '{"prompt":"a"}\n{"promt":"b"}\n' >"$dir/jobs.jsonl"
expect 'jobs.jsonl:2: promt: no such key; did you mean prompt?' \
    "$@" -n 2 "$wanmpi" batch "$dir/jobs.jsonl" --ckpt_dir "$dir/tiny"

# Ranks that do not fit the request.
expect 'cfg' "$@" -n 3 "$wanmpi" generate $ckpt --cfg_size 2
expect 'ulysses' "$@" -n 2 "$wanmpi" generate $ckpt --ulysses_size 3

# Files of another part, and none.
expect 'has a VAE, not a text encoder' "$@" -n 2 "$wanmpi" generate $ckpt --t5 "$dir/tiny/Wan2.1_VAE.pth"
expect 'none.pth: No such file' "$@" -n 2 "$wanmpi" generate $ckpt --vae "$dir/none.pth"
expect 'empty: has no file with a VAE' "$wanmpi" generate $ckpt --vae "$dir/empty"

# A checkpoint that was cut, or lacks a part.
cp -r "$dir/tiny" "$dir/cut"
truncate -s -5 "$dir"/cut/diffusion_pytorch_model*.safetensors
expect 'diffusion_pytorch_model' "$@" -n 3 "$wanmpi" generate $ckpt --ckpt_dir "$dir/cut"
cp -r "$dir/tiny" "$dir/lacks"
rm "$dir"/lacks/Wan2.1_VAE.pth
expect 'Wan2.1_VAE.pth' "$@" -n 3 "$wanmpi" generate $ckpt --ckpt_dir "$dir/lacks"

echo "cli_errors: $count checks, $wrong failed"
[ $wrong = 0 ]
