#!/usr/bin/env bash
# run_killed.sh WANMPI SAME_LATENTS: a killed run goes on from its run file, on another number of ranks; a
# rank that dies or crashes ends the job. What is waited for is a state, such as a run file that is there: how long it
# takes depends on what else this machine does. Each limit only ends a test that hangs.
. "$(dirname "$0")/run_common.sh"
export OMPI_MCA_btl_vader_backing_directory=$dir # whose files nobody removes where mpirun is killed
long=(--size 96*64 --frame_num 5 --save_every 1)

start() { # start P NAME FLAGS...: as make, in the background; $job is mpirun's process
    local p=$1 name=$2
    shift 2
    rm -f "$name.h5" "$name.mp4"
    "${mpirun[@]}" -n "$p" "$wanmpi" generate "${common[@]}" --ckpt_dir model --save_file "$name.mp4" \
        --run_file "$name.h5" "${long[@]}" "$@" > "$name.log" 2>&1 &
    job=$!
    check "$name: the run file of its first steps" saved "$name"
    pids=$(pgrep -d ' ' -P "$job") # of the ranks; none when it has ended already
}
ended() { ! jobs -r -p | grep -q "^$job\$"; }
saved_or_ended() { [ -f "$1.h5" ] || ended; }
saved() { # shows what the run said when it ended without
    wait_for saved_or_ended "$1" && [ -f "$1.h5" ] || {
        cat "$1.log"
        return 1
    }
}
gone() { # the ranks; a process that nobody has waited for yet is gone too
    # shellcheck disable=SC2086 # a list
    [ -z "$pids" ] || ! ps -o stat= -p $pids | grep -qv '^Z'
}

# Killed in the middle on two ranks, resumed on three. A run that was through before it could be killed is
# started again.
check "the whole run" make 1 long "${long[@]}" --sample_steps 400
for _ in 1 2 3 4 5; do
    start 2 killed --sample_steps 400
    # shellcheck disable=SC2086 # a list
    [ -z "$pids" ] || kill -KILL "$job" $pids
    wait "$job" 2> kill.log
    check "killed: all are gone" wait_for gone
    [ -e killed.mp4 ] || break
done
check "killed before its end" not "$same" long.h5 killed.h5 1e-5
check "no video of the killed run" test ! -e killed.mp4
check "resumed on three ranks" ranks 3 generate --resume killed.h5 --run_file killed.h5 \
    --save_file killed.mp4
check "resumed: same latent" "$same" long.h5 killed.h5 1e-5
check "resumed: the video" is_video killed.mp4 96 64 5

# A rank that dies takes all with it, long before these steps are through.
start 4 dies --sample_steps 1000
[ -z "$pids" ] || kill -KILL "${pids##* }"
check "a dead rank: the job ends" wait_for ended
ended && wait "$job"
check "a dead rank: its status is not 0" test $? -ne 0
check "a dead rank: all are gone" wait_for gone
check "a dead rank: no video" test ! -e dies.mp4
# shellcheck disable=SC2086
gone || kill -KILL $pids

# A rank that crashes says so in the only line, and ends the job with status 70.
crash() { # crash SIGNAL RANKS RANK, whose line it is
    start "$2" "$1" --sample_steps 1000
    [ -z "$pids" ] || kill -s "$1" "$(for pid in $pids; do
        tr '\0' '\n' < "/proc/$pid/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$3" && echo "$pid"
    done)"
    check "$1: the job ends" wait_for ended
    ended && wait "$job"
    check "$1: its status" test $? = 70
    check "$1: its line" grep -qE "^wanmpi: rank $3: .*crashed with SIG$1 in .+; please report it$" "$1.log"
    # Open MPI may say that it cannot read a message from the memory of the rank that is gone.
    sed -i '/^\[.*\] Read -1, expected [0-9]*, errno = 3$/d' "$1.log"
    check "$1: no other line, no stack trace" not grep -E '^\[|\*\*\*' "$1.log"
    check "$1: one line" test "$(grep -c '^wanmpi: ' "$1.log")" = 1
    check "$1: no core file" test -z "$(find . -name 'core*')"
}
if ! grep -qE '__(asan|hwasan|msan|tsan)_init' "$wanmpi"; then # a sanitizer prints its own report
    ulimit -c unlimited
    for words in "SEGV 2 1" "BUS 2 0" "ILL 1 0" "FPE 3 1" "ABRT 2 1"; do
        # shellcheck disable=SC2086
        crash $words
    done
fi
summary
