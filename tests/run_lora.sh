#!/usr/bin/env bash
# run_lora.sh WANMPI SAME_LATENTS MAKE_LORA: a LoRA gives the same latent on any ranks, sharded or not, and however two
# experts are kept in memory; it belongs to the identity of the weights.
make_lora=$(realpath "$3")
. "$(dirname "$0")/run_common.sh" "$1" "$2"
common=("${small[@]}" --sample_steps 4)
synth tiny-A14B pair
"$make_lora" tiny 4 1 style.safetensors
"$make_lora" tiny 8 2 motion.safetensors transformer.
"$make_lora" tiny 2 3 low.safetensors transformer_2.
for kind in loha lokr dora; do
    "$make_lora" tiny 3 4 $kind.safetensors $kind
done

refused() { # refused LINE COMMAND...: with one line that has the pattern
    local line=$1
    shift
    not "$@" && [ "$(grep -c '^wanmpi: ' check.log)" = 1 ] && says "^wanmpi: .*$line" check.log
}

both=(--ckpt_dir model --lora style.safetensors --lora motion.safetensors:0.5 --lora loha.safetensors:-0.3
    --lora lokr.safetensors:0.7 --lora dora.safetensors:0.2)
check "base" make 1 base --ckpt_dir model
check "strength 0" make 1 zero --ckpt_dir model --lora style.safetensors:0
check "strength 0, the same bits" "$same" base.h5 zero.h5
check "five adapters" make 1 both "${both[@]}"
cp check.log both.log
check "five adapters: named" says '^lora .*motion.safetensors: strength 0.5, PEFT/diffusers, rank 8, [0-9]* tensors' both.log
check "five adapters, another latent" moved base.h5 both.h5
check "on two ranks, sharded" make 2 sharded "${both[@]}" --dit_fsdp --cfg_size 1
check "on two ranks, sharded, the same bits" "$same" both.h5 sharded.h5
check "on two ranks, blocks in host memory" make 2 host "${both[@]}" --num_persistent_param_in_dit 0 --cfg_size 1
check "blocks in host memory, the same bits" "$same" both.h5 host.h5
check "blocks in the file" make 1 disk "${both[@]}" --num_persistent_param_in_dit 0 --offload_device disk
check "blocks in the file, the same bits" "$same" both.h5 disk.h5
check "on three ranks, with other layers of memory" make 3 three "${both[@]}" --cfg_size 1
check "on three ranks, the same bits" "$same" both.h5 three.h5
check "in bf16" make 1 bf16 "${both[@]}" --precision bf16
check "in bf16 on two ranks" make 2 bf16-2 "${both[@]}" --precision bf16 --dit_fsdp --cfg_size 1
check "in bf16, the same bits" "$same" bf16.h5 bf16-2.h5

pair=(--ckpt_dir pair --lora style.safetensors:0.5 --lora_low low.safetensors --lora_high motion.safetensors)
check "two experts" make 1 pair "${pair[@]}"
for way in later ahead; do
    check "two experts, $way" make 2 $way "${pair[@]}" --experts $way --cfg_size 1
    check "two experts, $way, the same bits" "$same" pair.h5 $way.h5
done
check "one expert's LoRA" make 1 high --ckpt_dir pair --lora style.safetensors:0.5 --lora_high motion.safetensors
check "one expert's LoRA, another latent" moved pair.h5 high.h5

# Merged into files: the same values, in any layout.
synth tiny shards --diffusers --shard_gb 0.001
for source in model shards; do
    check "convert $source" ranks 1 convert "${both[@]}" --ckpt_dir $source --out $source-merged
    check "convert $source: a complete checkpoint" ranks 1 inspect $source-merged
    check "convert $source: its latent" make 1 $source-merged --ckpt_dir $source-merged
    check "convert $source: the same bits" "$same" both.h5 $source-merged.h5
done
check "convert: names of the source" cmp <(ls shards/transformer) <(ls shards-merged/transformer)
check "convert two experts" ranks 2 convert "${pair[@]}" --out pair-merged
check "convert two experts: its latent" make 1 pair-merged --ckpt_dir pair-merged
check "convert two experts: the same bits" "$same" pair.h5 pair-merged.h5
check "convert a file" ranks 1 convert --ckpt_dir model/diffusion_pytorch_model.safetensors --lora style.safetensors \
    --dtype bf16 --out style-bf16.safetensors
check "convert a file: half the size" test "$(stat -c %s style-bf16.safetensors)" -lt \
    "$(($(stat -Lc %s model/diffusion_pytorch_model.safetensors) * 51 / 100))"
check "convert: a folder that exists" refused 'exists; choose a new folder' ranks 1 convert "${both[@]}" --out pair
check "convert: nothing to do" refused 'has nothing to do' ranks 1 convert --ckpt_dir model --out none
check "convert: another model's LoRA leaves nothing" refused 'changes nothing of the transformer' \
    ranks 1 convert --ckpt_dir model --lora low.safetensors --out none
check "convert: nothing is left" test -z "$(ls -d none* ./*.partial-* .wanmpi-* 2> ls.log)"

# The identity of the weights.
check "goes on with its LoRAs" ranks 2 generate --resume both.h5 --save_file again.mp4
check "other LoRAs are refused" refused 'other weights of the dit' \
    ranks 1 generate --resume both.h5 --lora style.safetensors --save_file again.mp4
check "a LoRA of the run is not left out" refused 'other weights of the dit' \
    ranks 1 generate --resume base.h5 --lora style.safetensors:0.1 --save_file again.mp4
cat > jobs.jsonl << 'EOF'
{"prompt": "Two cats boxing", "save_file": "batch.mp4", "run_file": "batch.h5"}
EOF
check "a batch" ranks 2 batch jobs.jsonl "${both[@]}" --size 64*48 --frame_num 5 --sample_steps 4 --base_seed 7 \
    --threads 1
check "a batch, the same bits" "$same" both.h5 batch.h5
check "a plan" ranks 1 plan --task t2v-1.3B "${both[@]}" --size 64*48 --frame_num 5
echo '{"prompt": "x", "lora": ["style.safetensors"]}' > other.jsonl
check "a line's own LoRA" refused 'lora must be the same for all lines' \
    ranks 1 batch other.jsonl "${both[@]}" --size 64*48 --frame_num 5

# Wrong uses.
check "an expert's LoRA without experts" refused 'has one transformer; remove it' \
    ranks 1 generate --ckpt_dir model --lora_low low.safetensors --task t2v-1.3B
check "no checkpoint" refused 'lora needs --ckpt_dir' ranks 1 plan --lora style.safetensors
check "no file" refused 'none.safetensors: No such file' ranks 2 generate --ckpt_dir model --lora none.safetensors
check "a checkpoint as LoRA" refused 'is no LoRA' \
    ranks 1 generate --ckpt_dir model --lora model/diffusion_pytorch_model.safetensors
check "a LoRA as checkpoint" refused 'is a LoRA: pass it with --lora' ranks 1 generate --ckpt_dir style.safetensors
"$make_lora" tiny-i2v-14B 4 1 wide.safetensors
check "another model's LoRA" refused 'does not fit the tensor\|match no tensor of the transformer' \
    ranks 2 generate --ckpt_dir model --lora wide.safetensors
summary
