#!/usr/bin/env bash
# run_cache.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: step caches end in the latents of their transcriptions, with the same
# bits on any ranks and after a stop; without one nothing changes.
golden=$(realpath "$3") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
small=(--size 64*48 --frame_num 1 --base_seed 7 --prompt "Two cats boxing" --threads 1 --sample_solver euler
       --sample_steps 16 --sample_shift 5 --sample_guide_scale 5)
"$wanmpi" synth --preset tiny-A14B --out pair > synth.log 2>&1 || cat synth.log

make() { # make P MODEL NAME FLAGS...: a video NAME.mp4 and its run file NAME.h5; its output goes to NAME.log too
    local p=$1 model=$2 name=$3
    shift 3
    local run=("${mpirun[@]}" -n "$p" "$wanmpi")
    [ "$p" = 1 ] && run=("$wanmpi")
    "${run[@]}" generate "${small[@]}" --ckpt_dir "$model" --save_file "$name.mp4" --run_file "$name.h5" "$@" 2>&1 |
        tee "$name.log"
    return "${PIPESTATUS[0]}"
}
says() { grep -q -e "$@"; }
ends() { # ends NAME COMPUTED: in the recorded latents, with so many forwards
    "$golden" "$recorded" cache.safetensors "$1.h5" 2e-4 "latents.$1" && says "^cache   $2 of 32 forwards" "$1.log"
}

tea=(--tea_cache_l1_thresh 18000 --tea_cache_model_id Wan2.1-I2V-14B-720P)
easy=(--cache easycache --cache_threshold 2.5 --cache_retain 3)
first=(--cache firstblock --cache_threshold 1)
check "magcache" make 1 model magcache --cache magcache
check "magcache ends as recorded" ends magcache 16
check "teacache" make 1 model teacache "${tea[@]}"
check "teacache ends as recorded" ends teacache 14
check "teacache with the first steps" make 1 model teacache-ret "${tea[@]}" --use_ret_steps
check "teacache with the first steps ends as recorded" ends teacache-ret 20
check "easycache" make 1 model easycache "${easy[@]}"
check "easycache ends as recorded" ends easycache 12
check "firstblock" make 1 model firstblock "${first[@]}"
check "firstblock ends as recorded" ends firstblock 20
check "magcache of two experts" make 1 pair magcache-A14B --task t2v-A14B --boundary_step_index 8 --cache magcache
check "magcache of two experts ends as recorded" ends magcache-A14B 21

# Ranks, with weights that are sharded, in host memory, or in their file; the branches differ in one schedule.
cat > differ.json << 'JSON'
{"cond": [1, 1, 1, 1, 0.99, 0.9, 0.99, 0.99], "uncond": [1, 1, 1, 1, 1, 1, 1, 1]}
JSON
same_on() { # same_on P NAME FLAGS...
    local p=$1 name=$2
    shift 2
    make "$p" model "$name.$p" "$@" && "$same" "$name.h5" "$name.$p.h5"
}
check "other ratios" make 1 model differ --cache magcache --cache_ratios differ.json
check "other ratios: the branches differ" says '^cache   1[0-9] of 32' differ.log
check "other ratios, cfg 2, sharded: the same bits" same_on 2 differ --cache magcache --cache_ratios differ.json --dit_fsdp --cfg_size 2
check "teacache, cfg 2, in host memory: the same bits" same_on 2 teacache "${tea[@]}" --cfg_size 2 --num_persistent_param_in_dit 0
check "easycache, 3 ranks: the same bits" same_on 3 easycache "${easy[@]}"
check "firstblock, cfg 2, sharded: the same bits" same_on 2 firstblock "${first[@]}" --dit_fsdp --cfg_size 2
check "firstblock, in the file: the same bits" same_on 1 firstblock "${first[@]}" --offload_device disk
check "two experts, one after the other" make 2 pair later --task t2v-A14B --boundary_step_index 8 --cache magcache \
    --experts later
check "two experts, one after the other: the same bits" "$same" magcache-A14B.h5 later.h5

# With a gate, and a first step without velocity: the branches are not needed in all steps.
gate=(--cfg_gate 7 --cache firstblock --cache_threshold 1)
check "a gate" make 1 model gate "${gate[@]}"
check "a gate, cfg 2, sharded: the same bits" same_on 2 gate "${gate[@]}" --dit_fsdp --cfg_size 2
zero=(--zero_init_steps 2 --cfg_interval 5,12 --cache magcache --cache_threshold 1)
check "an interval" make 1 model zero "${zero[@]}"
check "an interval: forwards of both branches are skipped" says '^cache   9 of 21' zero.log
check "an interval, cfg 2, sharded: the same bits" same_on 2 zero "${zero[@]}" --dit_fsdp --cfg_size 2

# A table that is measured, and used.
check "calibration" ranks 2 generate "${small[@]}" --ckpt_dir model --save_file c.mp4 --calibrate_cache c.json
ratios() {
    python3 - << 'PY'
import json, struct
name = "ratios"
data = open("RECORDED/cache.safetensors", "rb").read()
size = struct.unpack("<Q", data[:8])[0]
at, end = json.loads(data[8:8 + size])[name]["data_offsets"]
want = struct.unpack(f"<{(end - at) // 4}f", data[8 + size + at:8 + size + end])
table = json.load(open("c.json"))
worst = max(abs(a / b - 1) for a, b in zip(table["cond"] + table["uncond"], want, strict=True))
print(worst)
assert worst < 2e-4
PY
}
eval "$(declare -f ratios | sed "s:RECORDED:$recorded:")"
check "calibration: the recorded ratios" ratios
check "a run with them" make 1 model mine --cache magcache --cache_ratios c.json --cache_threshold 0.6
check "a run with them: fewer forwards" says '^cache   [12][0-9] of 32' mine.log

# Stopped while forwards are skipped, and resumed on other ranks.
long=(--sample_steps 150)
stopped() { # stopped NAME FLAGS...: a run that is stopped after some steps
    local name=$1
    shift
    "$wanmpi" generate "${small[@]}" "${long[@]}" --ckpt_dir model --save_file "$name.mp4" --run_file "$name.h5" \
        --save_every 1000 "$@" > "$name.log" 2>&1 &
    local job=$!
    while ! grep -qs '^sampling: [0-9]' "$name.log" && kill -0 $job 2> kill.log; do sleep 0.01; done
    kill -USR1 $job
    wait $job
    [ $? = 75 ] && grep 'after step [0-9]* of 150' "$name.log"
}
resumes() { # resumes NAME FLAGS...
    local name=$1
    shift
    make 1 model "$name-whole" "${long[@]}" "$@" && stopped "$name-stop" "$@" &&
        ranks 2 generate --resume "$name-stop.h5" && "$same" "$name-whole.h5" "$name-stop.h5"
}
check "magcache goes on: the same bits" resumes m --cache magcache --cache_ratios differ.json --cache_max_skip 5
check "easycache goes on: the same bits" resumes e --cache easycache --cache_threshold 0.2 --cache_retain 3
check "firstblock goes on: the same bits" resumes f --cache firstblock --cache_threshold 0.5 --cache_retain 2
check "another threshold is refused" not "$wanmpi" generate --resume m-stop.h5 --cache_threshold 0.2
check "another cache is refused" not "$wanmpi" generate --resume m-stop.h5 --cache easycache
echo '{"cond": [1, 1, 1], "uncond": [1, 1, 1]}' > differ.json
check "another table is refused" not make 1 model m "${long[@]}" --cache magcache --cache_ratios differ.json \
    --cache_max_skip 5 --run_file m-stop.h5
summary
