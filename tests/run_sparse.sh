#!/usr/bin/env bash
# run_sparse.sh WANMPI SAME_LATENTS: generations with weights of sparse attention: the same bits on any number of ranks,
# with sharded and with streamed weights, and when a run goes on; what does not go together is refused in one line.
. "$(dirname "$0")/run_common.sh" "$1" "$2"
common=(--size 96*96 --frame_num 5 --sample_steps 2 --base_seed 7 --prompt "Two cats boxing" --threads 1)
synth tiny-vsa vsa --diffusers
synth tiny-sla sla

make() { # make P NAME FLAGS...: a run file NAME.h5 and a log NAME.log
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
refused() { # refused PATTERN FLAGS...
    local pattern=$1
    shift
    ! "$wanmpi" generate "${common[@]}" --save_file x.mp4 "$@" > refused.log 2>&1 && grep -q "^wanmpi: $pattern" refused.log &&
        [ "$(grep -c '^wanmpi: ' refused.log)" = 1 ] || { cat refused.log; false; }
}

check "VSA" make 1 vsa --ckpt_dir vsa --vsa_sparsity 0.5
check "the log" says '^attn    video sparse attention (VSA): each tile of 64 tokens to 2 of 4 tiles of 64, 50.0 % of all' vsa.log
check "three ranks, sharded" as vsa 3 vsa3 --ckpt_dir vsa --vsa_sparsity 0.5 --dit_fsdp --cfg_size 1
check "streamed" as vsa 1 vsa-disk --ckpt_dir vsa --vsa_sparsity 0.5 --num_persistent_param_in_dit 0 --offload_device disk
check "as trained" make 1 trained --ckpt_dir vsa
check "the default" says 'to 1 of 4 tiles' trained.log
check "another video" moved vsa.h5 trained.h5
check "SLA" make 1 sla --ckpt_dir sla --sla_topk 0.6
check "the log" says '^attn    sparse-linear attention (SLA): each tile of 64 tokens to 1 of 1 tiles of 128' sla.log
check "two ranks" as sla 2 sla2 --ckpt_dir sla --sla_topk 0.6 --cfg_size 1
check "resumed as another" refused '--vsa_sparsity differs from the run in vsa.h5' --resume vsa.h5 --vsa_sparsity 0.8
check "a ring" refused "--ring_size 2: this transformer's self attention is sparse (VSA)" --ckpt_dir vsa --ring_size 2
check "8 bits" refused '--attention 8bit is for attention to all tokens' --ckpt_dir vsa --attention 8bit
plan() { "$wanmpi" plan --gpus 8 "$@" > plan.log 2>&1; }
check "plan" plan --task t2v-14B --vsa_sparsity 0.9 --meshes
check "plan: tiles" says '^attention video sparse attention (VSA): each tile of 64 tokens to 144 of 1440 tiles of 64, 10.0 %' plan.log
check "plan: no ring" says '^ranks     8: cfg 2 x ring 1 x ulysses 4;' plan.log
check "plan of SLA" plan --task i2v-A14B --sla_topk 0.15
check "other weights" refused "--vsa_sparsity is for FastWan's weights with VSA" --ckpt_dir model --vsa_sparsity 0.5
check "the other option" refused "--sla_topk is for TurboWan's weights with SLA" --ckpt_dir vsa --sla_topk 0.5
summary
