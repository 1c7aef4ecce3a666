#!/usr/bin/env bash
# run_stopped.sh WANMPI SAME_LATENTS: a run that is asked to stop saves its state, says how to go on, and ends
# with status 75; a rank that dies leaves a line. Signals are sent when the run prints a stage: how long that
# takes depends on what else this machine does.
. "$(dirname "$0")/run_common.sh"
flags=(--size 96*64 --frame_num 5 --sample_steps 120)

at_stage() { grep -qs "^$stage" log || ! jobs -r -p | grep -q "^$job\$"; }

# start STAGE NAME FLAGS...: two ranks that have reached a stage; $job is mpirun's process, $pids the ranks'
start() {
    stage=$1
    : > log # or the one before would be read
    local name=$2
    shift 2
    rm -f log
    "${mpirun[@]}" -n 2 "$wanmpi" generate "${common[@]}" "${flags[@]}" --ckpt_dir model \
        --save_file "$name.mp4" "$@" > log 2>&1 &
    job=$!
    wait_for at_stage || cat log
    mapfile -t pids < <(pgrep -P "$job" wanmpi)
}
# ends NAME STATUS LINE: the run ends with that status, and a line that has the pattern
ends() {
    wait "$job"
    local status=$?
    if [ $status != "$2" ] || ! grep -q "^wanmpi: .*$3" log; then
        check "$1: status $status, wanted $2, and '$3'" false
        cat log
        return
    fi
    check "$1" true
}
goes_on() { # goes_on NAME FILE FLAGS...: resumed from FILE it gives the latents of the whole run
    local name=$1 file=$2
    shift 2
    check "$name: goes on" ranks 1 generate --resume "$file" --run_file on.h5 --save_file on.mp4 "$@"
    check "$name: same latents" "$same" whole.h5 on.h5 0
    rm -f on.h5 on.mp4 "$file"
}

check "the whole run" make 1 whole "${flags[@]}"

start "sampling: [0-9]" a --run_file a.h5 --save_every 1000
kill -USR1 "${pids[1]}"
ends "USR1 to rank 1" 75 "stopped by SIGUSR1 after step [0-9]* of 120; to go on: .* --resume a.h5"
goes_on "USR1 to rank 1" a.h5

start "sampling: [0-9]" b
kill -TERM "${pids[@]}"
ends "TERM to all, no --run_file" 75 "stopped by SIGTERM after step [0-9]* of 120; .* --resume b.mp4.h5"
goes_on "TERM to all, no --run_file" b.mp4.h5

start "sampling: [0-9]" c --run_file c.h5
kill -USR1 "$job"
ends "USR1 to mpirun" 75 "stopped by SIGUSR1 .*--resume c.h5"

start "decoding" d --sample_steps 1 --frame_num 81 --run_file d.h5
kill -INT "${pids[0]}"
ends "INT while decoding" 75 "stopped by SIGINT while decoding; .* --resume d.h5"
check "INT while decoding: no video" test ! -e d.mp4
check "INT while decoding: goes on" ranks 2 generate --resume d.h5
check "INT while decoding: the video" is_video d.mp4 96 64 81

# A second signal, and a rank that dies
start "sampling: [0-9]" e --sample_steps 1000 --run_file e.h5
kill -STOP "${pids[1]}" # so that the step does not end
kill -INT "${pids[0]}"
sleep 1.5
kill -INT "${pids[0]}"
ends "a second INT" 75 "ended by a second SIGINT; what was saved before is kept"

start "sampling: [0-9]" f --sample_steps 1000
kill -KILL "${pids[0]}"
ends "rank 0 dies" 137 "rank 0 on .* has ended"
check "rank 0 dies: one line" test "$(grep -c '^wanmpi: ' log)" = 1
summary
