#!/usr/bin/env bash
# offload.sh WANMPI: on one GPU of 80 GB or more, a forward with all weights on the GPU and within --vram_limit, for the
# models, sizes and limits of the table below, each in a process of its own. Prints seconds, their ratio, the blocks
# that stay on the GPU, and the GPU memory in use. A14B times one expert, with the memory of one.
set -u
wanmpi=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

forward() { # NAME FLAGS...: seconds of a forward
    local name=$1
    shift
    "$wanmpi" bench dit --device cuda --repeats 5 --json "$dir/$name.json" "$@" > "$dir/$name.txt" || return 1
    python3 -c 'import json, sys
print(next(r["median_s"] for r in json.load(open(sys.argv[1]))["results"] if r["test"] == "dit"))' "$dir/$name.json"
}
while read -r model size limit; do
    whole=$(forward whole --model "$model" --size "$size") || exit 1
    within=$(forward within --model "$model" --size "$size" --vram_limit "$limit") || exit 1
    awk -v m="$model" -v s="$size" -v l="$limit" -v a="$whole" -v b="$within" 'BEGIN {
        printf "%-5s %-9s resident %.3f s, within %g GB %.3f s: %.3f times\n", m, s, a, l, b, b / a }'
    grep -E '^weights|in use' "$dir/within.txt" | sed 's/^/      /'
done << 'END'
14B 832*480 16
14B 1280*720 24
1.3B 832*480 4
A14B 832*480 24
END
