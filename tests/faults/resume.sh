#!/usr/bin/env bash
# resume.sh BUILD [KILLS] [SEED]: runs are killed with SIGKILL at random times, 1,000 times in all (`quick`: 8), and
# started again by the same command until they end: on one rank and on two, with all processes killed or one rank.
# After each kill the run file must be readable; the results are the bits of a run that was not interrupted.
. "$(dirname "$0")/common.sh" "$1"
kills=${2:-1000}
[ "$kills" != quick ] || kills=8
RANDOM=${3:-1}
export OMPI_MCA_btl_vader_backing_directory=$dir # whose files nobody removes where mpirun is killed
exec 2> "$dir/shell"                             # where bash says which jobs were killed
mkdir ref out

go() { # go FOLDER RANKS: the run in the background; $job is its first process
    local launcher=("${mpirun[@]}" -n "$2")
    [ "$2" != 1 ] || launcher=()
    : > log
    (cd "$1" && exec "${launcher[@]}" "$wanmpi" generate "${demo[@]}" --sample_steps 12 --save_every 1 \
        --keep_frames --save_file a.mp4 --run_file a.h5) > log 2>&1 &
    job=$!
}
wrong() {
    wrong=$((wrong + 1))
    echo "kill $killed: $*"
    tr '\r' '\n' < log | sed 's/^/    /' | tail -n 5
}

# strike RANKS: kills after a random time, from the start or, every second time, from the first step on
strike() {
    local pids=$job two i at
    if [ $((RANDOM % 2)) = 0 ]; then
        for ((i = 0; i < 1500; i++)); do
            ! grep -q '^sampling' log && kill -0 "$job" || break
            sleep 0.01
        done
        sleep "0.$(printf %02d $((RANDOM % 30)))"
    else
        sleep "0.$(printf %02d $((5 + RANDOM % 85)))"
    fi
    if [ "$1" = 2 ]; then
        mapfile -t two < <(pgrep -P "$job" wanmpi)
        pids="$job ${two[*]}"
        [ ${#two[@]} != 2 ] || [ $((RANDOM % 8)) != 0 ] || pids=${two[RANDOM % 2]}
    fi
    # shellcheck disable=SC2086 # a list
    kill -KILL $pids
    at=$(tail -n 1 log | grep -o '^sampling\|^decoding\|^wrote\|^memory  rank') || at=loading
    stage[${at%% *}]=$((${stage[${at%% *}]:-0} + 1))
    for ((i = 0; i < 1500; i++)); do
        alive_in out || kill -0 "$job" || break
        sleep 0.01
    done
    ! alive_in out || { wrong "still running"; kill_in out; }
    ! kill -KILL "$job" || hung=$((hung + 1)) # Open MPI's mpirun, all of whose ranks are gone
}

go ref 1
wait "$job" || { cat log; exit 1; }
want=$(stream ref/a.mp4)
killed=0 videos=0 early=0 hung=0 begun=$SECONDS last=
declare -A stage
until [ -n "$last" ]; do
    ranks=$((1 + RANDOM % 2))
    go out $ranks
    [ $killed -lt "$kills" ] && strike $ranks || last=1 # which is not killed
    wait "$job"
    status=$?
    if [ $status = 137 ] && [ -z "$last" ]; then
        killed=$((killed + 1))
        [ $((killed % 100)) != 0 ] || echo "$killed kills, $videos videos, $wrong wrong, $((SECONDS - begun)) s"
        if [ ! -e out/a.h5 ]; then
            early=$((early + 1))
        elif ! "$same" out/a.h5 out/a.h5 > /dev/null; then
            wrong "the run file cannot be read"
        fi
        continue
    fi
    [ $status = 0 ] || { wrong "status $status on $ranks ranks"; continue; }
    videos=$((videos + 1))
    "$same" out/a.h5 ref/a.h5 > same.log || wrong "other latents"
    [ "$(stream out/a.mp4)" = "$want" ] || wrong "another video"
    left=$(cd out && find . -mindepth 1 ! -name a.h5 ! -name a.mp4 | tr '\n' ' ')
    [ -z "$left" ] || wrong "left $left"
    rm -rf out && mkdir out
done
for at in "${!stage[@]}"; do echo "the last line began with '$at': ${stage[$at]} signals"; done
echo "resume: $killed kills ($early before there was a run file), $videos videos finished, $wrong wrong," \
    "$((SECONDS - begun)) s"
[ $hung = 0 ] || echo "resume: mpirun did not end $hung times when all ranks had"
[ "$wrong" = 0 ] && [ $videos -gt 0 ]
