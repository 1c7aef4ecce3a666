#!/bin/sh
# The GPU's ops and small runs under compute-sanitizer, from a built tree:
#     tests/gpu_sanitize.sh [BUILD [TOOL...]]
# TOOLs: memcheck (bounds, leaks of kernels, API errors), racecheck (shared memory), initcheck (reads of
# device memory that nothing wrote), synccheck. OPS and MODELS name what is checked, if not all; SECONDS_EACH is the
# limit of each, 240. Two ranks share a GPU where there is one. Last line: "N passed, M failed".
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "${1:-$here/../build}" && pwd) || exit 1
[ $# -lt 1 ] || shift
tools=${*:-memcheck racecheck initcheck synccheck}
golden=$here/golden
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0

if ! command -v compute-sanitizer >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
    echo "sanitize: skipped, no GPU or no compute-sanitizer here"
    echo "0 passed, 0 failed"
    exit 77
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"

check() { # NAME TOOL COMMAND...
    name="$2 $1" tool=$2
    shift 2
    began=$(date +%s)
    timeout -k 5 "${SECONDS_EACH:-240}" "$@" >"$scratch/log" 2>&1
    rc=$?
    took=$(($(date +%s) - began))
    said=$(grep -h '========= .*SUMMARY' "$scratch/log" | sed 's/^=* *//' | sort | uniq -c | tr '\n' ';')
    if [ $rc = 0 ]; then
        passed=$((passed + 1))
        printf '%-30s ok     %3d s  %s\n' "$name" "$took" "$said"
    else
        failed=$((failed + 1))
        printf '%-30s FAILED %3d s  exit %d  %s\n' "$name" "$took" "$rc" "$said"
        # what was found, each kind once
        grep -hE '^=========( +(Invalid|Uninitialized|Error|Warning|Race|Barrier|Program hit)| +at )' \
            "$scratch/log" | sed -E 's/(0x)?[0-9a-f]{6,}/X/g; s/\([0-9,]+\)/()/g' | sort | uniq -c |
            sort -rn | head -15
    fi
}

two="mpirun -q --bind-to none -n 2"
"$build/wanmpi" synth --preset tiny --out "$scratch/model" >/dev/null || exit 1
for tool in $tools; do
    under="compute-sanitizer --tool $tool --error-exitcode 9 --print-limit 50 --target-processes all"
    ops=${OPS:-$(sed -n 's/^ *\([a-z0-9_]*\)_fn \*\1;.*/\1/p' "$here/../kernels/table.h")}
    models=${MODELS-dit umt5 vae} precision=
    case $tool in
    memcheck) under="$under --report-api-errors no" ;; # our own code looks at every status
    racecheck)
        under="$under --racecheck-report all"
        # cuBLASLt's bf16 kernels do not run under it at all, and ours in the models are those above
        models="" precision="--precision fp32 --t5_cpu"
        ;;
    esac
    for op in $ops; do
        fast=cuda filter=
        case $tool-$op in
        *-attention_parts) continue ;;    # whose cases are in attention
        racecheck-gemm) continue ;;       # whose own kernel is gemm_add's; the fast ones are cuBLASLt's
        racecheck-gemm_add) fast=plain ;;
        racecheck-attention) filter="--kernel-regex kns=attention_kernelI" ;; # the fast ones
        esac
        # shellcheck disable=SC2086 # words of a command
        check "$op" "$tool" $under $filter "$build/tests/checkops" --$fast "$op"
    done
    for model in $models; do
        recorded=$golden
        [ "$model" != vae ] || recorded=$golden/vae.safetensors
        # shellcheck disable=SC2086
        check "$model" "$tool" $under "$build/tests/test_$model" "$recorded" cuda
    done
    # shellcheck disable=SC2086
    {
        check "attention, 2 ranks" "$tool" $two $under "$build/tests/test_attention" cuda
        check "generate, 2 ranks" "$tool" $two $under "$build/wanmpi" generate --task t2v-1.3B \
            --ckpt_dir "$scratch/model" --size 64*64 --frame_num 5 --sample_steps 2 --base_seed 5 \
            --prompt "A cat surfs" --device cuda $precision --cfg_size 1 --ulysses_size 2 \
            --dit_fsdp --save_file "$scratch/out.mp4"
    }
done
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
