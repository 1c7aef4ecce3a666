#!/usr/bin/env bash
# writes.sh BUILD [quick]: each write, flush, close and rename of a run fails in turn, once
# (EIO) or from then on (ENOSPC), and the disk is full at every 4 KiB. A run either ends with 0 and complete files,
# or with one line and another status; what is on disk is complete, and goes on to the same bits.
. "$(dirname "$0")/common.sh" "$@"
mkdir out ref
out=$dir/out

run() { # run FOLDER COMMAND...: the run of this campaign, its files in FOLDER
    local to=$1
    shift
    (cd "$to" && "$@" "$wanmpi" generate "${demo[@]}" --save_every 1 --keep_frames --save_file a.mp4 \
        --run_file a.h5 --contact_sheet a.png)
}

disk() { # what the run left: "complete", "partly", "nothing", or "wrong: ..."
    local file left
    left=$(cd out && find . -mindepth 1 ! -name a.h5 ! -name a.mp4 ! -name a.png | tr '\n' ' ')
    if [ "$status" -ge 64 ]; then echo "wrong: crashed or hung"; return; fi
    if [ "$status" = 0 ] && [ "$lines" != 0 ]; then echo "wrong: 0 with an error line"; return; fi
    if [ "$status" != 0 ] && [ "$lines" != 1 ]; then echo "wrong: $lines lines"; return; fi
    if [ -n "$left" ]; then echo "wrong: left $left"; return; fi
    for file in a.mp4 a.png; do
        if [ -e out/$file ] && ! cmp -s out/$file ref/$file; then echo "wrong: $file"; return; fi
    done
    if [ -e out/a.h5 ] && ! "$same" out/a.h5 out/a.h5 > /dev/null; then echo "wrong: a.h5"; return; fi
    if [ -e out/a.mp4 ] && [ -e out/a.png ] && "$same" out/a.h5 ref/a.h5 > /dev/null 2>&1 &&
        grep -aq frames out/a.h5; then
        echo complete
    elif [ "$status" = 0 ]; then
        echo "wrong: 0, not complete"
    elif [ -e out/a.h5 ]; then
        echo partly
    else
        echo nothing
    fi
}

resumed() { # whether the run goes on to the same bits from what is on disk
    [ -e out/a.h5 ] || { echo "from 0"; return; }
    if ! "$same" out/a.h5 ref/a.h5 > /dev/null 2>&1 || [ ! -e out/a.mp4 ]; then
        (cd out && timeout 120 "$wanmpi" generate --resume a.h5 > "$dir/resume.log" 2>&1) ||
            { echo "wrong: $(tail -n 1 resume.log)"; return; }
    fi
    "$same" out/a.h5 ref/a.h5 > /dev/null 2>&1 && [ "$(stream out/a.mp4)" = "$(stream ref/a.mp4)" ] &&
        echo "same bits" || echo wrong
}

# The command `run` as a program, for `timed`.
export -f run
export wanmpi
demo_words=$(printf '%q ' "${demo[@]}")
export demo_words
step() { # step FOLDER COMMAND...
    timed bash -c 'eval "demo=($demo_words)"; run "$@"' bash "$@"
}

step ref env LD_PRELOAD="$failio" FAILIO_DIR="$dir/ref" FAILIO_LOG="$dir/calls"
[ "$status" = 0 ] || { cat log; exit 1; }
count=$(wc -l < calls)
head_row

fails() { # fails N NAME ERRNO ALL
    local call
    rm -rf out && mkdir out
    step "$out" env LD_PRELOAD="$failio" FAILIO_DIR="$out" FAILIO_N="$1" FAILIO_ERRNO="$3" $4
    call=$(sed -n "$1p" calls | sed 's/^[0-9]* //; s/\.wanmpi-.*/(new file)/')
    row "call $1, $call: $2" "$(disk)" "$(resumed)"
}
each=1
[ -z "$quick" ] || each=17
for ((n = each; n <= count; n += each)); do
    [ -n "$quick" ] && [ $((n % 2)) = 0 ] || fails "$n" EIO 5 ""
    [ -n "$quick" ] && [ $((n % 2)) = 1 ] || fails "$n" "ENOSPC from then on" 28 FAILIO_ALL=1
done

full() { # full KIB: a disk of so many KiB; false when the run fits
    rm -rf out && mkdir out
    mount -t tmpfs -o "size=${1}k" tmpfs out || { echo "no tmpfs can be mounted here: skipped"; return 1; }
    step "$out" env
    mkdir copy
    cp -a out/. copy
    umount out
    rmdir out && mv copy out
    row "disk of $1 KiB" "$(disk)" "$(resumed)"
    [ "$status" != 0 ]
}
if [ -z "$quick" ]; then
    for ((kib = 4; kib < 4096; kib += 4)); do
        full $kib || break
    done
fi
summary
