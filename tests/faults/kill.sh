#!/usr/bin/env bash
# kill.sh BUILD [quick]: SIGKILL, SIGSTOP, SIGTERM, SIGUSR1 and SIGINT to the first and the last of two ranks, in each
# stage, and some to the second of three. A rank that is killed or stopped ends the job with one line that names it, within the deadline and 10
# seconds; after the other signals the state is saved, with one line and status 75. Where the video was almost
# complete, a run may also end with it. The same command then gives the bits of a run that was not disturbed.
. "$(dirname "$0")/common.sh" "$@"
no_sanitizer "must be loaded before pause.so"
deadline=3
pause=$build/tests/pause.so
mkdir ref2 ref3 out

# stage, call that pauses, part of the path, number of the call, rank that pauses (-: the one that gets the signal),
# and the line of the log from which calls are counted (.: from the start)
stages=(
    "load     pread              diffusion_pytorch 230 - ."
    "text     pread              models_t5         120 0 ."
    "step     GOMP_parallel      .                 9  - ^sampling:.[1-9]"
    "wait     MPI_Testall        .                 3  - ^sampling:.[1-9]"
    "save     rename             a.h5              3  0 ^sampling:.[1-9]"
    "decode   GOMP_parallel      .                 30 - ^decoding"
    "encode   avcodec_send_frame .                 3  0 ."
    "rename   rename             a.mp4             1  0 ."
)
program() { # program FOLDER COMMAND...: the run, its files in FOLDER
    local to=$1
    shift
    (cd "$to" && exec "$@" "$wanmpi" generate "${demo[@]}" --frame_num 81 --sample_steps 40 --save_every 1 \
        --timeout $deadline --save_file a.mp4 --run_file a.h5)
}
until_there() { # until_there COMMAND...: waits, but not for ever
    for ((i = 0; i < 6000; i++)); do
        "$@" > /dev/null 2>&1 && return
        kill -0 "$job" 2> /dev/null || return
        sleep 0.01
    done
}

whole() { # whole RANKS: the run that is not disturbed
    program ref$1 "${mpirun[@]}" -n $1 > log 2>&1 || { cat log; exit 1; }
}
rank_in() { # rank_in FOLDER RANK: its process
    local pid
    for pid in $(ranks_in "$1"); do
        ! tr '\0' '\n' < "/proc/$pid/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$2" || echo "$pid"
    done
}

fault() { # fault RANKS SIGNAL RANK STAGE CALL PATH N PAUSES LINE
    local ranks=$1 start pid word=ended again limit
    shift
    local signal=$1 rank=$2 stage=$3 paused=$7
    rm -rf out sync && mkdir out sync
    [ "$paused" != - ] || paused=$rank
    : > log
    [ "$8" != . ] || touch sync/if
    (
        export PAUSE_CALL=$4 PAUSE_PATH=${5#.} PAUSE_N=$6 PAUSE_RANK=$paused PAUSE_DIR=$dir/sync PAUSE_IF=$dir/sync/if
        program out "${mpirun[@]}" -n $ranks -x LD_PRELOAD="$pause"
    ) > log 2>&1 &
    job=$!
    until_there grep "$8" log
    touch sync/if
    until_there test -e sync/reached
    pid=$(rank_in out "$rank")
    [ -e sync/reached ] || word="wrong: the stage was not reached"
    [ -z "$pid" ] || kill -s "$signal" "$pid"
    touch sync/go
    start=$EPOCHREALTIME
    (sleep 60; kill_in out) > /dev/null 2>&1 &
    limit=$!
    { wait $job; } 2> /dev/null
    status=$?
    while alive_in out; do sleep 0.02; done
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    pkill -P $limit
    kill $limit 2> /dev/null
    lines=$(grep -c '^wanmpi: ' log)
    case $signal-$status-$lines in
    KILL-137-1) grep -q "^wanmpi: .*rank $rank on .* has ended" log || word="wrong: the line" ;;
    STOP-6-1) grep -q "^wanmpi: .*rank $rank on .* silent" log || word="wrong: the line" ;;
    TERM-75-1 | USR1-75-1 | INT-75-1) grep -q "^wanmpi: stopped by SIG$signal" log || word="wrong: the line" ;;
    TERM-0-0 | USR1-0-0 | INT-0-0) [ "$stage" = rename ] || [ "$stage" = encode ] || word="wrong: not stopped" ;;
    *) word="wrong: status or lines" ;;
    esac
    awk -v s="$seconds" -v most=$((deadline + 10)) 'BEGIN { exit s <= most }' && word="wrong: late"
    again="same bits"
    program out "${mpirun[@]}" -n $ranks > again.log 2>&1 || again="wrong: $(tail -n 1 again.log)"
    if ! "$same" out/a.h5 ref$ranks/a.h5 > /dev/null || [ "$(stream out/a.mp4)" != "$(stream ref$ranks/a.mp4)" ]; then
        again="wrong bits"
    fi
    [ -z "$(find out -mindepth 1 ! -name a.h5 ! -name a.mp4)" ] || again="wrong: left $(ls -A out)"
    row "$signal to rank $rank of $ranks, $stage" "$word" "$again"
}

each() { # each RANKS SIGNALS AFFECTED STAGES: those signals to those ranks in those stages
    local signal rank stage
    for signal in $2; do
        for rank in $3; do
            for stage in "${stages[@]}"; do
                # shellcheck disable=SC2086 # the columns
                [[ " $4 " != *" ${stage%% *} "* ]] || fault $1 $signal $rank $stage
            done
        done
    done
}

head_row
whole 3
if [ "$quick" = quick ]; then
    each 3 KILL 1 save
    each 3 STOP 1 step
    each 3 USR1 1 decode
else
    whole 2
    each 2 "KILL STOP TERM USR1 INT" "0 1" "load text step wait save decode encode rename"
    each 3 "KILL STOP TERM" 1 "load step wait save decode rename"
fi
summary
