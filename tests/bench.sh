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
"$wanmpi" bench gemm,attention,conv,fused,comm,text,dit,vae,whole $small --json "$dir/one.json" \
    --hdf5 "$dir/one.h5" >"$dir/one" 2>&1 || wrong=$((wrong + 1))
for part in gemm attention conv fused text dit vae whole; do
    expect "^$part .* [0-9.]* [mu]*s " "$dir/one"
    expect "\"test\":	\"$part\"" "$dir/one.json"
done
expect '^  self attention ' "$dir/one"
expect '^  between ops ' "$dir/one"
expect 'one rank has nothing to communicate' "$dir/one"
expect '"family":	"gemm"' "$dir/one.json"
expect HDF "$dir/one.h5"
expect median_s "$dir/one.h5"

# shellcheck disable=SC2086
"$@" -n 2 "$wanmpi" bench comm,dit $small --ulysses_size 2 --dit_fsdp --trace "$dir/trace" \
    >"$dir/two" 2>&1 || wrong=$((wrong + 1))
expect '^comm .*Ulysses.* 2 ranks' "$dir/two"
expect '^  all-to-all .*hidden$' "$dir/two"
expect '"pid":0.*"name":"rank 0"\|"pid":0,"args":{"name":"rank 0"}' "$dir/trace"
expect '"name":"all-to-all","cat":"communication","pid":1' "$dir/trace"

# shellcheck disable=SC2086
"$@" -n 4 "$wanmpi" bench scale,scale_vae $small --json "$dir/scale.json" >"$dir/scale" 2>&1 ||
    wrong=$((wrong + 1))
expect '^4 ranks, ulysses 4 .* equal ' "$dir/scale"
expect '^4 ranks, cfg 2 x ulysses 2, sharded: step .* equal ' "$dir/scale"
expect '^2 ranks  .* equal ' "$dir/scale"
expect '"same_bits":	true' "$dir/scale.json"
# one rank is timed first and last
[ "$(grep -c '^1 rank ' "$dir/scale")" = 4 ] || wrong=$((wrong + 1))
count=$((count + 1))

"$wanmpi" bench gemms --model tiny >"$dir/bad" 2>&1 && wrong=$((wrong + 1))
expect 'bench gemms: no such part' "$dir/bad"
"$wanmpi" bench gemm --model 15B >"$dir/bad" 2>&1 && wrong=$((wrong + 1))
expect '15B: no such model' "$dir/bad"
echo "bench: $count checks, $wrong failed"
[ $wrong = 0 ]
