#!/bin/sh
# Runs wanmpi and diffusers alternately on the same GPUs and prints the ratio:
#     bench/peers/compare.sh BUILD OUT [MODEL:480|720...]
# On one GPU: diffusers compiled, then the VAE; on several GPUs: its Ulysses and ring. Results go to the
# folder OUT as JSON. Environment: PYTHON, a python3 with torch and diffusers; MPIRUN, mpirun with arguments.
set -u
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$1" && pwd) out=$2
shift 2
[ $# -gt 0 ] || set -- 14B:480 14B:720 1.3B:480 1.3B:720
python=${PYTHON:-python3}
mpirun=${MPIRUN:-mpirun -q --bind-to none}
gpus=$(nvidia-smi -L | grep -c '^GPU ')
[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || gpus=$(echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c .)
mkdir -p "$out"

for case in "$@"; do
    model=${case%:*} size=${case#*:}
    pixels='832*480'
    [ "$size" = 720 ] && pixels='1280*720'
    set -- "$build/wanmpi" bench dit --model "$model" --size "$pixels" --repeats 3
    if [ "$gpus" = 1 ]; then
        "$@" --json "$out/ours.$model.$size.json"
        "$python" "$here/dit.py" --json "$out/theirs.$model.$size.json" "$model:$size:c"
    else
        for axis in ulysses ring; do
            # shellcheck disable=SC2086 # words of a command
            $mpirun -n "$gpus" "$@" --${axis}_size "$gpus" --json "$out/ours.$model.$size.$axis.json"
            how=c
            [ $axis = ring ] && how=e
            "$python" -m torch.distributed.run --nproc_per_node="$gpus" "$here/dit.py" \
                --parallel $axis --json "$out/theirs.$model.$size.$axis.json" "$model:$size:$how"
        done
    fi
done
if [ "$gpus" = 1 ]; then
    "$build/wanmpi" bench vae --size '1280*720' --repeats 3 --json "$out/ours.vae.720.json"
    "$python" "$here/vae.py" --json "$out/theirs.vae.json" decode:720:bf16 decode:720:fp32
fi
"$python" "$here/../plot.py" ratio "$out"/*.json
