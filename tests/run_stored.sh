#!/usr/bin/env bash
# run_stored.sh WANMPI SAME_LATENTS MAKE_LORA MAKE_CHECKPOINT: matrices that stay as they are in the file (--weights
# stored) give the bits of those that are expanded when they are loaded: with LoRAs, on the device, in host memory and in
# the file, sharded and read ahead. And a LoRA on a quantized file gives the bits of the LoRA on its values.
make_lora=$(realpath "$3") make_checkpoint=$(realpath "$4")
. "$(dirname "$0")/run_common.sh" "$1" "$2"
common=("${small[@]}" --sample_steps 2)

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
refused() { # refused LINE COMMAND...: with one line that has the pattern
    local line=$1
    shift
    not "$@" && [ "$(grep -c '^wanmpi: ' check.log)" = 1 ] && says "^wanmpi: .*$line" check.log
}

synth tiny q8 --dit_dtype q8_0
synth tiny fp8 --dit_dtype fp8
synth tiny-A14B pair --dit_dtype fp8
mkdir plain
echo '{"num_heads": 4}' > plain/config.json
"$make_checkpoint" plain q8/diffusion_pytorch_model.gguf plain/a.safetensors
"$make_lora" tiny 4 1 style.safetensors
"$make_lora" tiny 3 4 loha.safetensors loha
lora=(--lora style.safetensors --lora style.safetensors:-0.3) stored=(--weights stored)
one="--cfg_size 1" none="--num_persistent_param_in_dit 0"

# shellcheck disable=SC2086
{
    # A LoRA on a quantized file, which is expanded when it is loaded (the default), and when it is used.
    check "a LoRA on the values" make 1 values --ckpt_dir q8 --dit plain/a.safetensors "${lora[@]}"
    check "a LoRA on Q8_0" as values 1 q8 --ckpt_dir q8 "${lora[@]}"
    check "stored" as values 1 q8-stored --ckpt_dir q8 "${lora[@]}" "${stored[@]}"
    check "stored, from the file" as values 1 q8-disk --ckpt_dir q8 "${lora[@]}" "${stored[@]}" $none \
        --offload_device disk
    check "stored, sharded" as values 2 q8-fsdp --ckpt_dir q8 "${lora[@]}" "${stored[@]}" $one --dit_fsdp
    check "fp8 in bf16" make 1 fp8 --ckpt_dir fp8 --precision bf16 "${lora[@]}" --lora loha.safetensors:0.5
    check "stored, with another kind of adapter, in host memory" as fp8 2 fp8-host --ckpt_dir fp8 --precision bf16 \
        "${lora[@]}" --lora loha.safetensors:0.5 "${stored[@]}" $one $none
    check "two experts" make 1 pair --ckpt_dir pair "${lora[@]}"
    check "stored, read ahead" as pair 2 pair-ahead --ckpt_dir pair "${lora[@]}" "${stored[@]}" --experts ahead $one
}
check "the log" says '^weights matrices of blocks stay as they are in the file' q8-stored.log
within() { awk '/^memory  rank/ { n++; over += $5 > $8 } END { exit over > 0 || n == 0 }' "$@"; }
check "within the plan" within ./*.log

# What stays is smaller, by about 8.5 bits of a value against 32.
plan() { "$wanmpi" plan --task t2v-1.3B --size 64*48 --frame_num 5 --json "$@"; }
bytes() { plan "$@" | python3 -c 'import json, sys
print([s["weight_bytes"] for s in json.load(sys.stdin)["ranks"][0]["stages"] if s["stage"] == "step"][0])'; }
smaller() { [ "$(($(bytes --ckpt_dir q8 "${stored[@]}") * 4))" -lt "$(($(bytes --ckpt_dir q8) * 3))" ]; }
check "the plan" smaller
echo '{"prompt": "Two cats boxing", "save_file": "line.mp4", "run_file": "line.h5"}' > jobs.jsonl
check "a batch" ranks 1 batch jobs.jsonl --ckpt_dir q8 "${lora[@]}" "${stored[@]}" --size 64*48 --frame_num 5 --sample_steps 2 \
    --base_seed 7 --threads 1
check "a batch, the same bits" "$same" values.h5 line.h5
check "goes on with expanded weights" ranks 1 generate --resume q8-stored.h5 --save_file on.mp4
check "a file without quantized matrices" ranks 1 plan --ckpt_dir q8 --dit plain/a.safetensors "${stored[@]}"
mv check.log plain.log
check "a file without quantized matrices: it says so" says 'are not quantized: --weights stored changes nothing' plain.log
check "no file" refused 'weights stored needs --ckpt_dir' plan "${stored[@]}"
check "synth: one file" refused 'writes one GGUF file: remove --diffusers' "$wanmpi" synth --preset tiny --dit_dtype q8_0 \
    --diffusers --out none
check "a wrong value" refused 'bf16 or stored' plan --ckpt_dir q8 --weights fp8
summary
