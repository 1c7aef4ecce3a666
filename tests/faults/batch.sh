#!/usr/bin/env bash
# batch.sh BUILD [REQUESTS]: 300 requests in one `batch` (`quick`: 70), on one rank and on two. For every rank, the
# mean resident memory and the fewest open files during the last window of requests, against those during the first
# after as many: within 1 %, and at most the 4 files more that one video has open, when none of its moments with fewer
# was seen. A window has each size with each length and prompt.
. "$(dirname "$0")/common.sh" "$1"
no_sanitizer "keeps what was freed"
count=${2:-300} window=42 prompts=7
[ "$count" != quick ] || count=70 window=18 prompts=3
demo=(--task t2v-1.3B --ckpt_dir "$faults/../../model/demo" --sample_steps 2 --threads 1 --precision fp32)
for ((i = 1; i <= count; i++)); do # sizes, lengths and prompts change
    printf '{"prompt": "a red circle, number %d", "base_seed": %d, "size": "%s", "frame_num": %d}\n' \
        $((i % prompts)) "$i" "$([ $((i % 3)) = 0 ] && echo 48*32 || echo 32*32)" $((5 + 4 * (i % 2)))
done > jobs.jsonl

# figures PID NAME: adds to figure[NAME RANK]: the sum of the resident kB, their number, the fewest open files
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
printf '%-6s %5s %14s %14s %8s %6s %6s\n' ranks rank 'kB at first' 'kB at the end' growth files files
for ranks in 1 2; do
    mkdir "videos$ranks"
    (cd "videos$ranks" && exec "${mpirun[@]}" -n $ranks "$wanmpi" batch ../jobs.jsonl "${demo[@]}") > log 2>&1 &
    job=$!
    figure=()
    while kill -0 $job 2> /dev/null; do
        now=$(videos)
        name=
        [ "$now" -lt $window ] || [ "$now" -ge $((2 * window)) ] || name=first
        # after the last but one, the models are freed
        [ "$now" -lt $((count - 1 - window)) ] || [ "$now" -ge $((count - 1)) ] || name=last
        for pid in $([ -z $name ] || pgrep -P $job wanmpi); do
            figures "$pid" $name 2> /dev/null
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
        awk -v a="$kb" -v b="$kb2" 'BEGIN { exit !(a > 0 && b > 0 && b <= 1.01 * a) }' && [ "$files2" -le $((files + 4)) ] ||
            wrong=$((wrong + 1))
    done
done
summary
