#!/bin/sh
# Whole runs from quantized files that the reference packages wrote: the same latent as from a plain file of the values,
# to the last bit, on one rank and on two that read parts of it; what inspect and plan say; and the flags for files.
#     formats.sh WANMPI MAKE_CHECKPOINT SAME_LATENTS GOLDEN MPIRUN [its arguments]
. "$(dirname "$0")/checkpoint_common.sh"
golden=$1/formats.safetensors
shift
mpirun=$*

# check NAME COMMAND...
check() {
    what=$1
    shift
    count=$((count + 1))
    "$@" >log 2>&1 && return
    wrong=$((wrong + 1))
    echo "$what: $*"
    sed 's/^/    /' log
}

# generate NAME FLAGS...: with $start before the program
start=
generate() {
    out=$1
    shift
    # shellcheck disable=SC2086
    need $start "$wanmpi" generate "$@" --size 64*64 --frame_num 5 --sample_steps 2 --base_seed 3 \
        --threads 1 --prompt 'a cat' --save_file "$out.mp4" --run_file "$out.h5"
}

# says PATTERN COMMAND...: prints it; the status does not matter
says() {
    pattern=$1
    shift
    "$@" >out 2>&1
    cat out
    grep -q -e "$pattern" out
}

need "$wanmpi" synth --preset tiny --parts t5,vae --out others
for file in dit_mixed.gguf dit_comfy.safetensors dit_lightx2v.safetensors dit_bits.safetensors; do
    name=${file%.*}
    mkdir -p "$name/plain"
    echo '{"num_heads": 2}' | tee "$name/plain/config.json" >"$name/config.json"
    need "$make" file "$golden" "file.$file" "$name/$file"
    need "$make" plain "$name/$file" "$name/plain/a.safetensors"
    generate "$name-plain" --ckpt_dir others --dit "$name/plain/a.safetensors"
    generate "$name-one" --ckpt_dir others --dit "$name/$file"
    check "$name, one rank" "$same" "$name-plain.h5" "$name-one.h5"
done
for name in dit_mixed dit_comfy dit_lightx2v dit_bits; do # their matrices stay as in the file
    generate "$name-stored" --ckpt_dir others --dit "$(ls $name/$name.*)" --weights stored
    check "$name, stored" "$same" "$name-plain.h5" "$name-stored.h5"
done
start="$mpirun -n 2"
generate sharded --dit dit_mixed/dit_mixed.gguf --t5 others/models_t5_umt5-xxl-enc-bf16.pth \
    --vae others/Wan2.1_VAE.pth --dit_fsdp
check "two ranks" "$same" dit_mixed-plain.h5 sharded.h5
check "inspect, GGUF" says '^  dtypes .*Q4_K in 1.*Q8_0 in 4' "$wanmpi" inspect dit_mixed/dit_mixed.gguf
check "inspect, memory" says '^  memory  *--weights stored keeps matrices of 0.00 GB' "$wanmpi" inspect \
    dit_mixed/dit_mixed.gguf
check "inspect, fp8" says '^  dtypes .*F8_E4M3 scaled in 16' "$wanmpi" inspect dit_comfy/dit_comfy.safetensors
check "inspect, a VAE" says '^  config  *16 latent channels' "$wanmpi" inspect others/Wan2.1_VAE.pth
check "plan" says '^model  *t2v-1.3B: 2 layers of 32, 2 heads' "$wanmpi" plan --task t2v-1.3B --dit dit_mixed/dit_mixed.gguf \
    --t5 others/models_t5_umt5-xxl-enc-bf16.pth --vae others/Wan2.1_VAE.pth --size 64*64 --frame_num 5

echo "formats: $count checks, $wrong failed"
[ $wrong = 0 ]
