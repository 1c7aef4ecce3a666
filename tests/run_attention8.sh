#!/usr/bin/env bash
# run_attention8.sh WANMPI SAME_LATENTS: --attention 8bit gives other numbers than exact attention, but the same on any
# number of ranks; the run file keeps the choice.
. "$(dirname "$0")/run_common.sh" "$1" "$2"
common=(--task t2v-1.3B --ckpt_dir model --size 64*64 --frame_num 5 --sample_steps 3 --base_seed 7 --threads 1 --ops ref
        --prompt "Two cats boxing" --precision bf16)

make() { # make P NAME FLAGS...: a run file NAME.h5 and a log NAME.log
    local p=$1 name=$2
    shift 2
    ranks "$p" generate "${common[@]}" --save_file "$name.mp4" --run_file "$name.h5" "$@" > "$name.log" 2>&1 ||
        { cat "$name.log"; return 1; }
}
refused() { # refused PATTERN FLAGS...
    local pattern=$1
    shift
    ! ranks 1 generate "$@" > refused.log 2>&1 && grep -q "^wanmpi: $pattern" refused.log || { cat refused.log; false; }
}
eight=(--attention 8bit --attention_exact_blocks 1,0)
check "exact" make 1 exact
check "8 bits" make 1 eight "${eight[@]}"
check "the log" grep -q '^attn    8-bit in steps 2 to 2 of 3, in blocks 2 to 3 of 3' eight.log
check "near exact" "$same" exact.h5 eight.h5 0.1
check "not exact" not "$same" exact.h5 eight.h5 1e-5
check "the same on two ranks" make 2 two "${eight[@]}" --cfg_size 1
check "the same bits" "$same" eight.h5 two.h5
check "resumed as exact" refused '--attention differs from the run in eight.h5' --resume eight.h5 --attention exact
check "no blocks left" refused '--attention 8bit: of 3 blocks the first 2 and the last 2 stay exact' "${common[@]}" \
    --save_file x.mp4 --attention 8bit
check "without 8bit" refused '--attention_exact_steps and --attention_exact_blocks are for --attention 8bit' \
    "${common[@]}" --save_file x.mp4 --attention_exact_steps 0,0
summary
