#!/usr/bin/env bash
# nomem.sh BUILD [all]: allocations of the program fail in turn, on the first and on the second of two ranks: for each
# place in the code the first and the last allocation of a run, or `all` of them. A run ends with one line and the
# status for too little memory, or completely; it never waits for long, and Open MPI prints nothing.
. "$(dirname "$0")/common.sh" "$1" "${2:-}"
deadline=5
library=$build/tests/nomem.so
mkdir out
export OMPI_MCA_btl_vader_backing_directory=$dir

try() { # try RANK N [LOG]: the run, with that allocation failing
    rm -rf out && mkdir out
    timed "${mpirun[@]}" -n 2 -x LD_PRELOAD="$library" -x NOMEM_RANK="$1" -x NOMEM_N="$2" ${3:+-x NOMEM_LOG="$3"} \
        "$wanmpi" generate "${demo[@]}" --timeout $deadline --save_file out/a.mp4 --run_file out/a.h5
}
for rank in 0 1; do
    try $rank 0 "$dir/calls$rank"
    [ "$status" = 0 ] || { cat log; exit 1; }
done
head_row
for rank in 0 1; do
    if [ "$quick" = all ]; then
        numbers=$(awk '{ print $1, $2 }' "calls$rank")
    else
        numbers=$(awk '{ if (!($2 in first)) first[$2] = $1; last[$2] = $1 }
            END { for (a in first) { print first[a], a; if (last[a] != first[a]) print last[a], a } }' "calls$rank" | sort -n)
    fi
    while read -r n address; do
        try $rank "$n" < /dev/null
        word=refused
        if [ "$status" = 0 ]; then
            word=complete
            [ -e out/a.mp4 ] && [ -e out/a.h5 ] || word="wrong: not complete"
        elif [ "$status" != 4 ] || [ "$lines" != 1 ]; then
            word="wrong: status or lines"
        fi
        ! grep -qv '^wanmpi: \|^[a-z][a-z ]*  \|^[a-z ]*\.\.\.$\|^[a-z ]*: ' log || word="wrong: other lines"
        awk -v s="$seconds" -v most=$((deadline + 10)) 'BEGIN { exit s <= most }' && word="wrong: late"
        where=$(addr2line -e "$wanmpi" "$address" | sed 's|.*/\([^/]*/[^/]*\)$|\1|')
        rows=$((rows + 1))
        case $word in wrong*) rows=$((rows - 1)) && row "rank $rank, allocation $n, $where" "$word" "" ;; esac
        seen[status]=$((${seen[status]:-0} + 1))
        awk -v s="$seconds" -v m="${most:-0}" 'BEGIN { exit !(s > m) }' && most=$seconds
    done <<< "$numbers"
done
for status in "${!seen[@]}"; do echo "status $status: ${seen[status]} cases"; done
echo "longest: $most s"
summary
