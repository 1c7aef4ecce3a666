#!/usr/bin/env bash
# run_experts.sh WANMPI SAME_LATENTS GOLDEN_LATENTS: a model of two experts ends in the latents of the official program,
# on any ranks, however the experts are kept in memory, and after it was stopped on either side of the boundary.
golden=$(realpath "$3") recorded=$(dirname "$(realpath "$0")")/golden
. "$(dirname "$0")/run_common.sh" "$1" "$2"
common=("${small[@]}" --sample_steps 6 --ops ref --ckpt_dir pair)
synth tiny-A14B pair
synth tiny-A14B diffusers --diffusers
synth tiny-A14B other --seed 1


for solver in unipc dpm++; do
    check "$solver" make 1 $solver --sample_solver $solver
    check "$solver ends as the official program" \
        "$golden" "$recorded" tasks.safetensors $solver.h5 2e-4 t2v-A14B.$solver
done
common+=(--size 32*32) # the other runs need not be those of the official program
check "one rank" make 1 one
check "another layout" make 1 diffusers --ckpt_dir diffusers
check "another layout, the same bits" "$same" one.h5 diffusers.h5

mkdir -p files/models
ln -s "$dir"/pair/[mWg]* files/models
ln -s "$dir"/pair/high_noise_model/*.safetensors files/high.safetensors
ln -s "$dir"/pair/low_noise_model/*.safetensors files/low.safetensors
ln -s "$dir"/pair/high_noise_model/config.json files
check "two files" make 1 files --ckpt_dir files/models --dit_high files/high.safetensors \
    --dit_low files/low.safetensors
check "two files, the same bits" "$same" one.h5 files.h5

# Each expert matters, and each has its guidance.
for expert in high low; do
    mkdir with-$expert
    ln -s "$dir"/pair/* with-$expert
    rm with-$expert/${expert}_noise_model
    ln -s "$dir"/other/${expert}_noise_model with-$expert
    check "another $expert-noise expert" make 1 $expert --ckpt_dir with-$expert
    check "another $expert-noise expert, another latent" moved one.h5 $expert.h5
done
check "one guidance" make 1 same-guidance --sample_guide_scale 4
check "one guidance, another latent" not "$same" one.h5 same-guidance.h5 1e-3
check "guidance as given" make 1 guidance --sample_guide_scale 3,4
check "guidance as given, the same bits" "$same" one.h5 guidance.h5

# One after the other, and on several ranks.
for way in later ahead; do
    check "$way" make 1 $way --experts $way
    cp check.log $way.log
    check "$way, the same bits" "$same" one.h5 $way.h5
done
check "later: the plan" says '^experts .*the second is read when it is needed' later.log
check "ahead: the plan" says '^experts .*the second is read ahead into 3 MB of a rank.s host memory' ahead.log
check "ahead: the change" says '^experts low noise from step 5 on' ahead.log
for axes in "2 cfg2 --cfg_size 2" "2 fsdp2 --dit_fsdp --cfg_size 1" "3 later3 --experts later --cfg_size 1" \
    "4 later-fsdp4 --experts later --dit_fsdp --cfg_size 2" "8 ulysses8 --cfg_size 2 --dit_fsdp" \
    "2 ahead2 --experts ahead --cfg_size 1" "3 ahead-fsdp3 --experts ahead --dit_fsdp --cfg_size 1"; do
    read -r p name flags <<< "$axes"
    # shellcheck disable=SC2086
    check "$name" make "$p" "$name" $flags
    check "$name, the same bits" "$same" one.h5 "$name.h5"
done
check "ring" make 2 ring --cfg_size 1 --ring_size 2 --experts later
check "ring within 1e-5" "$same" one.h5 ring.h5 1e-5

# Requests one after the other: each begins with the first expert again.
cat > jobs.jsonl << 'EOF'
{"prompt": "A", "base_seed": 1, "save_file": "a.mp4", "run_file": "a.h5"}
{"prompt": "Two cats boxing", "save_file": "b.mp4", "run_file": "b.h5", "sample_guide_scale": [3, 4]}
EOF
check "a batch" ranks 2 batch jobs.jsonl --ckpt_dir pair --size 32*32 --frame_num 5 --sample_steps 6 \
    --base_seed 7 --threads 1 --ops ref --experts ahead
check "a batch, the same bits" "$same" one.h5 b.h5

# Stopped before the boundary and after it: what goes on needs one expert, or both.
common+=(--size 64*48 --sample_steps 100 --ops cpu --vae_precision fp32)
stopped() { # stopped WHEN NAME FLAGS...: starts a run, and stops it when its log has the pattern
    local when=$1 name=$2
    shift 2
    rm -f "$name.log"
    "$wanmpi" generate "${common[@]}" --save_file "$name.mp4" --run_file "$name.h5" "$@" \
        > "$name.log" 2>&1 &
    local job=$!
    while ! grep -qs "$when" "$name.log" && kill -0 $job 2> kill.log; do sleep 0.01; done
    kill -USR1 $job
    wait $job
    [ $? = 75 ]
}
check "100 steps" make 1 whole
for way in both later ahead; do
    check "$way: stopped before" stopped '^sampling: [0-9]' before-$way --experts $way
    check "$way: goes on, on two ranks" make 2 before-$way --experts $way
    cp check.log again.log
    check "$way: with both experts" says '^experts high noise [0-9]* steps, low noise 36' again.log
    check "$way: the same" "$same" whole.h5 before-$way.h5 1e-5
done
check "stopped after" stopped '^experts low noise from' after --experts later
check "after: goes on" make 1 after
cp check.log again.log
check "after: with one expert" says '^experts only that for low noise, [0-9]* steps' again.log
check "after: the same bits" "$same" whole.h5 after.h5
cp -r pair changed
synth tiny-A14B other1 --seed 1
cp other1/low_noise_model/*.safetensors changed/low_noise_model
check "another expert is refused" not ranks 1 generate --resume after.h5 --ckpt_dir changed --save_file x.mp4
cp check.log refused.log
check "another expert: named" says 'other weights of the dit_low than' refused.log

# A second expert without one of its files makes no model of one transformer.
cp -r diffusers part
mv part/transformer_2/diffusion_pytorch_model.safetensors \
    part/transformer_2/diffusion_pytorch_model-00001-of-00002.safetensors
check "a part of an expert is refused" not ranks 1 generate "${common[@]}" --ckpt_dir part --save_file x.mp4
cp check.log refused.log
check "a part of an expert: named" says '00002-of-00002.safetensors: is missing' refused.log

# The second expert cannot be read when it is needed: all ranks end with one line.
cp -r pair cut
cut_later() {
    make 2 cut --ckpt_dir cut --experts later > cut.log 2>&1 &
    local job=$!
    wait_for grep -qs '^sampling: [0-9]' cut.log
    truncate -s 100000 cut/low_noise_model/*.safetensors
    wait $job
    [ $? != 0 ] && [ "$(grep -c '^wanmpi: ' cut.log)" = 1 ] && grep -q 'where .* more are needed' cut.log
}
check "a damaged second expert" cut_later

summary
