#!/bin/sh
# wanmpi bench on a small model: every part runs, on one and on two ranks, and writes its files.
#     bench.sh WANMPI MPIRUN [its arguments]
wanmpi=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
count=0
wrong=0
small="--model tiny --size 64*64 --frame_num 5 --device cpu --repeats 2 --threads 1"

expect() { # PATTERN FILE
    count=$((count + 1))
    grep -q -e "$1" "$2" || {
        wrong=$((wrong + 1))
        echo "no '$1' in $2:"
        head -c 2000 "$2"
    }
}

# shellcheck disable=SC2086 # the words of $small
"$wanmpi" bench gemm,attention,conv,fused,comm,text,dit,vae,vae_encode,whole $small --json "$dir/one.json" \
    --hdf5 "$dir/one.h5" >"$dir/one" 2>&1 || wrong=$((wrong + 1))
for part in gemm attention conv fused text dit vae vae_encode whole; do
    expect "^$part .* [0-9.]* [mu]*s " "$dir/one"
    expect "\"test\":	\"$part\"" "$dir/one.json"
done
expect '^  self attention ' "$dir/one"
expect '^  between ops ' "$dir/one"
expect 'one rank has nothing to communicate' "$dir/one"
expect '"family":	"gemm"' "$dir/one.json"
expect HDF "$dir/one.h5"
expect median_s "$dir/one.h5"

# weights that are expanded when they are needed
for type in q8_0 fp8; do
    # shellcheck disable=SC2086
    "$wanmpi" bench dit $small --weights $type >"$dir/stored" 2>&1 || wrong=$((wrong + 1))
    expect '^weights matrices of blocks stay as they are in the file' "$dir/stored"
    expect '^  expand ' "$dir/stored"
done

# a model of each task, with what its transformer takes beside text and the steps of the task
each="--size 64*64 --frame_num 5 --device cpu --repeats 1 --threads 1 --vae_precision bf16"
while read -r model steps frames; do
    # shellcheck disable=SC2086
    "$wanmpi" bench whole --model $model $each --json "$dir/model.json" >"$dir/model" 2>&1 </dev/null ||
        wrong=$((wrong + 1))
    image=
    [ -z "$frames" ] || image='an image, '
    expect "^whole .*: ${image}two texts, $steps guided steps, decoding" "$dir/model"
    expect '^vae .* 5 frames of 64\*64, bf16 ' "$dir/model"
    expect '"vae_precision":	"bf16"' "$dir/model.json"
    if [ -n "$frames" ]; then
        expect "^image .*, first of $frames frames" "$dir/model"
    elif grep '^image' "$dir/model"; then
        wrong=$((wrong + 1))
    fi
done <<MODELS
tiny-5B 50
tiny-A14B 40
tiny-i2v-A14B 40 5
tiny-i2v-14B 40 5
tiny-flf2v-14B 50 5
MODELS
# shellcheck disable=SC2086
"$wanmpi" bench vae_encode,whole --model tiny-5B --with_image $each >"$dir/model" 2>&1 ||
    wrong=$((wrong + 1))
expect '^vae_encode .*encode 5 frames' "$dir/model"
expect '^image .*, first of 1 frames' "$dir/model"
expect '^whole .*: an image, two texts, 50 guided steps' "$dir/model"

# shellcheck disable=SC2086
"$@" -n 2 "$wanmpi" bench comm,dit $small --ulysses_size 2 --dit_fsdp --trace "$dir/trace" \
    >"$dir/two" 2>&1 || wrong=$((wrong + 1))
expect '^comm .*Ulysses.* 2 ranks' "$dir/two"
expect '^  all-to-all .*hidden$' "$dir/two"
expect '"pid":0.*"name":"rank 0"\|"pid":0,"args":{"name":"rank 0"}' "$dir/trace"
expect '"name":"all-to-all","cat":"communication","pid":1' "$dir/trace"

# shellcheck disable=SC2086
"$@" -n 2 "$wanmpi" bench dit $small --trace /dev/full >"$dir/full" 2>&1
[ $? = 2 ] && [ "$(grep -c '^wanmpi: ' "$dir/full")" = 1 ] || wrong=$((wrong + 1))
expect '^wanmpi: /dev/full: ' "$dir/full"

# shellcheck disable=SC2086
"$@" -n 4 "$wanmpi" bench scale,scale_vae,scale_encode $small --json "$dir/scale.json" >"$dir/scale" 2>&1 ||
    wrong=$((wrong + 1))
expect '^4 ranks, ulysses 4 .* equal ' "$dir/scale"
expect '^4 ranks, cfg 2 x ulysses 2, sharded: step .* equal ' "$dir/scale"
expect '^2 ranks  .* equal ' "$dir/scale"
expect '^scale_encode 4 ranks ' "$dir/scale"
expect '"same_bits":	true' "$dir/scale.json"
sed -n '/^scale_vae .*seconds/,$p' "$dir/scale" >"$dir/scale_vae"
[ "$(grep -c '^[124] ranks* .* equal ' "$dir/scale_vae")" = 8 ] || { # each decode and encode
    wrong=$((wrong + 1))
    cat "$dir/scale_vae"
}
count=$((count + 1))
# one rank is timed first and last
[ "$(grep -c '^1 rank ' "$dir/scale")" = 6 ] || wrong=$((wrong + 1))
count=$((count + 1))

"$wanmpi" bench gemms --model tiny >"$dir/bad" 2>&1 && wrong=$((wrong + 1))
expect 'bench gemms: no such part' "$dir/bad"
"$wanmpi" bench gemm --model 15B >"$dir/bad" 2>&1 && wrong=$((wrong + 1))
expect '15B: no such model' "$dir/bad"
"$wanmpi" bench dit --model animate-14B >"$dir/bad" 2>&1 && wrong=$((wrong + 1))
expect 'animate-14B: this version does not run this model' "$dir/bad"
"$wanmpi" bench dit --model i2v-A14B --with_image >"$dir/bad" 2>&1 && wrong=$((wrong + 1))
expect 'task i2v-A14B always has an image' "$dir/bad"
echo "bench: $count checks, $wrong failed"
[ $wrong = 0 ]
