#!/usr/bin/env bash
# run_groups.sh WANMPI SAME_LATENTS: a batch on groups of ranks makes the same files as on one group, also when a
# request fails, when there are more groups than requests, and when a rank is killed or the job is stopped, and the
# batch is started again. The texts are encoded once for all groups.
. "$(dirname "$0")/run_common.sh"
export OMPI_MCA_btl_vader_backing_directory=$dir # whose files nobody removes where a rank is killed

batch() { # batch FOLDER RANKS GROUPS FILE: its output goes to FOLDER/log
    mkdir -p "$1"
    (cd "$1" && ranks "$2" batch "../$4" --task t2v-1.3B --ckpt_dir ../model --size 32*32 --frame_num 5 \
        --sample_steps 100 --threads 1 --save_every 5 --groups "$3" > log 2>&1 < /dev/null)
}
says() { grep -q -e "$2" "$1/log" || { tail -n 25 "$1/log"; return 1; }; } # says FOLDER PATTERN; else the log is shown
same() { (cd "$1" && ls ./*.mp4 && md5sum -c --quiet "../$2"); } # same FOLDER SUMS: the same files, and no others
no_more() { [ "$(find "$1" -name '*.h5' -o -name '*.lock' | wc -l)" = 0 ] && [ "$(find "$1" -name '*.mp4' | wc -l)" = "$2" ]; }

for i in 1 2 3 4; do
    printf '{"prompt": "cat %d", "base_seed": %d, "save_file": "v%d.mp4", "frame_num": %d}\n' $i $i $i $((5 + 4 * (i % 2)))
done > jobs.jsonl
check "one group" batch one 1 1 jobs.jsonl
(cd one && md5sum ./*.mp4 > ../sums)
for shape in "2 2" "4 2"; do # ranks, groups
    read -r p g <<< "$shape"
    check "$p ranks, $g groups" batch "$p-$g" "$p" "$g" jobs.jsonl
    check "$p ranks, $g groups: the same files" same "$p-$g" sums
    check "$p ranks, $g groups: no other files" no_more "$p-$g" 4
    check "$p ranks, $g groups: both work" eval "says $p-$g '^\[group 0\] wrote' && says $p-$g '^\[group 1\] wrote'"
    check "$p ranks, $g groups: each line is prefixed, or of the whole job" \
        not grep -vE '^(\[group [01]\] .|[0-9]+ requests|device|note|model|video|ranks|groups|memory|done)' "$p-$g/log"
done
check "videos per hour" says 4-2 '^done    4 requests in [0-9:]*: [0-9.e+]* per hour, after loading$'
check "again: all is done" batch 4-2 4 2 jobs.jsonl
check "again: nothing is loaded" says 4-2 '^all 4 requests are done already'

# The text encoder is read by one rank for both groups.
reads() { sed -n "s/^memory  rank $2: .* read \([0-9.]*\) MB of weights/\1/p" "$1/log"; }
check "the text encoder is read once" awk -v a="$(reads 2-2 0)" -v b="$(reads 2-2 1)" 'BEGIN { exit !(a > b && b > 0) }'

# More groups than requests: what is left over does nothing, and loads nothing.
head -2 jobs.jsonl > two.jsonl
check "4 groups for 2 requests" batch few 4 4 two.jsonl
check "4 groups for 2 requests: says so" says few '^note    2 of 4 groups have nothing to do'
check "4 groups for 2 requests: the same files" eval "cmp few/v1.mp4 one/v1.mp4 && cmp few/v2.mp4 one/v2.mp4"
check "4 groups for 2 requests: two load" test "$(grep -c 'text and weights \.\.\.' few/log)" = 2

# A bad line is refused before the work; a request that fails does not stop the others.
{ head -2 jobs.jsonl; echo '{"prompt": "a", "frame_num": 6}'; tail -2 jobs.jsonl; } > bad.jsonl
check "a bad line" not batch bad 2 2 bad.jsonl
check "a bad line: nothing else is said" eval '[ "$(wc -l < bad/log)" = 1 ] && says bad "^wanmpi: .*bad.jsonl:3: .*must be 4n+1"'
{ head -2 jobs.jsonl; echo '{"prompt": "a", "save_file": "gone/a.mp4"}'; tail -2 jobs.jsonl; } > fails.jsonl
mkdir -p fails/gone
batch fails 2 2 fails.jsonl &
job=$!
wait_for eval "grep -qs '^.group 0. request' fails/log || ! kill -0 $job"
rm -r fails/gone
check "a request fails" not wait $job
check "a request fails: its group says so" says fails '^\[group [01]\] failed  .*fails.jsonl:3: .*gone'
check "a request fails: the last line" says fails '^wanmpi: 1 of 5 requests failed, the others are done; .*fails.jsonl:3: .*gone'
check "a request fails: the others" same fails sums

# Stopped, and a rank killed: the next start, also of another number of groups, makes the rest.
start() { # start FOLDER: 4 ranks in 2 groups, until both sample; $pids are the ranks
    rm -rf "$1"
    mkdir "$1"
    batch "$1" 4 2 jobs.jsonl &
    job=$!
    wait_for eval "[ \"\$(grep -c 'sampling: 1/' $1/log)\" -ge 2 ] || ! kill -0 $job" 2> /dev/null
    mapfile -t pids < <(pgrep -P "$(pgrep -P $job mpirun || pgrep -P "$(pgrep -P $job)" mpirun)" wanmpi)
}
start stop
kill -TERM "${pids[3]}"
wait $job
check "SIGTERM to one rank: status 75" test $? = 75
check "SIGTERM: the last line" eval "tail -n 1 stop/log | grep -q '^wanmpi: stopped by SIGTERM .*start the batch again to go on'"
check "SIGTERM: both groups have saved" test "$(find stop -name '*.h5' | wc -l)" = 2
check "SIGTERM: the next start" batch stop 2 2 jobs.jsonl
check "SIGTERM: goes on" test "$(grep -c 'goes on from' stop/log)" = 2
check "SIGTERM: the same files" same stop sums
check "SIGTERM: no other files" no_more stop 4

start kill
sleep "0.$((RANDOM % 6))"
victim=$((RANDOM % 4))
kill -KILL "${pids[$victim]}"
wait $job
check "rank $victim killed: the job fails" test $? != 0
before=$(find kill -name '*.mp4' | wc -l)
check "rank $victim killed: the next start" batch kill 2 2 jobs.jsonl
check "rank $victim killed: what was finished is kept" test "$(grep -c ' is done$' kill/log)" = "$before"
check "rank $victim killed: the same files" same kill sums
check "rank $victim killed: no other files" no_more kill 4
summary
