#!/bin/sh
# Measures this machine's GPUs and writes the results to the folder OUT:
#     bench/scale.sh BUILD OUT [CASE...]
#   480p-14B 720p-14B 480p-1.3B 720p-1.3B
#            forwards on 1, 2, 4, ... GPUs in all meshes (`wanmpi bench scale`)
#   vae      VAE decode on 1, 2, 4, ... GPUs, 720P and 480P
#   encode   VAE encode in the same way
#   load     loading the 14B transformer from /dev/shm (29 GB), whole and sharded
#   peers    diffusers' forwards on all GPUs: attention back-ends, Ulysses, ring
#   peers1   the same on one GPU; with four or more GPUs the four models and sizes at the same time
# Without CASE: all but the peers. OUT gets a JSON file and a log per case; the tables and a figure
# of all JSON files in OUT come last. Environment: RANKS (default: the number of GPUs); MPIRUN, mpirun
# with arguments; PYTHON, a python3 with torch, diffusers and, for the figure, matplotlib; DRY=1: a tiny
# model on CPUs, to try the script.
set -u
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$1" && pwd) && mkdir -p "$2" && out=$(cd "$2" && pwd) || exit 1
shift 2
[ $# -gt 0 ] || set -- 480p-14B 720p-14B 480p-1.3B 720p-1.3B vae encode load
python=${PYTHON:-python3}
mpirun=${MPIRUN:-mpirun -q --bind-to none}
wanmpi=$build/wanmpi
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || gpus=$(echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c .)
ranks=${RANKS:-$gpus}
shm=$(mktemp -d "${SHM:-/dev/shm}/wanmpi-scale.XXXXXX")
trap 'rm -rf "$shm"' EXIT

bench() { # NAME PART MODEL SIZE
    if [ -n "${DRY:-}" ]; then
        set -- "$1" "$2" tiny "$(echo "$4" | sed 's/832\*480/64*64/; s/1280\*720/96*64/')" \
            --frame_num 5 --device cpu --threads 1
    fi
    name=$1 part=$2 model=$3 size=$4
    shift 4
    # shellcheck disable=SC2086 # words of a command
    $mpirun -n "$ranks" "$wanmpi" bench "$part" --model "$model" --size "$size" --repeats 2 "$@" \
        --json "$out/$name.json" 2>&1 | tee "$out/$name.log"
}

load() {
    model="--preset t2v-14B"
    [ -z "${DRY:-}" ] || model="--preset tiny"
    # shellcheck disable=SC2086
    "$wanmpi" synth $model --parts dit --dit_dtype bf16 --out "$shm/model" >/dev/null 2>&1
    if [ -n "${DRY:-}" ]; then
        "$wanmpi" inspect "$shm/model"
        return
    fi
    for n in 1 $ranks; do
        echo "$n ranks"
        # shellcheck disable=SC2086
        $mpirun -n "$n" "$build/bench/bench_load" "$shm/model" 3
    done 2>&1 | tee "$out/load.log"
    rm -r "$shm/model"
}

# The first case compares the attention back-ends, the others use the fastest.
peers() {
    all=_flash_3_hub+_native_cudnn+_native_flash
    timeout 590 "$python" -m torch.distributed.run --nproc_per_node="$ranks" "$here/peers/dit.py" \
        --json "$out/peers.json" 14B:480:c:$all:ulysses 14B:720:c:best:ulysses 1.3B:480:c:best:ulysses \
        1.3B:720:c:best:ulysses 14B:480:c:_flash_3_hub+_native_cudnn:ring 14B:720:c:best:ring \
        14B:480:c:best:ring2 2>&1 | tee "$out/peers.log"
}

peer1() { # GPU MODEL:SIZE
    CUDA_VISIBLE_DEVICES=$1 timeout 590 "$python" "$here/peers/dit.py" --json "$out/peers1.$2.json" \
        "$3:c:_flash_3+_native_cudnn" 2>&1 | tee "$out/peers1.$2.log"
}

peers1() {
    gpu=0
    for case in 14B:720 14B:480 1.3B:720 1.3B:480; do
        peer1 "$gpu" "$(echo "$case" | tr : .)" "$case" &
        if [ "$gpus" -ge 4 ]; then gpu=$((gpu + 1)); else wait; fi
    done
    wait
}

for case in "$@"; do
    began=$(date +%s)
    echo "== $case, $ranks ranks"
    case $case in
    480p-*) bench "$case" scale "${case#*-}" '832*480' ;;
    720p-*) bench "$case" scale "${case#*-}" '1280*720' ;;
    vae)
        bench vae.720p scale_vae 1.3B '1280*720'
        bench vae.480p scale_vae 1.3B '832*480'
        ;;
    encode)
        bench encode.720p scale_encode 1.3B '1280*720'
        bench encode.480p scale_encode 1.3B '832*480'
        ;;
    load | peers | peers1) $case ;;
    *) echo "$case: no such case" ;;
    esac
    echo "== $case: $(($(date +%s) - began)) s"
done
"$python" "$here/plot.py" table "$out"/*.json
"$python" "$here/plot.py" meshes "$out/meshes.png" "$out"/*.json
