#!/usr/bin/env bash
# end_to_end.sh WANMPI SAME_LATENTS: whole runs of the program on a small checkpoint: any number of
# ranks ends in the same latent, a killed run goes on from its run file, and so on.
# Prints one line a case and their count; exits 1 when one failed.
set -u
wanmpi=$(realpath "$1") same=$(realpath "$2")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
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

ranks() { # ranks P COMMAND...: the command on P ranks
    local p=$1
    shift
    mpirun -q --oversubscribe --bind-to none -n "$p" "$wanmpi" "$@"
}

common=(--task t2v-1.3B --size 128*96 --frame_num 9 --sample_steps 6 --base_seed 7
        --prompt "Two cats boxing" --threads 1)
make() { # make P NAME FLAGS...: a video NAME.mp4 and its run file NAME.h5
    local p=$1 name=$2
    shift 2
    ranks "$p" generate "${common[@]}" --ckpt_dir model --save_file "$name.mp4" \
        --run_file "$name.h5" "$@"
}
is_video() { # is_video FILE WIDTH HEIGHT FRAMES
    [ "$(ffprobe -v error -count_frames -select_streams v -of csv=p=0 \
        -show_entries stream=codec_name,width,height,pix_fmt,nb_read_frames "$1")" \
        = "h264,$2,$3,yuv420p,$4" ]
}
not() { ! "$@"; }
within_plan() { # peak of every rank within 10% + 50 MB of what was planned
    awk '/^memory  rank/ { n++; if ($5 > $8 * 1.1 + 50) bad = 1 } END { exit bad || n == 0 }' "$1"
}

check "synth" "$wanmpi" synth --preset tiny --out model
check "inspect" "$wanmpi" inspect model

# P ranks = 1 rank: the same bits but for ring.
check "one rank" make 1 one --ops ref --contact_sheet one.png
check "the video" is_video one.mp4 128 96 9
for axes in "2 cfg2 --cfg_size 2" "3 ulysses3 --ulysses_size 3 --cfg_size 1" "2 fsdp2 --dit_fsdp" "3 t5-fsdp3 --t5_fsdp" \
    "4 cfg2-ulysses2-fsdp --cfg_size 2 --ulysses_size 2 --dit_fsdp" \
    "8 ulysses8 --cfg_size 1 --ulysses_size 8" "5 uneven5 --cfg_size 1 --ulysses_size 5 --dit_fsdp" \
    "16 cfg2-ulysses8 --cfg_size 2 --ulysses_size 8"; do
    read -r p name flags <<< "$axes"
    # shellcheck disable=SC2086
    check "$name runs" make "$p" "$name" --ops ref $flags
    check "$name ends in the same bits" "$same" one.h5 "$name.h5"
done
for axes in "3 ring3 --cfg_size 1 --ring_size 3" "4 ring2-ulysses2 --cfg_size 1 --ring_size 2" \
    "8 cfg2-ring2-ulysses2-fsdp --cfg_size 2 --ring_size 2 --dit_fsdp"; do
    read -r p name flags <<< "$axes"
    # shellcheck disable=SC2086
    check "$name runs" make "$p" "$name" --ops ref $flags
    check "$name within 1e-5" "$same" one.h5 "$name.h5" 1e-5
done
check "cpu ops on one rank" make 1 cpu
check "cpu ops within 1e-5 of ref" "$same" one.h5 cpu.h5 1e-5
check "cpu ops on four ranks" make 4 cpu4 --dit_fsdp
check "cpu ops, 4 = 1 within 1e-5" "$same" cpu.h5 cpu4.h5 1e-5

# The other solvers, bf16, tiles, one frame, files that come back in.
for solver in dpm++ euler; do
    check "$solver" make 1 "$solver" --sample_solver "$solver"
    check "$solver on two ranks" make 2 "$solver-2" --sample_solver "$solver"
    check "$solver, 2 = 1" "$same" "$solver.h5" "$solver-2.h5" 1e-5
    check "$solver is not unipc" not "$same" "$solver.h5" cpu.h5 1e-3
done
check "bf16" make 2 bf16 --precision bf16
check "bf16 is near fp32" "$same" bf16.h5 cpu.h5 0.1
check "bf16 is not fp32" not "$same" bf16.h5 cpu.h5 1e-5
check "noise and text from a run file" make 2 again --base_seed 8 --noise cpu.h5 --text cpu.h5
check "noise and text from a run file: same latent" "$same" cpu.h5 again.h5 1e-5
check "another seed" make 1 seed8 --base_seed 8
check "another seed, another latent" not "$same" cpu.h5 seed8.h5 0.1
check "tiled" make 2 tiled --tiled
check "one frame" ranks 2 generate "${common[@]}" --ckpt_dir model --frame_num 1 --save_file p.png
check "one frame is a PNG" sh -c 'head -c 4 p.png | grep -aq PNG'
check "the -Diffusers layout" "$wanmpi" synth --preset tiny --diffusers --out diffusers
check "the -Diffusers layout runs" ranks 2 generate "${common[@]}" --ckpt_dir diffusers \
    --save_file d.mp4 --run_file d.h5
check "the -Diffusers layout: same latent" "$same" cpu.h5 d.h5 1e-5

# Killed in the middle on two ranks, resumed on three.
long=(--sample_steps 400 --size 96*64 --frame_num 5)
check "the long run" make 1 long "${long[@]}"
make 2 killed "${long[@]}" --save_every 1 > killed.log 2>&1 &
job=$!
for _ in $(seq 600); do
    [ -f killed.h5 ] && break
    sleep 0.02
done
pkill -KILL -P "$job" mpirun
kill -KILL "$job" 2> kill.log
wait "$job" 2> kill.log
check "killed before its end" not "$same" long.h5 killed.h5 1e-5
check "no video of the killed run" test ! -e killed.mp4
check "resumed on three ranks" ranks 3 generate --resume killed.h5 --run_file killed.h5 \
    --save_file killed.mp4
check "resumed: same latent" "$same" long.h5 killed.h5 1e-5
check "resumed: the video" is_video killed.mp4 96 64 5

# A rank that dies takes all with it, within seconds.
make 4 dies "${long[@]}" > dies.log 2>&1 &
job=$!
sleep 1
began=$SECONDS
pkill -KILL -n -P "$(pgrep -P "$job" mpirun)"
wait "$job"
check "a dead rank: the job ends nonzero" test $? -ne 0
check "a dead rank: within seconds" test $((SECONDS - began)) -le 10
check "a dead rank: no video" test ! -e dies.mp4

# Many requests, models loaded once; a second start does what is missing.
cat > jobs.jsonl << 'EOF'
{"prompt": "Two cats boxing", "save_file": "a.mp4"}
{"prompt": "A dog skis", "base_seed": 9, "size": "64*64", "save_file": "b.mp4"}

{"prompt": "A dog skis", "frame_num": 1}
EOF
batch=(batch jobs.jsonl --task t2v-1.3B --ckpt_dir model --size 128*96 --frame_num 9
       --sample_steps 3 --base_seed 7)
check "batch" ranks 2 "${batch[@]}"
check "batch: videos" is_video a.mp4 128 96 9
check "batch: sizes of a line" is_video b.mp4 64 64 9
check "batch: a name for a line without" test -s jobs-0004.png
rm -f b.mp4
check "batch again" sh -c "$(declare -f ranks); wanmpi=$wanmpi; ranks 2 ${batch[*]@Q} > again.log 2>&1"
check "batch again skips what is there" test "$(grep -c skipped again.log)" -eq 2
check "batch again makes what is missing" is_video b.mp4 64 64 9

make 2 plan --dit_fsdp > plan.log 2>&1
grep -qE '__(asan|hwasan|msan|tsan)_init' "$wanmpi" || # whose own memory would count too
    check "memory within the plan" within_plan plan.log

echo "$done checks, $failed failed"
[ "$failed" -eq 0 ]
