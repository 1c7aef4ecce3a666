#!/usr/bin/env bash
# run_finite.sh WANMPI SAME_LATENTS: a value that is not finite, anywhere, ends the run in one line, and no such
# state is saved.
. "$(dirname "$0")/run_common.sh"

"$wanmpi" synth --preset tiny --diffusers --out good > synth.log 2>&1 || { cat synth.log; exit 1; }
run=(generate --task t2v-1.3B --size 64*64 --frame_num 5 --sample_steps 3 --base_seed 7 --threads 1
     --save_file a.mp4 --run_file a.h5 --save_every 1 --prompt x)

# poison FOLDER NAME: a copy of the checkpoint in which the tensor's first value is NaN
poison() {
    local file
    rm -rf bad
    cp -r good bad
    file=$(grep -l -a "\"$2\"" bad/"$1"/*.safetensors | head -1)
    local header length at
    length=$(od -An -t u8 -N 8 "$file" | tr -d ' ')
    header=$(head -c $((8 + length)) "$file" | tail -c "$length" | tr -d '\0')
    at=$(sed "s/.*\"${2//./\\.}\":{[^}]*\"data_offsets\":\[\([0-9]*\),.*/\1/" <<< "$header")
    printf '\377\377\377\377' | dd of="$file" bs=1 seek=$((8 + length + at)) conv=notrunc status=none
}

# ends P LINE FLAGS...: status 3, one line with the pattern, no video, and a run file that can be
# read: values that are not finite are refused
ends() {
    local p=$1 line=$2 status
    shift 2
    rm -f a.h5
    ranks "$p" "${run[@]}" --ckpt_dir bad "$@" > out 2>&1
    status=$?
    [ $status -eq 3 ] && [ "$(grep -c '^wanmpi: ' out)" -eq 1 ] && grep -q "^wanmpi: .*$line" out &&
        [ ! -e a.mp4 ] && { [ ! -e a.h5 ] || "$same" a.h5 a.h5; } || { echo "status $status"; cat out; false; }
}

check "a good run" ranks 1 "${run[@]}" --ckpt_dir good
rm -f a.mp4
poison transformer blocks.1.ffn.net.2.bias
check "transformer" ends 1 'step 1: the latent has values that are not finite (--check_finite names'
check "transformer, two ranks" ends 2 'step 1: the latent has values that are not finite'
check "transformer, named block" ends 2 'step 1: .* not finite (first after block 1)' --check_finite
check "transformer, ring" ends 2 'first after block 1)' --check_finite --ring_size 2
poison text_encoder encoder.final_layer_norm.weight
check "text encoder" ends 2 'the text encoder gives values that are not finite'
poison vae decoder.conv_out.bias
check "VAE" ends 2 'the VAE decodes to values that are not finite'
check "VAE, tiles" ends 2 'the VAE decodes to values that are not finite' --tiled --tile_size 6,6 --tile_stride 4,4
summary
