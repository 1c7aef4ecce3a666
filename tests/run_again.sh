#!/usr/bin/env bash
# run_again.sh WANMPI SAME_LATENTS: the same command with the same --run_file again and again: it goes on, says that
# it is finished, or refuses what would lose a run.
. "$(dirname "$0")/run_common.sh"
flags=(--ckpt_dir model "${common[@]}" --size 96*64 --frame_num 5 --sample_steps 100)

again() { # again P FLAGS...: the command, its output in log
    local p=$1
    shift
    ranks "$p" generate "${flags[@]}" "$@" > log 2>&1
}
status() { # status N COMMAND...: it ends with status N
    local want=$1
    shift
    "$@"
    [ $? = "$want" ]
}
stopped() { # stopped FLAGS...: starts it, and stops it in its steps
    rm -f log
    "$wanmpi" generate "${flags[@]}" "$@" > log 2>&1 &
    local job=$!
    while ! grep -qs '^sampling: [0-9]' log && kill -0 $job 2> kill.log; do sleep 0.02; done
    kill -USR1 $job
    wait $job
    [ $? = 75 ]
}
says() { grep -q "$1" log; }

check "the whole run" again 1 --save_file a.mp4 --run_file a.h5
mv a.mp4 whole.mp4
mv a.h5 whole.h5
check "stopped" stopped --save_file a.mp4 --run_file a.h5
check "again, on two ranks" again 2 --save_file a.mp4 --run_file a.h5
check "it went on" says '^sampling: [0-9]*/100'
check "the same latents" "$same" whole.h5 a.h5 1e-5
cp -p a.h5 kept.h5
echo "$(hostname) 999999999 1 -" > a.h5.lock # of a job that was killed at its end
check "finished" again 2 --save_file a.mp4 --run_file a.h5
check "finished: says so" says '^done .*a.mp4 is the complete result of a.h5'
check "finished: the file is untouched" cmp a.h5 kept.h5
check "finished: nothing is left" test ! -e a.h5.lock
check "another request" status 1 again 2 --save_file a.mp4 --run_file a.h5 --sample_steps 4
check "another request: what differs" says '^wanmpi: .*sample_steps is 100 there and 4 here'
check "another request: the file is untouched" cmp a.h5 kept.h5
check "another rate of frames" again 1 --save_file a.mp4 --run_file a.h5 --fps 8
check "another rate of frames: only decoded" not says '^sampling'
rm a.mp4
check "the video was lost" again 1 --save_file a.mp4 --run_file a.h5
check "the video is there again" cmp a.mp4 whole.mp4

# A seed that was drawn, and a name with the time in it, are those of the first start.
flags=(--ckpt_dir model --size 32*32 --frame_num 5 --sample_steps 300 --prompt cat --threads 1)
check "a drawn seed: stopped" stopped --run_file b.h5
sleep 1
check "a drawn seed: again" again 1 --run_file b.h5
check "a drawn seed: one video" test "$(find . -name '*_cat_*.mp4' | wc -l)" = 1
check "a drawn seed: finished" again 1 --run_file b.h5
check "a drawn seed: says so" says '^done '

echo text > c.h5
check "no run file" not again 2 --run_file c.h5
check "no run file: it is untouched" test "$(cat c.h5)" = text
summary
