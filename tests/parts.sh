#!/bin/sh
# Checkpoints whose parts do not fit each other or the task, or that lack the tokenizer: one line before
# anything is loaded, from every command, on one rank and two. And parts in the places where ComfyUI's
# users have them.
#     parts.sh WANMPI MAKE_CHECKPOINT SAME_LATENTS MPIRUN [its arguments]
. "$(dirname "$0")/checkpoint_common.sh"
mpirun=$*

bad() {
    wrong=$((wrong + 1))
    echo "$*"
    sed 's/^/    /' out
}

# refused LINE COMMAND...: fails, and its one line holds the pattern
refused() {
    line=$1
    shift
    count=$((count + 1))
    if timeout -k 5 300 "$@" >out 2>&1; then
        bad "succeeded: $*"
    elif [ "$(grep -c '^wanmpi: ' out)" != 1 ] || ! grep -q "^wanmpi: .*$line" out; then
        bad "not one line with '$line': $*"
    fi
}

# says PATTERN COMMAND...: succeeds, and prints it
says() {
    line=$1
    shift
    count=$((count + 1))
    timeout -k 5 300 "$@" >out 2>&1 && grep -q -e "$line" out || bad "no '$line' from: $*"
}

# reports PATTERN COMMAND...: fails, but prints it
reports() {
    line=$1
    shift
    count=$((count + 1))
    if timeout -k 5 300 "$@" >out 2>err; then
        bad "succeeded: $*"
    elif ! grep -q -e "$line" out || [ "$(grep -c '^wanmpi: ' err)" != 1 ]; then
        bad "no '$line', or not one error line, from: $*"
    fi
}

# everywhere LINE DIR [TASK]: inspect reports it; plan, generate on one rank and two, and batch end with it
everywhere() {
    reports "^  parts  *.*$1" "$wanmpi" inspect "$2"
    refused "$1" "$wanmpi" plan --task "${3:-t2v-1.3B}" --ckpt_dir "$2" --size 64*64 --frame_num 5
    for start in '' "$mpirun -n 2"; do
        # shellcheck disable=SC2086
        refused "$1" $start "$wanmpi" generate --task "${3:-t2v-1.3B}" --ckpt_dir "$2" \
            --size 64*64 --frame_num 5 --sample_steps 1 --save_file a.mp4
    done
    # shellcheck disable=SC2086
    refused "$1" $mpirun -n 2 "$wanmpi" batch jobs.jsonl --ckpt_dir "$2" --size 64*64 --frame_num 5 \
        --sample_steps 1
}

echo '{"prompt": "a cat"}' >jobs.jsonl
small="--dim 128 --ffn_dim 256 --heads 4 --layers 2 --freq_dim 64 --text_dim 64"
for layout in official diffusers; do
    flag=
    [ $layout = official ] || flag=--diffusers
    need "$wanmpi" synth --preset tiny $flag --out "$layout"
    # shellcheck disable=SC2086
    need "$wanmpi" synth --preset ti2v-5B $small $flag --parts dit --out "wide-$layout"
    need "$wanmpi" synth --preset tiny $flag --text_dim 96 --out "text-$layout"
done

# ---- text of another width; latents of another number of channels
cp -r official text
cp text-official/models_t5* text/
everywhere 'text of width 64, but the text encoder outputs 96' text
cp -r diffusers text-d
rm -r text-d/text_encoder
cp -r text-diffusers/text_encoder text-d/
everywhere 'text of width 64, but the text encoder outputs 96' text-d
cp -r official wide
cp wide-official/diffusion* wide-official/config.json wide/
everywhere 'latents of 48 channels, but the VAE needs 16' wide ti2v-5B
cp -r diffusers wide-d
rm -r wide-d/transformer
cp -r wide-diffusers/transformer wide-d/
everywhere 'latents of 48 channels, but the VAE needs 16' wide-d ti2v-5B

# ---- a vocabulary that is smaller than the tokenizer, and no tokenizer
cp -r official words
need "$wanmpi" synth --preset tiny --t5_vocab 300 --parts t5 --out words-t5
cp words-t5/models_t5* words/
everywhere 'the tokenizer has .* pieces, but the text encoder a vocabulary of 300' words
cp -r official silent
rm -r silent/google
everywhere 'the tokenizer is missing; put google/umt5-xxl/spiece.model' silent

# ---- the task and the checkpoint
need "$make" sparse t2v-1.3B small
need "$make" sparse t2v-14B large
need "$make" sparse animate-14B animate
need "$make" sparse i2v-A14B expert
reports '^  task  *t2v-1.3B$' "$wanmpi" inspect small # has no text encoder
reports '^  task  *t2v-14B$' "$wanmpi" inspect large
says '^  task  *t2v-1.3B$' "$wanmpi" inspect official
# shellcheck disable=SC2086
refused 'small is a checkpoint of t2v-1.3B; use --task t2v-1.3B or phantom-1.3B, or remove' \
    $mpirun -n 2 "$wanmpi" generate --task t2v-14B --ckpt_dir small
refused 'small is a checkpoint of t2v-1.3B; use --task t2v-1.3B' \
    "$wanmpi" plan --task t2i-14B --ckpt_dir small
refused 'large is a checkpoint of t2v-14B; use --task t2v-14B, t2i-14B or phantom-14B' \
    "$wanmpi" plan --task t2v-1.3B --ckpt_dir large
refused 'large: the text encoder is missing' "$wanmpi" generate --ckpt_dir large
refused "the feature 'face adapter (Animate)'" "$wanmpi" generate --ckpt_dir animate
refused 'task i2v-A14B needs --image' "$wanmpi" generate --ckpt_dir expert
mkdir pair
need "$make" sparse t2v-A14B pair/high_noise_model
need "$make" sparse t2v-A14B pair/low_noise_model
reports '^transformer for low noise' "$wanmpi" inspect pair
reports '^  task  *t2v-A14B$' "$wanmpi" inspect pair
refused 'pair: the text encoder is missing' "$wanmpi" generate --ckpt_dir pair
refused 'pair is a checkpoint of t2v-A14B; use --task t2v-A14B, or remove' \
    "$wanmpi" generate --task t2v-14B --ckpt_dir pair

# A pair that is no released model, and one of a pair alone: not run as a model with one transformer.
mkdir tiny_pair one_of_pair
cp -r official/models_t5* official/google official/Wan2.1_VAE.pth tiny_pair
cp -r official/models_t5* official/google official/Wan2.1_VAE.pth one_of_pair
for folder in tiny_pair/high_noise_model tiny_pair/low_noise_model one_of_pair/high_noise_model; do
    mkdir $folder
    cp official/config.json official/*.safetensors $folder
done
for folder in tiny_pair one_of_pair; do
    refused 'has two transformers (experts).*; use --task t2v-A14B, or remove' \
        "$wanmpi" generate --task t2v-1.3B --ckpt_dir $folder
done
says '^  task  *t2v-A14B$' "$wanmpi" inspect tiny_pair
for command in plan generate; do
    refused 'one_of_pair: the transformer for low noise is missing; tried low_noise_model/' \
        "$wanmpi" $command --ckpt_dir one_of_pair
done

# ---- a part that cannot be read is not said to fit
cp -r official damaged
echo garbage >damaged/diffusion_pytorch_model.safetensors
reports '^  parts .*not compared: the transformer cannot be read' "$wanmpi" inspect damaged

# ---- tensors of features with another shape, and a tensor of no known feature
cp -r official feature
for tensor in ref_conv.weight control_adapter.conv.weight; do
    need "$make" extra official/diffusion_pytorch_model.safetensors \
        feature/diffusion_pytorch_model.safetensors $tensor
    refused "tensor $tensor is U8 .5.; expected 4 axes" "$wanmpi" generate --ckpt_dir feature
done
need "$make" extra official/diffusion_pytorch_model.safetensors \
    feature/diffusion_pytorch_model.safetensors blocks.0.new.weight
refused '1 tensor is unknown (blocks.0.new.weight)' "$wanmpi" generate --ckpt_dir feature
need "$make" extra official/diffusion_pytorch_model.safetensors \
    feature/diffusion_pytorch_model.safetensors fps_embedding.weight
refused 'is SkyReels-V2 with diffusion forcing, which' "$wanmpi" generate --ckpt_dir feature

# ---- widths of the tensors that features add: those of the file, which must fit each other
fits() {
    need "$make" sparse "$@"
    reports '^  state  *complete' "$wanmpi" inspect "$2"
}
differs() {
    line=$1
    shift
    need "$make" sparse "$@"
    reports "^  state  *$2/diffusion_pytorch_model.safetensors: tensor $line" "$wanmpi" inspect "$2"
}
audio=casual_audio_encoder
motion=motion_encoder
fits s2v-14B audio $audio.encoder.conv1_ 1024 768 $audio.weights 25 13 cond_encoder.weight 16 32
differs "$audio.encoder.conv1_global.conv.weight is .*1280, 768, 3.*, expected .*1280, 1024, 3" \
    s2v-14B audio-differs $audio.encoder.conv1_global 1024 768
fits animate-14B face $motion.enc.net_app 512 384 $motion.enc.net_app 256 96 $motion.enc.fc 512 384 \
    $motion. 20 12 $motion.dec 512 448 face_encoder.conv1_ 512 448 face_encoder. 1024 640 face_encoder. 4096 2560
differs "face_encoder.conv1_local.conv.weight is .*4096, 512, 3.*, expected .*4096, 448, 3" \
    animate-14B face-differs $motion.dec 512 448
fits vace-1.3B control vace_patch_embedding.weight 96 132

# ---- ComfyUI's files, with the tokenizer inside the text encoder's
# They have no config.json: the number of heads is that of the released transformer of their size.
need "$make" comfy diffusers comfy
run="--size 64*64 --frame_num 5 --sample_steps 2 --base_seed 3 --threads 1"
# shellcheck disable=SC2086
need "$wanmpi" generate --ckpt_dir official $run --prompt 'a cat' --save_file a.mp4 --run_file a.h5
# shellcheck disable=SC2086
need $mpirun -n 2 "$wanmpi" generate --ckpt_dir comfy/diffusion_models/wan2.1_t2v_tiny.safetensors $run \
    --prompt 'a cat' --save_file b.mp4 --run_file b.h5
count=$((count + 1))
"$same" a.h5 b.h5 1e-5 >out 2>&1 || bad "another latent from ComfyUI's files"
need "$wanmpi" synth --preset tiny --dim 256 --heads 2 --parts dit --out odd
rm odd/config.json
refused 'the number of heads is not known: put the config.json with num_heads beside it' \
    "$wanmpi" plan --ckpt_dir odd

echo "parts: $count checks, $wrong failed"
[ $wrong = 0 ]
