#!/usr/bin/env bash
# run_options.sh WANMPI SAME_LATENTS: solvers, bf16, tiles, one frame, noise and text from a run file, the
# -Diffusers layout, memory against the plan.
. "$(dirname "$0")/run_common.sh"

within_plan() { # peak of every rank within 10% + 50 MB of what was planned
    awk '/^memory  rank/ { n++; if ($5 > $8 * 1.1 + 50) bad = 1 } END { exit bad || n == 0 }' "$1"
}

check "one rank" make 1 cpu
for solver in dpm++ euler; do
    check "$solver" make 1 "$solver" --sample_solver "$solver"
    check "$solver on two ranks" make 2 "$solver-2" --sample_solver "$solver"
    check "$solver, 2 = 1" "$same" "$solver.h5" "$solver-2.h5" 1e-5
    check "$solver is not unipc" not "$same" "$solver.h5" cpu.h5 1e-3
done
check "bf16" make 2 bf16 --precision bf16
check "bf16 is near fp32" "$same" bf16.h5 cpu.h5 0.1
check "bf16 is not fp32" not "$same" bf16.h5 cpu.h5 1e-5
check "fp8" make 2 fp8 --precision bf16 --matmul fp8 --matmul_bf16_blocks 1 --dit_fsdp
check "fp8 is near bf16" "$same" fp8.h5 bf16.h5 0.2
check "fp8 is not bf16" not "$same" fp8.h5 bf16.h5 1e-3
check "a run in fp8 is not resumed without" not ranks 1 generate --resume fp8.h5 --matmul exact
check "noise and text from a run file" make 2 again --base_seed 8 --noise cpu.h5 --text cpu.h5
check "noise and text from a run file: same latent" "$same" cpu.h5 again.h5 1e-5
check "another seed" make 1 seed8 --base_seed 8
check "another seed, another latent" not "$same" cpu.h5 seed8.h5 0.1
check "tiled" make 2 tiled --tiled
check "one frame" ranks 2 generate "${common[@]}" --ckpt_dir model --frame_num 1 --save_file p.png
check "one frame is a PNG" sh -c 'head -c 4 p.png | grep -aq PNG'
check "the -Diffusers layout" "$wanmpi" synth --preset tiny --diffusers --out diffusers
check "the -Diffusers layout runs" ranks 2 generate "${common[@]}" --ckpt_dir diffusers \
    --save_file d.mp4 --run_file d.h5
check "the -Diffusers layout: same latent" "$same" cpu.h5 d.h5 1e-5

make 2 plan --dit_fsdp > plan.log 2>&1
grep -qE '__(asan|hwasan|msan|tsan)_init' "$wanmpi" || # whose own memory would count too
    check "memory within the plan" within_plan plan.log
summary
