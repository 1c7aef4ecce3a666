#!/bin/sh
# Videos per hour of `wanmpi batch` for each number of groups that divides the ranks, and whether the videos are the
# same files:
#     bench/groups.sh BUILD CKPT_DIR [RANKS] [REQUESTS] [FLAGS...]
# CKPT_DIR is made with random weights (t2v-1.3B) if it is not there. Two rounds, in alternating order: the first also
# reads the weights into the page cache. As for the bar of 2 GPUs, 8 requests of 1.3B at 480P:
#     bench/groups.sh build /tmp/t2v-1.3B 2 8
# MPIRUN and its arguments can be set.
set -eu
wanmpi=$(realpath "$1/wanmpi") ckpt=$2 ranks=${3:-2} count=${4:-8}
shift $(($# < 4 ? $# : 4))
mpirun=${MPIRUN:-mpirun -q --bind-to none}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
[ -d "$ckpt" ] || "$wanmpi" synth --preset t2v-1.3B --out "$ckpt" >/dev/null
ckpt=$(realpath "$ckpt")
i=0
while [ $i -lt "$count" ]; do
    i=$((i + 1))
    printf '{"prompt": "A cat surfs on wave number %d", "base_seed": %d, "save_file": "%d.mp4"}\n' $i $i $i
done >"$scratch/jobs.jsonl"

batch() { # ROUND GROUPS FLAGS...
    folder=$scratch/$1-$2 groups=$2
    shift 2
    mkdir "$folder"
    # shellcheck disable=SC2086 # words of a command
    (cd "$folder" && $mpirun -n "$ranks" "$wanmpi" batch ../jobs.jsonl --task t2v-1.3B --ckpt_dir "$ckpt" \
        --size 832*480 --groups "$groups" "$@" >log 2>&1) || {
        tail -n 5 "$folder/log"
        exit 1
    }
    printf '%d x %d ranks: %s; %s\n' "$groups" $((ranks / groups)) "$(sed -n 's/^done *//p' "$folder/log")" \
        "$(cat "$folder"/[0-9]*.mp4 | md5sum | cut -c 1-8)"
}
numbers=$(seq "$ranks" | awk -v n="$ranks" 'n % $1 == 0')
echo "groups x ranks: time; first digits of the videos' MD5"
for round in 1 2; do
    for groups in $numbers; do
        batch $round "$groups" "$@"
    done
    numbers=$(echo "$numbers" | sort -nr)
done
