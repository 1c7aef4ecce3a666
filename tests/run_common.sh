# shellcheck shell=bash
# run_common.sh - what the tests of whole runs share: a temporary folder with a small checkpoint in `model`,
# runs on any number of ranks, and a count of checks. Bash scripts include it with their own arguments:
#     . "$(dirname "$0")/run_common.sh" WANMPI SAME_LATENTS
set -u
wanmpi=$(realpath "$1") same=$(realpath "$2")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
export TMPDIR=$dir # Open MPI's files too
done=0 failed=0

check() { # check NAME COMMAND...: the command's output is shown when it fails
    local name=$1
    shift
    done=$((done + 1))
    if "$@" > check.log 2>&1; then
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name: $*"
        cat check.log
    fi
}
not() { ! "$@"; }

mpirun=(mpirun -q --oversubscribe --bind-to none)
ranks() { # ranks P COMMAND...: the command on P ranks; one rank needs no mpirun, and starts faster
    local p=$1
    shift
    if [ "$p" = 1 ]; then
        "$wanmpi" "$@"
    else
        "${mpirun[@]}" -n "$p" "$wanmpi" "$@"
    fi
}

common=(--task t2v-1.3B --size 128*96 --frame_num 9 --sample_steps 6 --base_seed 7
        --prompt "Two cats boxing" --threads 1)
make() { # make P NAME FLAGS...: a video NAME.mp4 and its run file NAME.h5
    local p=$1 name=$2
    shift 2
    ranks "$p" generate --ckpt_dir model "${common[@]}" --save_file "$name.mp4" \
        --run_file "$name.h5" "$@"
}
small=(--size 64*48 --frame_num 5 --base_seed 7 --prompt "Two cats boxing" --threads 1) # in place of `common`
synth() { # synth PRESET FOLDER FLAGS...: says what went wrong
    "$wanmpi" synth --preset "$1" --out "$2" "${@:3}" > synth.log 2>&1 || cat synth.log
}
says() { grep -q -e "$@"; } # says PATTERN FILE
moved() { not "$same" "$1" "$2" 1e-2; } # moved A.h5 B.h5: by over 1 %

is_video() { # is_video FILE WIDTH HEIGHT FRAMES
    [ "$(ffprobe -v error -count_frames -select_streams v -of csv=p=0 \
        -show_entries stream=codec_name,width,height,pix_fmt,nb_read_frames "$1")" \
        = "h264,$2,$3,yuv420p,$4" ]
}

wait_for() { # wait_for COMMAND...: false after five minutes, which only end a test that hangs
    local until=$((SECONDS + 300))
    while ! "$@"; do
        [ $SECONDS -lt $until ] || return 1
        sleep 0.02
    done
}

summary() { # the last line; exits 1 when a check failed
    echo "$done checks, $failed failed"
    [ "$failed" = 0 ]
}

check "synth" "$wanmpi" synth --preset tiny --out model
