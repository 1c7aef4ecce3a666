#!/usr/bin/env bash
# run_offload.sh WANMPI SAME_LATENTS: blocks of the transformer that are in host memory or in their file give the same
# bits as those that stay on the device, on one rank and two, sharded or not, with two experts, and when a run goes on;
# memory stays within --vram_limit, and a limit that is too small names the smallest that works.
unset MALLOC_PERTURB_ # it writes into memory that the program does not use
. "$(dirname "$0")/run_common.sh" "$1" "$2"
common=("${small[@]}" --sample_steps 4)
synth tiny-A14B pair

make() { # make P NAME FLAGS...: a video NAME.mp4, its run file NAME.h5, and its log NAME.log
    local p=$1 name=$2
    shift 2
    ranks "$p" generate "${common[@]}" --save_file "$name.mp4" --run_file "$name.h5" "$@" > "$name.log" 2>&1 ||
        { cat "$name.log"; return 1; }
}
as() { # as AGAINST P NAME FLAGS...: ends with the same bits
    local against=$1 name=$3
    shift
    make "$@" && "$same" "$against.h5" "$name.h5"
}

one=(--task t2v-1.3B --ckpt_dir model) two=(--task t2v-A14B --ckpt_dir pair) none="--num_persistent_param_in_dit 0"
check "all blocks on the device" make 1 one "${one[@]}"
# shellcheck disable=SC2086
{
    check "in host memory" as one 1 host "${one[@]}" $none
    check "in the file" as one 1 disk "${one[@]}" $none --offload_device disk
    check "two ranks, shared" as one 2 shared "${one[@]}" $none --dit_fsdp=False --cfg_size 1
    check "two ranks, sharded" as one 2 sharded "${one[@]}" $none --dit_fsdp --cfg_size 1
    check "two experts" make 1 both "${two[@]}"
    check "two experts in host memory" as both 1 host-both "${two[@]}" $none
    check "two experts, two ranks" as both 2 shared-both "${two[@]}" $none --dit_fsdp=False
    check "two experts, two ranks, sharded" as both 2 sharded-both "${two[@]}" $none --dit_fsdp
    check "one expert at a time" as both 2 ahead "${two[@]}" $none --experts ahead --dit_fsdp=False
}
check "the log" says '^weights 0 of 3 blocks stay on the device, the others are in .* that the ranks of a node share' \
    shared.log

# Some blocks stay: those for which there is room within the limit.
check "two of three blocks" as one 1 some "${one[@]}" --num_persistent_param_in_dit 500000
check "two of three: the log" says '^weights 2 of 3 blocks stay' some.log
check "two of three, sharded" as one 2 some-fsdp "${one[@]}" --num_persistent_param_in_dit 500000 --dit_fsdp \
    --cfg_size 1
check "two of three, from the file" as one 1 some-disk "${one[@]}" --num_persistent_param_in_dit 500000 \
    --offload_device disk

# The smallest limit, as the refusal names it, and less.
refused() { ! make 1 "$@" > refused.log 2>&1; }
big=(--task t2v-1.3B --ckpt_dir big --frame_num 1)
synth tiny big --dim 384 --ffn_dim 1536 --heads 3 --layers 6
check "a larger model" make 1 big "${big[@]}"
check "too small a limit" refused small "${big[@]}" --vram_limit 0.001
check "one line" [ "$(grep -c '^wanmpi: ' refused.log)" = 1 ]
check "the smallest" says '^wanmpi: --vram_limit leaves 0.00 GB, but rank 0 needs 0.[0-9]* GB, the smallest limit that works; ' \
    refused.log
least=$(sed -n 's/.*rank 0 needs \([0-9.]*\) GB.*/\1/p' refused.log)
check "the smallest works" as big 1 least "${big[@]}" --vram_limit "$(awk -v x="$least" 'BEGIN { print x + 0.005 }')"
check "the smallest: the log" says '^weights [0-5] of 6 blocks stay on the device, the others are in' least.log
check "the smallest, two ranks" as big 2 least2 "${big[@]}" --vram_limit "$(awk -v x="$least" 'BEGIN { print x + 0.02 }')"
within() { awk '/^memory  rank/ { n++; over += $5 > $8 } END { exit over > 0 || n == 0 }' "$@"; }
check "within the plan" within ./*.log

# A run that goes on with another place of its blocks.
stopped() {
    "$wanmpi" generate "${common[@]}" "${one[@]}" --sample_steps 60 --save_file on.mp4 --run_file on.h5 \
        --num_persistent_param_in_dit 0 > on.log 2>&1 &
    local job=$!
    wait_for grep -qs '^sampling: [0-9]' on.log
    kill -USR1 $job
    wait $job
    [ $? = 75 ]
}
check "60 steps" make 1 whole "${one[@]}" --sample_steps 60
check "stopped" stopped
check "goes on with all blocks on the device" ranks 1 generate --resume on.h5 --ckpt_dir model
check "goes on: the same bits" "$same" whole.h5 on.h5

summary
