#!/bin/sh
# Everything that needs GPUs, from a built tree, on a machine with one or more of them:
#     tests/gpu.sh [BUILD]
# Says of each test how long it took and what it counted, what was left out and why; the last line is
# "N passed, M failed". No other program may use the GPUs, as memory in use is compared with the plan. Where
# there are more ranks than GPUs they share them: then it is not compared. With several GPUs, tests of one rank
# run beside each other on a GPU each, and so do tests that share all GPUs. MPIRUN and its arguments can be
# set. SKIP: a pattern of egrep; tests with such names are left out, as "ranks|checkops".
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "${1:-$here/../build}" && pwd) || exit 1
golden=$here/golden
mpirun=${MPIRUN:-mpirun -q --bind-to none}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0 skipped=0 parts=0
pass=all # which tests of a part run: those of `one` rank, of `several`, or `all`
log=$scratch/log
ring_tolerance=0 # of a run's latent with a ring, against one rank, as on all other meshes
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
[ -z "$CUDA_VISIBLE_DEVICES" ] || gpus=$(echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c .)
if [ "$gpus" = 0 ]; then
    echo "gpu: skipped, no GPU here (nvidia-smi lists none)"
    echo "0 passed, 0 failed"
    exit 77
fi

nth_gpu() { # N: from 0, as CUDA_VISIBLE_DEVICES names it
    if [ -n "$CUDA_VISIBLE_DEVICES" ]; then
        echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | sed -n "$(($1 % gpus + 1))p"
    else
        echo $(($1 % gpus))
    fi
}

part() { # GPU PASS FUNCTION: the function's tests, beside other parts
    parts=$((parts + 1))
    (
        passed=0 failed=0 skipped=0 log=$scratch/log.$parts pass=$2
        if [ -n "$1" ]; then
            CUDA_VISIBLE_DEVICES=$(nth_gpu "$1")
            export CUDA_VISIBLE_DEVICES
            gpus=1
        fi
        "$3"
        echo "$passed $failed $skipped" >"$scratch/count.$parts"
    ) &
    [ "$gpus" -gt 1 ] || wait
}

finish() { # waits for the parts and adds their counts
    wait
    while [ "$parts" -gt 0 ]; do
        p=0 f=1 s=0 # of a part that did not end
        [ ! -f "$scratch/count.$parts" ] || read -r p f s <"$scratch/count.$parts"
        rm -f "$scratch/count.$parts"
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s)) parts=$((parts - 1))
    done
}

skip() { # NAME WHY
    skipped=$((skipped + 1))
    printf '%-40s skipped: %s\n' "$1" "$2"
}

ranks_of() { # COMMAND...
    case $1 in
    generate) echo "$3" ;;
    compare) echo "$5" ;;
    groups) echo "$2" ;;
    *) echo 1 ;;
    esac
}

run() { # NAME SECONDS COMMAND...
    title=$1 limit=$2
    shift 2
    case $pass:$(ranks_of "$@") in
    all:* | one:1) ;;
    one:* | several:1) return ;;
    esac
    if [ -n "${SKIP:-}" ] && echo "$title" | grep -qE "$SKIP"; then
        skip "$title" "SKIP is $SKIP"
        return
    fi
    began=$(date +%s)
    case $1 in
    generate | compare | nodes | scale | groups | limited) "$@" ;; # which keep to the limit themselves
    *) timeout -k 5 "$limit" "$@" ;;
    esac >"$log" 2>&1
    rc=$?
    took=$(($(date +%s) - began))
    case $rc in
    0)
        passed=$((passed + 1))
        printf '%-40s ok     %3d s  %s\n' "$title" "$took" "$(tail -1 "$log")"
        ;;
    77) skip "$title" "$(tail -1 "$log")" ;;
    *)
        failed=$((failed + 1))
        printf '%-40s FAILED %3d s  exit %d\n%s\n' "$title" "$took" "$rc" "$(tail -25 "$log" | sed 's/^/    /')"
        ;;
    esac
}

# ---- ops, and the models against the recorded ones: fp32 within 1e-4, bf16 nearer to PyTorch's bf16
# than that is to fp32
ops_and_models() {
    run checkops 240 "$build/tests/checkops" --cuda
    run ops 60 "$build/tests/test_ops" "$golden" cuda
    run dit 60 "$build/tests/test_dit" "$golden" cuda
    run "sparse attention" 60 "$build/tests/test_sparse" "$golden" cuda
    run umt5 60 "$build/tests/test_umt5" "$golden" cuda
    run clip 60 "$build/tests/test_clip" "$golden" cuda
    run vae 90 "$build/tests/test_vae" "$golden/vae.safetensors" cuda
    [ ! -x "$build/tests/test_noise" ] || run noise 30 "$build/tests/test_noise" "$golden"
}

# ---- whole runs of a small model: GPU against CPU, two GPUs against one, memory against the plan
wanmpi=$build/wanmpi
model=$scratch/model

generate() { # NAME RANKS FLAGS...: leaves its latent in NAME.h5
    out=$scratch/$1 ranks=$2
    shift 2
    start="$wanmpi"
    [ "$ranks" = 1 ] || start="$mpirun -n $ranks $wanmpi"
    case " $* " in
    *" --num_clip "*) length= ;; # it follows from the sound
    *) length="--frame_num 9" ;;
    esac
    # shellcheck disable=SC2086 # words of a command
    timeout -k 5 "$limit" $start generate --task t2v-1.3B --ckpt_dir "$model" --size 128*96 $length --base_seed 5 \
        --sample_steps 4 --prompt "A cat surfs" --save_file "$out.mp4" --run_file "$out.h5" "$@" \
        >"$out.log" 2>&1 || {
        cat "$out.log"
        return 1
    }
}

within_plan() { # NAME: every rank's peak on its GPU is at most what was planned
    awk '/^memory  rank [0-9]*: GPU peak/ {
        ranks++
        over += $6 > $9 + 1
        if ($6 > peak) { peak = $6; plan = $9 }
    }
    END {
        printf "%d ranks; at most %d MB held, %d MB planned\n", ranks, peak, plan
        exit over > 0 || ranks == 0
    }' "$scratch/$1.log"
}

compare() { # NAME TOLERANCE AGAINST RANKS FLAGS...: a run that ends as another did, within its plan
    name=$1 tolerance=$2 against=$3 ranks=$4
    shift 4
    generate "$name" "$ranks" "$@" || return 1
    planned=0
    [ "$ranks" -gt "$gpus" ] || within_plan "$name" || planned=1
    "$build/tests/same_latents" "$scratch/$name.h5" "$scratch/$against.h5" "$tolerance" && return $planned
}

limited() { # a model of 0.9 GB in bf16, with and without a limit
    large=$scratch/large
    "$wanmpi" synth --preset tiny --dim 1536 --ffn_dim 8960 --heads 12 --layers 10 --dit_dtype bf16 --out "$large" \
        >"$scratch/synth.log" 2>&1 || return 1
    set -- --device cuda --precision bf16 --ckpt_dir "$large"
    generate large 1 "$@" && compare large-limited 0 large 1 "$@" --vram_limit 1.2 || return 1
    grep -q '^weights [0-9] of 10 blocks stay' "$scratch/large-limited.log" || return 1
    awk '/^memory  rank 0: GPU peak/ { peak = $6 } END { print "peak " peak " MB of 1200"; exit !(peak > 0 && peak <= 1200) }' \
        "$scratch/large-limited.log"
}

conditioned() { # TASK PRESET FLAGS...
    title=$1 folder=$scratch/$2
    shift 2
    [ -d "$folder" ] || "$wanmpi" synth --preset "$(basename "$folder")" --out "$folder" >"$scratch/synth.log" 2>&1
    set -- --device cuda --precision bf16 --ckpt_dir "$folder" --task "$title" --sample_steps 6 "$@"
    run "$title" 60 generate "$title" 1 "$@"
    run "$title, 2 ranks sharded" 60 compare "$title-2" 0 "$title" 2 "$@" --dit_fsdp --cfg_size 1 --ulysses_size 2
}

groups() { # RANKS GROUPS AGAINST FLAGS...: AGAINST is RANKS-GROUPS
    folder=$scratch/batch-$1-$2 ranks=$1 number=$2 against=$scratch/batch-$3
    shift 3
    rm -rf "$folder"
    mkdir "$folder"
    # shellcheck disable=SC2086
    (cd "$folder" && timeout -k 5 "$limit" $mpirun -n "$ranks" "$wanmpi" batch ../jobs.jsonl --task t2v-1.3B \
        --ckpt_dir "$model" --size 128*96 --frame_num 9 --sample_steps 8 --device cuda --groups "$number" "$@" \
        >log 2>&1) || {
        cat "$folder/log"
        return 1
    }
    cat "$folder"/[1-4].mp4 >"$folder/all"
    [ "$number" = 1 ] || grep -q '^.group 1. wrote' "$folder/log" || {
        echo "group 1 has made no video"
        return 1
    }
    cmp "$folder/all" "$against/all" && grep '^done' "$folder/log"
}

whole_runs() {
    run "checkpoint of random weights" 60 "$wanmpi" synth --preset tiny --out "$model"
    run "generate on the CPU, fp32" 90 generate cpu 1 --device cpu --precision fp32
    run "the same on a GPU" 60 compare fp32 1e-4 cpu 1 --device cuda --precision fp32
    run "in bf16" 60 compare bf16 5e-2 cpu 1 --device cuda --precision bf16
    run "products in fp8" 60 compare fp8 0.3 bf16 1 --device cuda --precision bf16 --matmul fp8
    run "the same on 2 ranks" 60 compare fp8-2 0 fp8 2 --device cuda --precision bf16 --matmul fp8 --ulysses_size 2 --dit_fsdp
    [ -d "$scratch/pair" ] || "$wanmpi" synth --preset tiny-A14B --out "$scratch/pair" >"$scratch/synth.log" 2>&1
    pair="--task t2v-A14B --ckpt_dir $scratch/pair --sample_steps 6"
    # shellcheck disable=SC2086 # words of a list
    run "two experts" 60 generate both 1 --device cuda --precision bf16 $pair
    for way in ahead later; do
        # shellcheck disable=SC2086
        run "two experts, one $way" 60 compare "$way" 0 both 1 --device cuda --precision bf16 $pair --experts $way
        # shellcheck disable=SC2086
        run "two experts, one $way, 2 ranks sharded" 60 compare "$way-2" 0 both 2 --device cuda --precision bf16 \
            $pair --experts $way --dit_fsdp --cfg_size 1 --ulysses_size 2
    done

    clip="--input_video $scratch/cpu.mp4 --denoising_strength 0.6"
    windows="--frame_num 33 --context_frames 17 --context_overlap 8"
    for kind in clip windows; do
        flags=$clip
        [ $kind = clip ] || flags=$windows
        run "$kind, on the CPU" 90 generate $kind 1 --device cpu --precision fp32 $flags
        run "$kind, on a GPU" 60 compare $kind-fp32 1e-4 $kind 1 --device cuda --precision fp32 --vae_precision fp32 $flags
        run "$kind, in bf16" 60 compare $kind-bf16 5e-2 $kind 1 --device cuda --precision bf16 $flags
        run "$kind, on 2 ranks sharded" 60 compare $kind-2 0 $kind-bf16 2 --device cuda --precision bf16 $flags \
            --cfg_size 1 --ulysses_size 2 --dit_fsdp
    done
    run "steps that add noise, on the CPU" 60 generate noisy 1 --device cpu --precision fp32 --preset turbowan-4
    run "the same on a GPU" 60 compare noisy-fp32 1e-4 noisy 1 --device cuda --precision fp32 --preset turbowan-4
    run "the same in bf16" 60 compare noisy-bf16 5e-2 noisy 1 --device cuda --precision bf16 --preset turbowan-4
    run "the same on 2 ranks" 60 compare noisy-2 0 noisy-bf16 2 --device cuda --precision bf16 --preset turbowan-4 --ulysses_size 2

    # ---- blocks in host memory or in the file: the same bits, and no more memory than the limit
    none="--num_persistent_param_in_dit 0"
    # shellcheck disable=SC2086
    run "blocks in host memory" 60 compare host 0 bf16 1 --device cuda --precision bf16 $none
    # shellcheck disable=SC2086
    run "blocks in the file" 60 compare disk 0 bf16 1 --device cuda --precision bf16 $none --offload_device disk
    # shellcheck disable=SC2086
    run "blocks in host memory, 2 ranks share" 60 compare host-2 0 bf16 2 --device cuda --precision bf16 $none \
        --dit_fsdp=False --cfg_size 1 --ulysses_size 2
    # shellcheck disable=SC2086
    run "blocks in host memory, 2 ranks sharded" 60 compare host-fsdp 0 bf16 2 --device cuda --precision bf16 $none \
        --dit_fsdp --cfg_size 1 --ulysses_size 2
    # shellcheck disable=SC2086
    run "two experts in host memory" 60 compare host-pair 0 both 1 --device cuda --precision bf16 $pair $none

    if [ -x "$build/tests/make_lora" ]; then # merged on the GPU, then moved to host memory
        "$build/tests/make_lora" tiny 4 1 "$scratch/style.safetensors"
        lora="--lora $scratch/style.safetensors"
        for kind in loha lokr dora; do
            "$build/tests/make_lora" tiny 3 4 "$scratch/$kind.safetensors" $kind
            lora="$lora --lora $scratch/$kind.safetensors:0.3"
        done
        # shellcheck disable=SC2086
        run "a LoRA" 60 generate styled 1 --device cuda --precision bf16 $lora
        # shellcheck disable=SC2086
        run "a LoRA, blocks in host memory" 60 compare styled-host 0 styled 1 --device cuda --precision bf16 $lora $none
        # shellcheck disable=SC2086
        run "a LoRA, blocks in host memory, 2 ranks" 60 compare styled-host-2 0 styled 2 --device cuda --precision bf16 $lora \
            $none --dit_fsdp=False --cfg_size 1 --ulysses_size 2
    fi

    run "within --vram_limit" 120 limited

    # ---- tasks with images, on one rank and on two with sharded weights
    conditioned i2v-14B tiny-i2v-14B --image "$golden/image_wide.png"
    conditioned flf2v-14B tiny-flf2v-14B --first_frame "$golden/image_wide.png" --last_frame "$golden/image_tall.png"
    conditioned inp-1.3B tiny-i2v-14B --image "$golden/image_tall.png" --end_image "$golden/image_wide.png"
    conditioned control-1.3B tiny-control --control_video "$scratch/bf16.mp4" --image "$golden/image_tall.png"
    conditioned control-ref-1.3B tiny-control-ref --control_video "$scratch/bf16.mp4" \
        --reference_image "$golden/image_odd.png"
    conditioned camera-1.3B tiny-camera --image "$golden/image_tall.png" --camera_control_direction Left
    conditioned control-A14B tiny-control-A14B --control_video "$scratch/bf16.mp4" \
        --reference_image "$golden/image_odd.png"
    conditioned camera-A14B tiny-camera-A14B --image "$golden/image_tall.png" --camera_control_direction In
    conditioned t2v-1.3B tiny-speed --motion_bucket_id 70
    conditioned i2v-A14B tiny-i2v-A14B --image "$golden/image_odd.png"
    conditioned ti2v-5B tiny-5B --image "$golden/image_wide.png"
    conditioned vace-1.3B tiny-vace --src_ref_images "$golden/image_wide.png,$golden/image_odd.png"
    conditioned vace-14B tiny-vace --src_ref_images "$golden/image_wide.png,$golden/image_odd.png" \
        --src_video "$scratch/cpu.mp4" --src_mask "$scratch/noisy.mp4"

    python3 - "$scratch/sound.wav" <<'END'
import math, struct, sys, wave
with wave.open(sys.argv[1], "wb") as sound:
    sound.setparams((1, 2, 16000, 0, "NONE", ""))
    for i in range(22400):
        t = i / 16000
        sound.writeframes(struct.pack("<h", round(9830 * math.sin(2 * math.pi * (300 * t + 200 * t * t)))))
END
    conditioned s2v-14B tiny-s2v --image "$golden/image_tall.png" --audio "$scratch/sound.wav" --size 64*128 \
        --infer_frames 12 --num_clip 2 --sample_solver dpm++

    for preset in tiny-vsa tiny-sla; do
        "$wanmpi" synth --preset $preset --out "$scratch/$preset" >"$scratch/synth.log" 2>&1
        sparse="--device cuda --precision bf16 --ckpt_dir $scratch/$preset"
        # shellcheck disable=SC2086 # words of a list
        run "$preset" 60 generate $preset 1 $sparse
        # shellcheck disable=SC2086
        run "$preset, 2 ranks sharded" 60 compare $preset-2 0 $preset 2 $sparse --dit_fsdp --cfg_size 1
    done

    run "a second time: the same bits" 60 compare again 0 bf16 1 --device cuda --precision bf16

    # ---- a batch on groups of ranks, which share GPUs if there are fewer: the files of one rank
    for i in 1 2 3 4; do
        printf '{"prompt": "A cat surfs", "base_seed": %d, "save_file": "%d.mp4"}\n' $i $i
    done >"$scratch/jobs.jsonl"
    run "batch on one rank" 60 groups 1 1 1-1
    run "batch, 2 groups of 1" 60 groups 2 2 1-1
    run "batch, 2 groups of 2" 60 groups 4 2 1-1
    sharded="--dit_fsdp --cfg_size 1 --ulysses_size 2 --t5_fsdp" # which the videos record
    # shellcheck disable=SC2086
    run "batch on 2 ranks, sharded" 60 groups 2 1 2-1 $sharded
    # shellcheck disable=SC2086
    run "batch, 2 groups of 2, sharded" 60 groups 4 2 2-1 $sharded

    # for `meshes`
    [ -d "$scratch/12-heads" ] || "$wanmpi" synth --preset tiny --dim 1536 --ffn_dim 1024 --heads 12 --layers 2 \
        --out "$scratch/12-heads" >"$scratch/synth.log" 2>&1
    run "12 heads" 60 generate 12-heads 1 --device cuda --precision bf16 --ckpt_dir "$scratch/12-heads"
}

# ---- several ranks: 2, 4, 5 and 8, which share GPUs if there are fewer
shared=no # the meshes that run: those with a GPU for each rank, or the others
ranks() { # PRECISION "AXIS N..." FLAGS...: as one rank, which is `reference` or that of the precision
    precision=$1 axes=$2 number=1 tolerance=0 sizes="--cfg_size 1"
    shift 2
    # shellcheck disable=SC2086 # words of a list
    set -- $axes -- "$@"
    while [ "$1" != -- ]; do
        number=$((number * $2))
        sizes="$sizes --$1_size $2"
        [ "$1" != ring ] || tolerance=$ring_tolerance
        shift 2
    done
    shift
    [ $shared = "$([ "$number" -gt "$gpus" ] && echo yes || echo no)" ] || return
    how="$precision${reference:+ $reference}"
    case $* in *--dit_fsdp*) how="$how sharded" ;; esac
    # shellcheck disable=SC2086
    run "$number ranks, $axes, $how" 60 compare "$(echo "$number $axes $how" | tr -c "a-z0-9\n" _)" "$tolerance" \
        "${reference:-$precision}" "$number" --device cuda --precision "$precision" $sizes "$@"
}

meshes() {
    for axes in "cfg 2" "ulysses 2" "ring 2" "ulysses 4" "ring 4" "ring 2 ulysses 2" "cfg 2 ulysses 2" \
        "cfg 2 ring 2" "cfg 2 ring 2 ulysses 2"; do
        ranks bf16 "$axes"
    done
    ranks bf16 "ulysses 4" --dit_fsdp
    ranks bf16 "cfg 2 ring 2" --dit_fsdp
    ranks fp32 "ulysses 4"
    reference=12-heads # uneven heads of 8 and 5 ranks
    ranks bf16 "ulysses 8" --ckpt_dir "$scratch/12-heads"
    ranks bf16 "cfg 2 ulysses 4" --ckpt_dir "$scratch/12-heads" --dit_fsdp
    ranks bf16 "ulysses 5" --ckpt_dir "$scratch/12-heads"
    reference=
}
shared_meshes() {
    shared=yes
    meshes
}

of_several_ranks() {
    for test in group attention halo weights dit_ranks; do
        # shellcheck disable=SC2086
        run "$test, 4 ranks" 150 $mpirun -n 4 "$build/tests/test_$test" cuda
    done
    # shellcheck disable=SC2086
    run "dit_ranks, 8 ranks" 150 $mpirun -n 8 "$build/tests/test_dit_ranks" cuda
    # shellcheck disable=SC2086
    run "vae, 4 ranks" 150 $mpirun -n 4 "$build/tests/test_vae" "$golden/vae.safetensors" cuda
}

# ---- two pretended nodes, which NCCL connects by sockets (faults/nodes.c): each has half of the ranks, and half of
# the GPUs, which its ranks share if they are fewer
per_node=$((gpus / 2))
list() { # FIRST COUNT: GPUs
    for i in $(seq "$1" $(($1 + $2 - 1))); do nth_gpu "$i"; done | paste -sd,
}

across() { # NAME RANKS FLAGS...: on two nodes; NAME.sent has what each rank has sent to the other node
    (
        count=$((per_node > 0 ? per_node : 1))
        [ "$count" -le $(($2 / 2)) ] || count=$(($2 / 2))
        mpirun="$mpirun -x LD_PRELOAD=$build/tests/nodes.so -x NODES_RANKS=$(($2 / 2))"
        mpirun="$mpirun -x NODES_GPUS=$(list 0 $count);$(list $per_node $count)"
        mpirun="$mpirun -x NODES_LOG=$scratch/$1.sent"
        generate "$@"
    )
}

nodes() { # NAME TOLERANCE RANKS FLAGS...: as one rank; in each step the ranks send the bytes of the plan across
    name=$1 tolerance=$2 ranks=$3
    shift 3
    set -- --device cuda --precision bf16 "$@"
    across "$name" "$ranks" "$@" && across "$name-3" "$ranks" "$@" --sample_steps 3 || return 1
    "$build/tests/same_latents" "$scratch/$name.h5" "$scratch/bf16.h5" "$tolerance" || return 1
    "$wanmpi" plan --task t2v-1.3B --ckpt_dir "$model" --size 128*96 --frame_num 9 --sample_steps 4 --nodes 2 \
        --gpus $((ranks / 2)) --json "$@" >"$scratch/$name.json" || return 1
    awk -F'[:,]' '/"first"/ { first = $2 } /"last"/ { last = $2 } /"stage"/ { step = /"step"/ }
        step && /"sent_across_bytes"/ { for (r = first; r <= last; r++) printf "%d %.0f\n", r, $2 }' \
        "$scratch/$name.json" >"$scratch/$name.planned"
    awk 'FILENAME ~ /planned$/ { want[$1] = $2 } FILENAME ~ /-3.sent$/ { got[$1] -= $2 } FILENAME ~ /[^3].sent$/ { got[$1] += $2 }
    END {
        for (r in want) {
            ranks++
            wrong += got[r] != want[r]
            line = line sprintf(" %d of %d", got[r], want[r])
        }
        print "bytes to the other node in a step, of those planned:" line
        exit wrong > 0 || ranks == 0
    }' "$scratch/$name.planned" "$scratch/$name-3.sent" "$scratch/$name.sent"
}

two_nodes() {
    run "2 nodes, cfg across, sharded" 60 nodes n-cfg 0 2 --cfg_size 2 --dit_fsdp
    run "2 nodes, ring across" 60 nodes n-ring 5e-2 2 --cfg_size 1 --ring_size 2
    run "2 nodes of 2, cfg across, sharded" 60 nodes n-cfg-2 0 4 --cfg_size 2 --ulysses_size 2 --dit_fsdp
    run "2 nodes of 2, ring across" 60 nodes n-ring-2 5e-2 4 --cfg_size 1 --ring_size 2 --ulysses_size 2
    run "2 nodes of 2, host memory of each" 60 nodes n-host 0 4 --cfg_size 2 --ulysses_size 2 --dit_fsdp=False \
        --num_persistent_param_in_dit 0
    # shellcheck disable=SC2086
    [ "$gpus" -lt 2 ] || run "attention, a ring of 2 nodes" 90 $mpirun -n 2 -x LD_PRELOAD="$build/tests/nodes.so" \
        -x NODES_RANKS=1 -x NODES_GPUS="$(nth_gpu 0);$(nth_gpu 1)" "$build/tests/test_attention" cuda
}

# ---- what runs when
part 0 all ops_and_models
part 1 one whole_runs
finish
pass=several
whole_runs
pass=all
meshes
part "" all shared_meshes
part "" all of_several_ranks
finish
two_nodes

if [ "$gpus" -lt 2 ]; then
    skip "through NCCL" "needs 2 GPUs, here is one"
else
    several=$((gpus < 4 ? gpus : 4))
    for test in group attention; do
        # shellcheck disable=SC2086
        run "$test through NCCL, $several ranks" 90 $mpirun -n $several "$build/tests/test_$test" nccl
    done
fi

# ---- the benchmark itself, small: that it runs, and that a forward stays within its plan
run "bench" 60 "$wanmpi" bench gemm,attention,fused,conv,load,text,dit,vae,vae_encode,whole --model tiny \
    --size 128*128 --frame_num 5 --repeats 2 --device cuda --json "$scratch/bench.json" \
    --trace "$scratch/bench.trace"

scale() { # every mesh has the bits of one rank, those with a ring if they are compared so above
    # shellcheck disable=SC2086
    timeout -k 5 "$limit" $mpirun -n 4 "$wanmpi" bench scale,scale_vae,scale_encode --model tiny --size 128*128 \
        --frame_num 5 --repeats 1 --device cuda >"$scratch/scale.log" 2>&1 || {
        cat "$scratch/scale.log"
        return 1
    }
    awk -v tolerance="$ring_tolerance" '/^[0-9]+ ranks?[, ].* (equal|differ) / {
        count++
        wrong += / differ / && !(/ring/ && tolerance > 0)
    }
    END {
        printf "%d meshes, %d with other bits than one rank\n", count, wrong
        exit wrong > 0 || count == 0
    }' "$scratch/scale.log"
}
run "bench scale, 4 ranks" 60 scale

[ "$skipped" = 0 ] || echo "$skipped skipped: they say above what they lacked"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
