#!/bin/sh
# fail_together.sh PROGRAM MPIRUN ARGS...: one rank of four stops in each of several ways. That ends the job
# long before the other ranks' usual deadline (2 minutes); the status says so, and the line, if there is one,
# names the silent rank.
program=$1
shift
failed=0

for how in silent stopped astray apart blocked exit kill abort; do
    start=$(date +%s)
    text=$(timeout -k 5 300 "$@" -n 4 "$program" $how 2>&1)
    status=$?
    seconds=$(($(date +%s) - start))
    case $how in
    silent | stopped) want=6 line='^rank 1 on .* has been silent for 1 s, last in start: ' ;;
    astray) want=6 line='^no rank has made progress for 1 s; rank . waits for .* in start: ' ;;
    apart) want=6 line='^none of the ranks 0 to 1 has made progress for 1 s; rank [01] waits for a barrier in start: ' ;;
    blocked) want=6 line='^rank [0-3] on .* has done nothing for [2-4] s in start: ' ;;
    exit) want=9 line= ;;
    kill) want=137 line= ;;
    abort) want=5 line='rank 1: the device is gone' ;;
    esac
    if [ $status -ne $want ] || ! echo "$text" | grep -q "$line"; then
        failed=$((failed + 1))
        echo "$how: status $status (wanted $want) after $seconds s: $text"
    fi
done
# A launcher that MPI does not know starts copies of the whole job: refused.
text=$(SLURM_STEP_NUM_TASKS=4 "$program" alone 2>&1)
status=$?
if [ $status -ne 1 ] || ! echo "$text" | grep -q "one of 4 tasks"; then
    failed=$((failed + 1))
    echo "alone: status $status (wanted 1): $text"
fi
echo "fail_together: 9 ways, $failed wrong"
[ $failed -eq 0 ]
