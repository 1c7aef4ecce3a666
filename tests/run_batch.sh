#!/usr/bin/env bash
# run_batch.sh WANMPI SAME_LATENTS: many requests, models loaded once; a second start does what is missing, and goes
# on with the video in progress; what is done is known by the request that a result names; all lines are checked
# before the work; a request that fails does not stop the others.
. "$(dirname "$0")/run_common.sh"

flags=(--task t2v-1.3B --ckpt_dir model --size 32*32 --frame_num 5 --sample_steps 1 --threads 1)
batch() { # batch FILE FLAGS...: on two ranks; its output goes to log
    local file=$1
    shift
    ranks 2 batch "$file" "${flags[@]}" "$@" > log 2>&1 < /dev/null
}
says() { grep -q -e "$1" log; }
skips() { [ "$(grep -c ' is done$' log)" = "$1" ]; } # skips COUNT
refused() { # refused LINE FILE FLAGS...: one line, before anything is made
    local line=$1 before
    shift
    before=$(ls -A; cat ./*.mp4 | md5sum)
    "$wanmpi" batch "$1" "${flags[@]}" "${@:2}" > log 2>&1 && return 1
    [ "$(grep -c '^wanmpi: ' log)" = 1 ] && grep -q "^wanmpi: .*$line" log && ! says '^request 1' &&
        [ "$(ls -A; cat ./*.mp4 | md5sum)" = "$before" ] || { cat log; return 1; }
}
names() { ffprobe -v error -show_entries format_tags=comment "$1" | grep -qF -e "$2"; } # names FILE TEXT

cat > jobs.jsonl << 'EOF'
{"prompt": "Two cats boxing", "save_file": "a.mp4"}
{"prompt": "A dog skis", "base_seed": 9, "size": "64*64", "frame_num": 9, "save_file": "b.mp4"}

{"prompt": "A dog skis", "frame_num": 1}
{"prompt": "@/etc/hostname", "save_file": "at.mp4"}
EOF
: > log
check "batch" batch jobs.jsonl
check "batch: a video" is_video a.mp4 32 32 5
check "batch: sizes of a line" is_video b.mp4 64 64 9
check "batch: a name for a line without" sh -c 'test -s jobs-A_dog_skis-????????.png'
check "batch: a prompt that begins with @ is that text" names at.mp4 '"prompt":"@/etc/hostname"'
check "batch: which is noted" says 'the prompt begins with @: no file is read'
check "batch: no run files are left" sh -c '! ls *.h5 *.lock'

# What is done
rm b.mp4
check "batch again" batch jobs.jsonl
check "batch again skips what is there" skips 3
check "batch again makes what is missing" is_video b.mp4 64 64 9
cp jobs.jsonl first.jsonl
{ echo '{"prompt": "A new line", "save_file": "new.mp4"}' && cat first.jsonl; } > jobs.jsonl
check "a line inserted at the top" batch jobs.jsonl
check "a line inserted at the top: the others are done" skips 4
sed -i 's/Two cats boxing/Three cats boxing/' jobs.jsonl
check "an edited line" refused 'jobs.jsonl:2: a.mp4 exists, but was not made by this line (the prompt is another): rename or delete it, .* --overwrite' jobs.jsonl
sed -i 's/"base_seed": 9/"base_seed": 10/' jobs.jsonl
check "two edited lines" refused 'jobs.jsonl:2: a.mp4 exists, .*, and 1 more: ' jobs.jsonl
check "edited lines, --overwrite" batch jobs.jsonl --overwrite
check "edited lines, --overwrite: the others are done" skips 3
check "edited lines: the new prompt" names a.mp4 Three
check "other flags" refused 'sample_steps is 1 there and 2 here' jobs.jsonl --sample_steps 2
check "other weights" "$wanmpi" synth --preset tiny --seed 1 --out other
check "other weights are refused" refused 'it was made with other weights' jobs.jsonl --ckpt_dir other
echo text > text.mp4
echo '{"prompt": "a", "save_file": "text.mp4"}' > foreign.jsonl
check "a file of another program" refused 'text.mp4 exists, .*it is no result of wanmpi' foreign.jsonl

# All lines are checked first
printf '{"prompt": "a", "save_file": "x.mp4"}\n{"prompt": "b", "save_file": "./x.mp4"}\n' > twice.jsonl
check "two lines with one file" refused 'twice.jsonl:2: .*/x.mp4 is written by line 1 too' twice.jsonl
printf '{"prompt": "a"}\n\n{"prompt": "a"}\n' > twice.jsonl
check "a line twice" refused 'twice.jsonl:3: .*is written by line 1 too: .*another base_seed' twice.jsonl
while IFS='|' read -r line why; do
    printf '{"prompt": "a", "save_file": "x.mp4"}\n%s\n' "$line" > bad.jsonl
    check "bad line: $why" refused "bad.jsonl:2: .*$why" bad.jsonl
done << EOF
{"prompt": "b", "frame_num": 6}|must be 4n+1
{"promt": "b"}|did you mean prompt?
{"prompt": "b", "save_file": "none/b.mp4"}|none
{"prompt": "b", "save_file": "b.avi"}|results are written as .mp4
{"prompt": "b", "contact_sheet": "none/b.png"}|none
{"prompt": "b", "run_file": "none/b.h5"}|none
{"prompt": "b", "noise": "none.h5"}|none.h5
{"prompt": "b", "save_file": "$(printf 'x%.0s' {1..252}).mp4"}|File name too long
EOF

# A request that fails, and a batch that is stopped
cat > fails.jsonl << 'EOF'
{"prompt": "a", "save_file": "f1.mp4", "sample_steps": 60}
{"prompt": "b", "save_file": "gone/f2.mp4"}
{"prompt": "c", "save_file": "f3.mp4"}
EOF
mkdir gone
batch fails.jsonl &
job=$!
until says '^request 1' || ! kill -0 $job 2> /dev/null; do sleep 0.02; done
rm -r gone
check "a request fails" not wait $job
check "a request fails: reported at once" says '^failed  fails.jsonl:2: .*gone'
check "a request fails: reported at the end" says '^wanmpi: 1 of 3 requests failed, .* fails.jsonl:2: .*gone'
check "a request fails: the next one is made" is_video f3.mp4 32 32 5
mkdir gone
check "a request failed: the next start" batch fails.jsonl
check "a request failed: makes it" is_video gone/f2.mp4 32 32 5
check "a request failed: the others are done" skips 2

cat > stop.jsonl << 'EOF'
{"prompt": "a", "save_file": "s1.mp4"}
{"prompt": "b", "save_file": "s2.mp4", "sample_steps": 300, "base_seed": 3, "run_file": "s2.h5"}
{"prompt": "c", "save_file": "s3.mp4", "sample_steps": 300}
EOF
samples() { # samples NUMBER: whether the batch samples that request
    awk -v n="$1" '/^request/ { r = $2; s = 0 } /^sampling/ { s = 1 } END { exit !(r == n && s) }' log
}
stop() { # stop NUMBER: the batch is stopped while it samples that request
    rm -f log
    batch stop.jsonl &
    job=$!
    until samples "$1" || ! kill -0 $job 2> /dev/null; do sleep 0.02; done 2> /dev/null
    pkill -USR1 -P "$(pgrep -P $job mpirun)" wanmpi
    wait $job
    [ $? = 75 ] || { cat log; return 1; }
}
check "stopped in request 2" stop 2
check "stopped: how to go on" says '^wanmpi: stopped by SIGUSR1 after step .*start the batch again to go on'
check "stopped in request 3" stop 3
check "stopped in request 3: went on with request 2" says '^request 2 of 3: b, goes on from s2.h5'
check "stopped in request 3: its run file" test -s s3.mp4.h5
check "the next start" batch stop.jsonl
check "the next start goes on" says '^request 3 of 3: c, goes on from s3.mp4.h5'
check "the next start: no run file is left" test ! -e s3.mp4.h5
check "one run" ranks 1 generate --task t2v-1.3B --ckpt_dir model --size 32*32 --frame_num 5 --sample_steps 300 \
    --prompt b --base_seed 3 --threads 1 --save_file one.mp4 --run_file one.h5
check "a stopped request has the latent of one run" "$same" one.h5 s2.h5 1e-5

# Lines with and without guidance run on one mesh, in either order.
cat > mixed.jsonl << 'EOF'
{"prompt": "A", "save_file": "guided.mp4"}
{"prompt": "B", "save_file": "unguided.mp4", "sample_guide_scale": 1}
EOF
check "guided, then not" batch mixed.jsonl
rm -f guided.mp4 unguided.mp4
tac mixed.jsonl > turned.jsonl
check "not guided, then guided" batch turned.jsonl
check "both videos" is_video guided.mp4 32 32 5
summary
