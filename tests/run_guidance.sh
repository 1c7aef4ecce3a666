#!/usr/bin/env bash
# run_guidance.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: runs that compute one CFG branch in some steps end in the recorded
# latents, with the same bits on any ranks, also after a stop and --resume.
golden=$(realpath "$3") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
small+=(--sample_steps 6)
synth tiny-A14B tiny-A14B
mv model tiny

make() { # make P MODEL NAME FLAGS...: a video NAME.mp4 and its run file NAME.h5; its output goes to NAME.log too
    local p=$1 model=$2 name=$3
    shift 3
    ranks "$p" generate "${small[@]}" --ckpt_dir "$model" --save_file "$name.mp4" --run_file "$name.h5" "$@" 2>&1 |
        tee "$name.log"
    return "${PIPESTATUS[0]}"
}
ends() { # ends MODEL CASE FLAGS...: in the recorded latents
    local model=$1 case=$2
    shift 2
    check "$model.$case" make 1 "$model" "$model.$case" "$@"
    check "$model.$case ends as recorded" "$golden" "$recorded" guidance.safetensors "$model.$case.h5" 2e-4 "$model.$case"
}

ends tiny gate --cfg_gate 0.5
ends tiny interval --sample_solver euler --cfg_interval 0.2,0.8 --cfg_gate 3
ends tiny star --cfg_zero_star
ends tiny zero --sample_solver euler --zero_init_steps 2
ends tiny-A14B gate --cfg_gate 0.5
all=(--cfg_gate 0.34 --cfg_interval 0,0.99 --cfg_zero_star)
ends tiny-A14B all "${all[@]}"
check "a run says what its steps do" says \
    '^guided  velocity 0 in step 1, both branches in step 2, .* last difference in steps 3 to 4, both .* 5, one branch in step 6; 7 forwards' \
    tiny-A14B.all.log
check "a gate after the last step" make 1 tiny never --cfg_gate 1 --cfg_merge
check "no gate" make 1 tiny plain
check "a gate after the last step: the same bits" "$same" plain.h5 never.h5
check "--cfg_merge is noted" says '^note .*--cfg_merge is not needed' never.log

for axes in "2" "3 --dit_fsdp --experts later" "4 --cfg_size 2 --ulysses_size 2 --dit_fsdp --experts later"; do
    read -r p flags <<< "$axes"
    # shellcheck disable=SC2086
    check "$p ranks, $flags" make "$p" tiny-A14B "ranks$p" "${all[@]}" $flags
    check "$p ranks, $flags: the same bits" "$same" tiny-A14B.all.h5 "ranks$p.h5"
done
check "4 ranks share the sequence" says '^ranks   4: cfg 2 x ring 1 x ulysses 2; in steps with one branch ring 1 x ulysses 4,' ranks4.log

# Stopped in the gate, and resumed on other ranks.
long=(--sample_steps 200 --cfg_gate 0 --save_every 1000)
stopped() { # starts the run, and stops it when it has done some steps
    "$wanmpi" generate "${small[@]}" "${long[@]}" --ckpt_dir tiny --save_file stop.mp4 --run_file stop.h5 > stop.log 2>&1 &
    local job=$!
    while ! grep -qs '^sampling: [0-9]' stop.log && kill -0 $job 2> kill.log; do sleep 0.01; done
    kill -USR1 $job
    wait $job
    [ $? = 75 ] && grep -qa difference stop.h5
}
check "200 steps" make 1 tiny whole "${long[@]}"
check "stopped" stopped
check "another gate is refused" not ranks 1 generate --resume stop.h5 --cfg_gate 3
check "goes on, on 2 ranks" ranks 2 generate --resume stop.h5
check "goes on: the same bits" "$same" whole.h5 stop.h5
echo '{"prompt": "Two cats boxing", "cfg_gate": 0.5, "save_file": "b.mp4", "run_file": "b.h5"}' > jobs.jsonl
check "a batch" ranks 1 batch jobs.jsonl --ckpt_dir tiny --size 64*48 --frame_num 5 --sample_steps 6 --base_seed 7 \
    --threads 1
check "a batch: the same bits" "$same" tiny.gate.h5 b.h5
summary
