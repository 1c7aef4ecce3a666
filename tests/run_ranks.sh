#!/usr/bin/env bash
# run_ranks.sh WANMPI SAME_LATENTS: P ranks end in the latent of one rank: in the same bits, but for a ring.
. "$(dirname "$0")/run_common.sh"
common+=(--size 64*48) # 36 tokens: uneven parts, and fewer rows than ranks to decode

check "inspect" "$wanmpi" inspect model
check "one rank" make 1 one --ops ref --contact_sheet one.png
cp check.log one.log
progress() { # the device, loading in bytes, steps, decoding in latent frames
    grep -q '^device  [0-9]* cores* of ' one.log && grep -qE '^text and weights: ([0-9]+)/\1 MB' one.log &&
        grep -q '^sampling: 6/6' one.log && grep -q '^decoding: 3/3' one.log
}
check "its progress" progress
check "the video" is_video one.mp4 64 48 9
check "one rank of mpirun" "${mpirun[@]}" -n 1 "$wanmpi" generate "${common[@]}" --ckpt_dir model --ops ref \
    --save_file launched.mp4 --run_file launched.h5
check "one rank of mpirun ends in the same bits" "$same" one.h5 launched.h5
for axes in "2 cfg2 --cfg_size 2" "3 ulysses3 --ulysses_size 3 --cfg_size 1" "2 fsdp2 --dit_fsdp" "3 t5-fsdp3 --t5_fsdp" \
    "4 cfg2-ulysses2-fsdp --cfg_size 2 --ulysses_size 2 --dit_fsdp" \
    "8 ulysses8 --cfg_size 1 --ulysses_size 8" "5 uneven5 --cfg_size 1 --ulysses_size 5 --dit_fsdp" \
    "16 cfg2-ulysses8 --cfg_size 2 --ulysses_size 8"; do
    read -r p name flags <<< "$axes"
    # shellcheck disable=SC2086
    check "$name runs" make "$p" "$name" --ops ref $flags
    check "$name ends in the same bits" "$same" one.h5 "$name.h5"
done
for axes in "3 ring3 --cfg_size 1 --ring_size 3" "4 ring2-ulysses2 --cfg_size 1 --ring_size 2" \
    "8 cfg2-ring2-ulysses2-fsdp --cfg_size 2 --ring_size 2 --dit_fsdp"; do
    read -r p name flags <<< "$axes"
    # shellcheck disable=SC2086
    check "$name runs" make "$p" "$name" --ops ref $flags
    check "$name within 1e-5" "$same" one.h5 "$name.h5" 1e-5
done
check "cpu ops on one rank" make 1 cpu
check "cpu ops within 1e-5 of ref" "$same" one.h5 cpu.h5 1e-5
check "cpu ops on four ranks" make 4 cpu4 --dit_fsdp
check "cpu ops, 4 = 1 within 1e-5" "$same" cpu.h5 cpu4.h5 1e-5
summary
