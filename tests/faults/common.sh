# shellcheck shell=bash
# common.sh - what the fault campaigns share: a temporary folder, a small run with the demo checkpoint, a table.
# Each campaign is called with the same arguments and includes it:
#     . "$(dirname "$0")/common.sh" "$@"           # BUILD [quick]
# A row of the table is printed by `row`; the last line by `summary`, which exits with 1 after a wrong row.
set -u
faults=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
build=$(realpath "$1") quick=${2:-}
wanmpi=$build/wanmpi same=$build/tests/same_latents failio=$build/tests/failio.so
dir=$(realpath "$(mktemp -d)")
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
export TMPDIR=$dir # Open MPI's files too
mpirun=(mpirun -q --oversubscribe --bind-to none)
demo=(--task t2v-1.3B --ckpt_dir "$faults/../../model/demo" --size 32*32 --frame_num 5 --sample_steps 2
      --base_seed 7 --threads 1 --prompt "a red circle" --precision fp32)
rows=0 wrong=0

# no_sanitizer WHY: skips the campaign for a program with a sanitizer
no_sanitizer() {
    grep -qE '__(asan|hwasan|msan|tsan)_init' "$wanmpi" || return 0
    echo "$(basename "$0" .sh): a sanitizer $1"
    exit 77
}

# ranks_in FOLDER: the processes of the program that work in this folder, one to a line; another campaign on the
# same build has its own
ranks_in() {
    local pid
    for pid in $(pgrep -f "^$wanmpi "); do
        [ "$(readlink "/proc/$pid/cwd")" != "$dir/$1" ] || echo "$pid"
    done
}
alive_in() { [ -n "$(ranks_in "$1")" ]; }
kill_in() { # kill_in FOLDER
    local pids
    mapfile -t pids < <(ranks_in "$1")
    [ ${#pids[@]} = 0 ] || kill -KILL "${pids[@]}" 2> /dev/null
}
stream() { # the video in an mp4, without the request that is stored with it
    ffmpeg -v error -i "$1" -map 0:v -c copy -f md5 -
}

# timed COMMAND...: its output in `log`; sets $status, $seconds, and $lines, the number of our error lines
timed() {
    local start=$EPOCHREALTIME
    timeout -k 5 120 "$@" > "$dir/log" 2>&1
    status=$?
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    lines=$(grep -c '^wanmpi: ' "$dir/log")
}

head_row() {
    printf '%-44s %7s %5s %6s  %-9s %s\n' case seconds lines status disk resumed
}

# row CASE DISK RESUMED: `disk` and `resumed` are words; one that begins with "wrong" counts
row() {
    rows=$((rows + 1))
    printf '%-44s %7s %5s %6s  %-9s %s\n' "$1" "$seconds" "$lines" "$status" "$2" "$3"
    case $2$3 in
    *wrong*)
        wrong=$((wrong + 1))
        tail -n 5 "$dir/log" | sed 's/^/    /'
        ;;
    esac
}

summary() {
    echo "$(basename "$0" .sh): $rows cases, $wrong wrong"
    [ "$wrong" = 0 ] && [ "$rows" -gt 0 ]
}
