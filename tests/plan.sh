#!/bin/sh
# plan.sh WANMPI: `wanmpi plan` for scripts: status 4 and what would fit for a request that does not fit, and
# --json with the numbers of the text.
. "$(dirname "$0")/cli_common.sh"

# plan STATUS LINE FLAGS...: ends with the status, and an error line with the pattern if that is not empty
plan() {
    status=$1 line=$2
    shift 2
    count=$((count + 1))
    timeout -k 5 60 "$wanmpi" plan "$@" >out 2>err
    [ $? = "$status" ] || bad "$*: not status $status"
    if [ -n "$line" ]; then
        [ "$(wc -l <err)" = 1 ] && grep -q "^wanmpi: $line" err || bad "$*: not one line with '$line'"
    elif [ -s err ]; then
        bad "$*: something on standard error"
    fi
}

large="--task t2v-14B --size 1280*720"
one="$large --gpus 1 --gpu_memory 16"
# shellcheck disable=SC2086
plan 4 'does not fit: a rank needs [0-9.]* GB of GPU memory, and a GPU has 16.00 GB: .*8 GPUs with --dit_fsdp' $one
grep -q '^memory .* does not fit$' out && grep -q '^ .*8 GPUs with --dit_fsdp$' out || bad "no advice in the text"
# shellcheck disable=SC2086
plan 4 'does not fit' $one --json
python3 - <<'END' || bad "--json: not what does not fit"
import json
r = json.load(open("out"))
assert r["memory"]["fits"] is False and r["memory"]["available_bytes"] == 16e9
assert r["memory"]["needed_bytes"] > 16e9 and "8 GPUs with --dit_fsdp" in r["memory"]["advice"]
END
# shellcheck disable=SC2086
plan 0 '' $large --gpus 8 --gpu_memory 24
grep -q '^ranks .*sharded (replicated it does not fit)$' out || bad "not sharded, as generate would choose"
# shellcheck disable=SC2086
plan 0 '' $large --gpus 8 --gpu_memory 24 --json
python3 - <<'END' || bad "--json: not what fits"
import json
r = json.load(open("out"))
assert r["dit_fsdp"] is True and r["memory"]["fits"] is True and r["memory"]["of"] == "gpu"
assert r["mesh"]["cfg"] * r["mesh"]["ring"] * r["mesh"]["ulysses"] == 8 == r["ranks"][-1]["last"] + 1
assert r["size"] == [1280, 720] and r["frames"] == 81 and r["latent"] == [16, 21, 90, 160]
step = [s for s in r["ranks"][0]["stages"] if s["stage"] == "step"][0]
assert r["steps"] * step["seconds"] < r["seconds"] and step["sent_bytes"] > 0
END
plan 0 '' --task t2v-1.3B --size 1280*720 --gpus 1 --gpu_memory 12 # as is it needs 13.9 GB
grep -q '^decode .*frame by frame' out || bad "not frame by frame, as generate would choose"
plan 0 '' --task t2v-1.3B --size 1280*720 --gpus 1 --gpu_memory 14
! grep -q 'frame by frame' out || bad "frame by frame without need"
# shellcheck disable=SC2086
plan 4 'does not fit: a rank needs' $large --gpus 8 --gpu_memory 24 --dit_fsdp=False
plan 4 'does not fit: the ranks of a node need' $large --device cpu --tflops 1 --frame_num 4001
for task in i2v-14B flf2v-14B i2v-A14B inp-1.3B; do # without the images that they need
    plan 0 '' --task $task --size 832*480 --gpus 8
    case $task in
    inp*) ! grep -q 'aspect ratio' out ;;
    *) grep -q '^video  *832\*480 (the aspect ratio of the image changes it), 81 frames' out ;;
    esac || bad "$task: not the size as given"
done
plan 1 '--image: task t2v-14B does not use it' --task t2v-14B --image none.png
plan 1 '--nodes and --gpus describe a machine with GPUs' --gpus 2 --device cpu
echo "plan: $count checks, $wrong failed"
[ $wrong = 0 ]
