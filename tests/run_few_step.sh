#!/usr/bin/env bash
# run_few_step.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: distilled models' schedules end in the recorded latents; with
# noise that is added after each step any number of ranks gives the same bits, also after a stop and --resume.
golden=$(realpath "$3") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
synth tiny-A14B pair
synth tiny-meanflow tiny-meanflow

make() { # make P MODEL NAME FLAGS...: a video NAME.mp4 and its run file NAME.h5; its output goes to NAME.log too
    local p=$1 model=$2 name=$3
    shift 3
    ranks "$p" generate "${small[@]}" --ckpt_dir "$model" --save_file "$name.mp4" --run_file "$name.h5" "$@" 2>&1 |
        tee "$name.log"
    return "${PIPESTATUS[0]}"
}
ends() { # ends MODEL NAME RECORDED: in the recorded latents
    "$golden" "$recorded" few_step.safetensors "$2.h5" 2e-4 "latents.$1.$3"
}

# Presets, and the same schedules by their flags.
for preset in lightx2v-4 fastwan-3 causvid-9 turbowan-4; do
    check "$preset" make 1 model $preset --preset $preset
    check "$preset ends as recorded" ends tiny $preset $preset
done
euler=(--sample_solver euler --sample_guide_scale 1) renoise=(--sample_solver renoise --sample_guide_scale 1)
by_flags() { # by_flags MODEL NAME RECORDED FLAGS...
    local model=$1 name=$2 expected=$3
    shift 3
    check "$name" make 1 "$model" "$name" "$@"
    check "$name ends as recorded" ends "${model/model/tiny}" "$name" "$expected"
}
by_flags model list lightx2v-4 --denoising_steps 1000,750,500,250 --sample_guide_scale 1
by_flags model zero lightx2v-4 --denoising_step_list=1000,750,500,250,0 "${euler[@]}" --sample_shift 5
by_flags model even lightx2v-8 --sample_steps 8 "${euler[@]}"
by_flags model dmd fastwan-3 --denoising_steps 1000,757,522 --warp_denoising_step False --sample_shift 8 "${renoise[@]}"
by_flags model warped renoise-4 --denoising_steps 1000,750,500,250 "${renoise[@]}"
by_flags model rcm turbowan-4 --sigma_max 80 --sample_guide_scale 1
by_flags model ode turbowan-ode --preset turbowan-4 --sample_solver euler
by_flags tiny-meanflow meanflow meanflow-2 --preset meanflow-2
mv pair tiny-A14B
by_flags tiny-A14B pair-lightx2v lightx2v-4 --preset lightx2v-4
by_flags tiny-A14B pair-index lightx2v-4 --sample_steps 4 --sample_shift 5 "${euler[@]}" --boundary_step_index 2
by_flags tiny-A14B pair-turbowan turbowan-i2v-4 --preset turbowan-i2v-4
by_flags tiny-A14B pair-boundary renoise-4 --denoising_steps 1000,750,500,250 --sample_shift 5 "${renoise[@]}" \
    --boundary 0.95

# What a run says, and what is given wins.
check "a preset says what it sets" says \
    '^preset  fastwan-3: --sample_solver renoise --denoising_steps 1000,757,522 --warp_denoising_step false --sample_shift 8' \
    fastwan-3.log
check "given flags win" make 1 model given --preset lightx2v-4 --sample_steps 8
check "given flags win: the same bits" "$same" even.h5 given.h5
ln -s "$dir/model" FastWan2.1-tiny
check "a name that is known" make 1 FastWan2.1-tiny name --sample_guide_scale 1 --sample_solver dpm++
check "is noted, and nothing else" says "^note .*'FastWan' is in the name of FastWan2.1-tiny; if so: --preset fastwan-3" name.log
check "is not applied" says '50 steps of dpm++, shift 5, guidance 1' name.log
not_noted() { make 1 FastWan2.1-tiny "$@" && ! says 'looks like' "$1.log"; }
check "not noted with the preset" not_noted name2 --preset fastwan-3

python3 - << 'EOF'
import json, struct
down, up = (f"diffusion_model.blocks.0.self_attn.q.lora_{x}.weight" for x in ("down", "up"))
header = {"__metadata__": {"modelspec.title": "My CausVid"},
          down: {"dtype": "F32", "shape": [1, 128], "data_offsets": [0, 512]},
          up: {"dtype": "F32", "shape": [128, 1], "data_offsets": [512, 1024]}}
for name in "style.safetensors", "wan_lightx2v_4step.safetensors":
    with open(name, "wb") as f:
        text = json.dumps(header).encode()
        f.write(struct.pack("<Q", len(text)) + text + bytes(1024))
EOF
check "a LoRA's metadata" ranks 1 plan --ckpt_dir model --lora style.safetensors
mv check.log lora.log
check "a LoRA's metadata is noted" says \
    "'CausVid' is in the modelspec.title of style.safetensors; if so: --preset causvid-9" lora.log
check "a LoRA's name" ranks 1 plan --ckpt_dir model --lora wan_lightx2v_4step.safetensors:0.7
mv check.log lora.log
check "a LoRA's name is noted" says "'lightx2v' is in the name of wan_light.*; if so: --preset lightx2v-4" lora.log

# One branch: its text alone is encoded, and ranks for two branches share the sequence.
has() { grep -qa "$2" "$1"; } # a run file and the name of a data set
check "without guidance no uncond text" not has fastwan-3.h5 uncond
check "ranks for a second branch" make 2 model cfg2 --preset fastwan-3 --cfg_size 2
check "ranks for a second branch share the sequence" says '; in steps with one branch ring 1 x ulysses 2,' cfg2.log
check "ranks for a second branch: the same bits" "$same" fastwan-3.h5 cfg2.h5
check "guidance in one expert" make 2 tiny-A14B mixed --sample_steps 4 --sample_guide_scale 1,4
check "with guidance an uncond text" has mixed.h5 uncond
check "guidance in one expert: ranks for the branch" says '^ranks   2: cfg 2 ' mixed.log
check "guidance in one expert, cfg 1" make 2 tiny-A14B mixed2 --sample_steps 4 --sample_guide_scale 1,4 --cfg_size 1
check "guidance in one expert: the same bits" "$same" mixed.h5 mixed2.h5

# Ranks, and one run after the other.
mv pair-turbowan.h5 pair.h5
for axes in "2 --ulysses_size 2" "3 --dit_fsdp --experts later" "4 --ulysses_size 4 --experts ahead"; do
    read -r p flags <<< "$axes"
    # shellcheck disable=SC2086
    check "$p ranks, $flags" make "$p" tiny-A14B "ranks$p" --preset turbowan-i2v-4 $flags
    check "$p ranks, $flags: the same bits" "$same" pair.h5 "ranks$p.h5"
done
synth tiny-5B five
begins=(--preset fastwan-3 --size 128*64 --image "$recorded/image_wide.png")
check "a known frame" make 1 five known "${begins[@]}"
check "a known frame, 3 ranks" make 3 five known3 "${begins[@]}"
check "a known frame: the same bits" "$same" known.h5 known3.h5
check "noise of a GPU" make 1 model gpu --preset fastwan-3 --rand_device cuda
check "noise of a GPU, 2 ranks" make 2 model gpu2 --preset fastwan-3 --rand_device cuda
check "noise of a GPU: the same bits" "$same" gpu.h5 gpu2.h5
check "noise of a GPU: another latent" not "$same" gpu.h5 fastwan-3.h5 1e-2
check "the first noise of a file" make 1 model noise --preset fastwan-3 --noise fastwan-3.h5
check "the first noise of a file: the same bits" "$same" fastwan-3.h5 noise.h5
check "the first noise of a file, another seed" make 1 model seed --preset fastwan-3 --noise fastwan-3.h5 --base_seed 8
check "the first noise of a file, another seed: another latent" not "$same" fastwan-3.h5 seed.h5 1e-2
cat > jobs.jsonl << 'EOF'
{"preset": "lightx2v-8", "save_file": "b1.mp4", "run_file": "even.b.h5"}
{"denoising_steps": [1000, 757, 522], "warp_denoising_step": false, "sample_shift": 8, "sample_solver": "renoise", "save_file": "b2.mp4", "run_file": "dmd.b.h5"}
{"sigma_max": 80, "save_file": "b3.mp4", "run_file": "rcm.b.h5"}
EOF
sed -i 's/^{/{"prompt": "Two cats boxing", /' jobs.jsonl
check "a batch" ranks 2 batch jobs.jsonl --ckpt_dir model --size 64*48 --frame_num 5 --base_seed 7 --threads 1 \
    --sample_guide_scale 1
for line in even dmd rcm; do
    check "a batch, $line: the same bits" "$same" $line.h5 $line.b.h5
done

# Stopped while it samples, and resumed on other ranks.
long=(--sample_steps 100 --sample_solver renoise --sample_guide_scale 1 --save_every 1000)
stopped() { # starts the run, and stops it when it has done some steps
    "$wanmpi" generate "${small[@]}" "${long[@]}" --ckpt_dir model --save_file stop.mp4 --run_file stop.h5 > stop.log 2>&1 &
    local job=$!
    while ! grep -qs '^sampling: [0-9]' stop.log && kill -0 $job 2> kill.log; do sleep 0.01; done
    kill -USR1 $job
    wait $job
    [ $? = 75 ] && grep 'after step [0-9]* of 100' stop.log
}
check "100 steps" make 1 model whole "${long[@]}"
check "stopped" stopped
check "goes on, on 2 ranks" ranks 2 generate --resume stop.h5
check "goes on: the same bits" "$same" whole.h5 stop.h5
check "another list is refused" not ranks 1 generate --resume stop.h5 --denoising_steps 1000,500
summary
