#!/bin/sh
# Makes the figures of model/demo/README.md with wanmpi: the results for held-out captions of the three
# checkpoints, those of the LoRA for four steps, the PSNR of the autoencoder, and the contact sheet of guidance,
# negative prompt and seed.
#
#     figures.sh BUILD PYTHON [FOLDER [flags of wanmpi, such as --threads 4 --sample_steps 20]]
#
# COUNT: of captions, 64. Videos go to FOLDER (default: BUILD/figures). A second run skips those that exist.
set -eu
build=$(realpath "$1") python=$2
shift 2
folder=${1:-$build/figures}
[ $# -eq 0 ] || shift
recipe=$(dirname "$(realpath "$0")")
count=${COUNT:-64} # captions
mkdir -p "$folder" "$folder/i2v" "$folder/pair"
cd "$folder"

"$python" "$recipe/measure.py" requests held-out.jsonl --count "$count"
"$build/wanmpi" batch held-out.jsonl --task t2v-1.3B --ckpt_dir "$recipe/.." --size "128*128" \
    --frame_num 17 --sample_steps 20 "$@"
"$python" "$recipe/measure.py" clips . --count "$count"

# measure CHECKPOINT FOLDER TASK ARGS...: of another checkpoint
measure() {
    checkpoint=$recipe/../../$1 task=$3
    cd "$2"
    shift 3
    "$build/wanmpi" batch held-out.jsonl --task "$task" --ckpt_dir "$checkpoint" --size "128*128" \
        --frame_num 17 --sample_steps 20 "$@"
    "$python" "$recipe/measure.py" clips . --count "$count"
    cd ..
}
"$python" "$recipe/measure.py" requests i2v/held-out.jsonl --count "$count" --images
measure demo-i2v i2v i2v-14B "$@"
"$python" "$recipe/vae_psnr.py" --ckpt_dir "$recipe/.." --program "$build/bench/vae_psnr" --images --count "$count"
"$python" "$recipe/measure.py" requests pair/held-out.jsonl --count "$count"
measure demo-pair pair t2v-A14B "$@"

# four steps without guidance
mkdir -p fast
"$python" "$recipe/measure.py" requests fast/held-out.jsonl --count "$count"
measure demo fast t2v-1.3B "$@" --lora "$recipe/../lora_4steps.safetensors" --preset lightx2v-4 --sample_steps 4

for frames in 17 33; do
    "$python" "$recipe/vae_psnr.py" --ckpt_dir "$recipe/.." --program "$build/bench/vae_psnr" \
        --frames "$frames" --count 16
done

"$python" "$recipe/contact.py" requests contact.jsonl
"$build/wanmpi" batch contact.jsonl --task t2v-1.3B --ckpt_dir "$recipe/.." --size "128*128" \
    --frame_num 17 --sample_steps 20 "$@"
"$python" "$recipe/contact.py" sheet contact.jpg
