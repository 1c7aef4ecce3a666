#!/usr/bin/env bash
# batch.sh BUILD [REQUESTS]: 300 requests in one `batch`, on one rank and on two. For every rank, the mean resident
# memory and the fewest open files during the last 20 requests, against those during the 20th to 40th: within 1 %,
# and no more files.
. "$(dirname "$0")/common.sh" "$1"
count=${2:-300}
demo=(--task t2v-1.3B --ckpt_dir "$faults/../../model/demo" --sample_steps 2 --threads 1 --precision fp32)
for ((i = 1; i <= count; i++)); do # sizes, lengths and prompts change
    printf '{"prompt": "a red circle, number %d", "base_seed": %d, "size": "%s", "frame_num": %d}\n' \
        $((i % 7)) "$i" "$([ $((i % 3)) = 0 ] && echo 48*32 || echo 32*32)" $((5 + 4 * (i % 2)))
done > jobs.jsonl

# figures PID WINDOW: adds to figure[WINDOW RANK]: the sum of the resident kB, their number, the fewest open files
figures() {
    local rank kb files old
    rank=$(tr '\0' '\n' < "/proc/$1/environ" | sed -n 's/^OMPI_COMM_WORLD_RANK=//p')
    kb=$(awk '/^VmRSS/ { print $2 }' "/proc/$1/status")
    files=$(find "/proc/$1/fd" -mindepth 1 | wc -l)
    [ -n "$rank" ] && [ -n "$kb" ] && [ "$files" -gt 0 ] || return
    read -r -a old <<< "${figure[$2 $rank]:-0 0 $files}"
    figure[$2 $rank]="$((old[0] + kb)) $((old[1] + 1)) $((files < old[2] ? files : old[2]))"
}
videos() { find "videos$ranks" -name '*.mp4' 2> /dev/null | wc -l; }

declare -A figure
printf '%-6s %5s %14s %14s %8s %6s %6s\n' ranks rank 'kB at 20 to 40' 'kB at the end' growth files files
for ranks in 1 2; do
    mkdir "videos$ranks"
    (cd "videos$ranks" && exec "${mpirun[@]}" -n $ranks "$wanmpi" batch ../jobs.jsonl "${demo[@]}") > log 2>&1 &
    job=$!
    figure=()
    while kill -0 $job 2> /dev/null; do
        now=$(videos)
        window=
        [ "$now" -lt 20 ] || [ "$now" -ge 40 ] || window=first
        [ "$now" -lt $((count - 20)) ] || window=last
        for pid in $([ -z $window ] || pgrep -P $job wanmpi); do
            figures "$pid" $window 2> /dev/null
        done
        sleep 0.02
    done
    wait $job
    status=$?
    if [ $status != 0 ] || [ "$(videos)" != "$count" ]; then
        wrong=$((wrong + 1))
        echo "status $status, $(videos) videos"
        tail -n 5 log
    fi
    for ((rank = 0; rank < ranks; rank++)); do
        rows=$((rows + 1))
        read -r kb n files <<< "${figure[first $rank]:-0 1 0}"
        read -r kb2 n2 files2 <<< "${figure[last $rank]:-0 1 0}"
        kb=$((kb / n)) kb2=$((kb2 / n2))
        growth=$(awk -v a="$kb" -v b="$kb2" 'BEGIN { printf "%.2f %%", a ? 100 * (b / a - 1) : 100 }')
        printf '%-6s %5s %14s %14s %8s %6s %6s\n' "$ranks" "$rank" "$kb" "$kb2" "$growth" "$files" "$files2"
        awk -v a="$kb" -v b="$kb2" 'BEGIN { exit !(a > 0 && b > 0 && b <= 1.01 * a) }' && [ "$files2" -le "$files" ] ||
            wrong=$((wrong + 1))
    done
done
summary
