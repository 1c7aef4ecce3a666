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

# seconds FLAGS...: the plan's estimate
seconds() {
    timeout -k 5 60 "$wanmpi" plan "$@" --json >out 2>err
    python3 -c 'import json; print(json.load(open("out"))["seconds"])'
}

small="--task t2v-A14B --size 832*480"
large="--task t2v-14B --size 1280*720"
one="$large --gpus 1 --gpu_memory 9"
# shellcheck disable=SC2086
plan 4 'does not fit: a rank needs [0-9.]* GB of GPU memory, and a GPU has 9.00 GB: it would fit on 16 GPUs' $one
grep -q '^memory .* does not fit$' out && grep -q '^ *it would fit on 16 GPUs$' out || bad "no advice in the text"
# shellcheck disable=SC2086
plan 4 'does not fit' $one --json
python3 - <<'END' || bad "--json: not what does not fit"
import json
r = json.load(open("out"))
assert r["memory"]["fits"] is False and r["memory"]["available_bytes"] == 9e9
assert r["memory"]["needed_bytes"] > 9e9 and "on 16 GPUs" in r["memory"]["advice"]
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
# as is it needs 13.9 GB
plan 0 '' --task t2v-1.3B --size 1280*720 --vae_precision fp32 --gpus 1 --gpu_memory 12
grep -q '^decode .*frame by frame' out || bad "not frame by frame, as generate would choose"
plan 0 '' --task t2v-1.3B --size 1280*720 --vae_precision fp32 --gpus 1 --gpu_memory 14
! grep -q 'frame by frame' out || bad "frame by frame without need"
# shellcheck disable=SC2086
plan 4 'does not fit: a rank needs' $large --gpus 8 --gpu_memory 6 --dit_fsdp=False
plan 4 'does not fit: the ranks of a node need' $large --device cpu --tflops 1 --frame_num 4001
# blocks in host memory: as many as fit stay, and more of them with more memory
# shellcheck disable=SC2086
plan 0 '' $large --gpus 1 --vram_limit 24
grep -q '^weights  *2[0-9] of 40 blocks stay on the device, the others are in 1[0-9.]* GB of host memory: ' out &&
    grep -q '^ .* at 52 GB/s, while it computes$' out && grep -q ' of the 22.35 GiB of a GPU: fits' out ||
    bad "not within 24 GB"
plan 0 '' --task t2v-A14B --size 832*480 --gpus 1 --vram_limit 24 --json
python3 - <<'END' || bad "--json: not the blocks of two experts"
import json
r = json.load(open("out"))
step = [s for s in r["ranks"][0]["stages"] if s["stage"] == "step"][0]
assert r["offload"] == "cpu" and 8 < r["resident_blocks"] < 16 and r["experts"]["memory"] == "both"
assert r["memory"]["fits"] and 22e9 < r["memory"]["needed_bytes"] <= 24e9
assert r["ranks"][0]["host_bytes"] < 60e9 and 30e9 < step["streamed_bytes"] < 40e9
END
# shellcheck disable=SC2086
plan 0 '' $large --gpus 2 --vram_limit 30 --vram_buffer 6 --dit_fsdp=False
grep -q ' GB of host memory that the ranks of a node share: ' out && grep -q ' of the 22.35 GiB of a GPU: fits' out ||
    bad "not shared, or another limit"
# shellcheck disable=SC2086
plan 0 '' $large --gpus 1 --num_persistent_param_in_dit 0 --offload_device disk
grep -q '^weights  *0 of 40 blocks stay on the device, the others are read from their file' out || bad "not from the file"
plan 4 'does not fit: --vram_limit leaves 3.00 GB, but a rank needs [0-9.]* GB, the smallest limit that works; ' \
    --task t2v-1.3B --size 832*480 --gpus 1 --vram_limit 3
plan 1 '--vram_buffer 5 leaves nothing of --vram_limit 4' --vram_limit 4 --vram_buffer 5
plan 1 '--offload_device disk is for weights that are not sharded' --offload_device disk --dit_fsdp
# 8-bit attention: which steps and blocks, and less time
# shellcheck disable=SC2086
plan 0 '' $large --gpus 1 --json && cp out exact
# shellcheck disable=SC2086
plan 0 '' $large --gpus 1 --attention 8bit --json
python3 - <<'END' || bad "--attention 8bit: not in 40 steps and 36 blocks, or not faster"
import json
r, exact = json.load(open("out")), json.load(open("exact"))
assert r["attention_8bit"] == {"steps": [5, 45], "blocks": [2, 38]} and "attention_8bit" not in exact
assert 0.75 * exact["seconds"] < r["seconds"] < 0.95 * exact["seconds"]
END
# shellcheck disable=SC2086
plan 0 '' $large --gpus 1 --attention 8bit --sample_steps 4 --attention_exact_blocks 0,0
grep -q '^attention  *8-bit in steps 2 to 3 of 4, in blocks 1 to 40 of 40$' out || bad "not the steps and blocks"
# shellcheck disable=SC2086
plan 0 '' $large --gpus 1 --fast fast
grep -q '^attention  *8-bit in steps 2 to 49 of 50, in blocks 3 to 38 of 40$' out || bad "not the attention of --fast"
plan 1 '--attention 8bit on GPUs is for --precision bf16' --attention 8bit --precision fp32 --gpus 1
plan 1 '--attention 8bit: of 2 steps the first 1 and the last 1 stay exact, which leaves none' --attention 8bit \
    --sample_steps 2
for task in i2v-14B flf2v-14B i2v-A14B inp-1.3B; do # without the images that they need
    plan 0 '' --task $task --size 832*480 --gpus 8
    case $task in
    inp*) ! grep -q 'aspect ratio' out ;;
    *) grep -q '^video  *832\*480 (the aspect ratio of the image changes it), 81 frames' out ;;
    esac || bad "$task: not the size as given"
done
# --groups, and batch files: the number of groups that makes the most videos per hour, of those that fit
plan 0 '' --task t2v-1.3B --size 832*480 --gpus 2 --groups 2
grep -q '^ranks  *1: cfg 1' out && grep -q '^groups  *2 such groups' out || bad "not the plan of one of two groups"
grep -q '^best  *--groups 2: .*, 1\.[0-9]* times as many as one group$' out || bad "one group is not slower"
# shellcheck disable=SC2086
plan 0 '' $large --gpus 8 --vae_precision fp32 --gpu_memory 11 --groups 1 --json
python3 - <<'END' || bad "--groups --json: not what fits"
import json
r = json.load(open("out"))
rows = {g["groups"]: g for g in r["groupings"]}
assert list(rows) == [1, 2, 4, 8] and r["best_groups"] in rows and rows[r["best_groups"]]["fits"]
assert rows[1]["dit_fsdp"] and not rows[8]["fits"] and rows[8]["gpu_bytes"] > 11e9
assert all(g["groups"] * g["ranks"] == 8 for g in r["groupings"])
assert all(g["mesh"]["cfg"] * g["mesh"]["ring"] * g["mesh"]["ulysses"] == g["ranks"] for g in r["groupings"])
assert rows[2]["video_seconds"] > 1.9 * rows[1]["video_seconds"]
END
plan 0 '' --task t2v-1.3B --size 832*480 --gpus 4 --groups 2 --ulysses_size 2 --cfg_size 1
grep -q '^ *4 *1  .*ulysses 2 does not fit 1 ranks' out || bad "not why 4 groups are impossible"
plan 1 '--groups 3 does not divide the 4 ranks of this job: .* choose of 1, 2, 4' --gpus 4 --groups 3
# shellcheck disable=SC2086
plan 4 'does not fit: ' $large --gpus 4 --vae_precision fp32 --gpu_memory 11 --groups 4
{ echo '{"prompt": "a"}'; echo '{"prompt": "b", "frame_num": 5}'; echo '{"prompt": "c", "frame_num": 5}'; } >jobs.jsonl
plan 0 '' jobs.jsonl --task t2v-1.3B --size 832*480 --gpus 4
grep -q '^batch  *jobs.jsonl: 3 requests, 4 texts, on 4 ranks$' out || bad "not the batch"
grep -q '^best  *--groups 1: ' out || bad "one long request is best on all ranks"
plan 0 '' jobs.jsonl --task t2v-1.3B --size 832*480 --gpus 4 --groups 2 --json
python3 - <<'END' || bad "a batch --json: not its times"
import json
r = json.load(open("out"))
rows = {g["groups"]: g for g in r["groupings"]}
assert r["requests"] == 3 and r["texts"] == 4 and list(rows) == [1, 2, 4]
assert abs(rows[1]["total_seconds"] - 3 * rows[1]["video_seconds"]) < 1e-6
assert rows[4]["total_seconds"] < 3 * rows[4]["video_seconds"] # that of the long one
assert r["best_groups"] == min(rows, key=lambda g: rows[g]["total_seconds"])
END
# shellcheck disable=SC2086
plan 4 'does not fit: 4 groups of 1 rank need [0-9.]* GB of a GPU and .*: use the best' jobs.jsonl $large --gpus 4 \
    --vae_precision fp32 --gpu_memory 11 --groups 4
echo '{"prompt": "d", "frame_num": 6}' >>jobs.jsonl
plan 1 'jobs.jsonl:4: --frame_num 6: must be 4n+1' jobs.jsonl --gpus 4
plan 2 'none.jsonl' none.jsonl --gpus 4
plan 0 '' $small --preset lightx2v-4 --gpus 2
grep -q '^video .*; 4 steps of euler, shift 5, guidance 1, low noise from step 3 on; 4 forwards$' out || bad "not one forward for each step"
grep -q '^preset  *lightx2v-4: --sample_steps 4 --sample_solver euler' out || bad "not what the preset sets"
grep -q '^ranks  *2: cfg 1 ' out || bad "ranks for a branch that is not computed"
# shellcheck disable=SC2086
half=$(seconds $small --sample_steps 4 --sample_guide_scale 1 --gpus 1)
whole=$(seconds $small --sample_steps 4 --gpus 1)
mixed=$(seconds $small --sample_steps 4 --sample_guide_scale 1,4 --boundary_step_index 2 --gpus 1)
python3 -c "import sys; h, w, m = map(float, sys.argv[1:]); sys.exit(not abs((h + w) / 2 / m - 1) < 0.03)" \
    "$half" "$whole" "$mixed" || bad "$half s without guidance, $whole s with it, $mixed s in half of the steps"

# Step caches: the schedule of magcache is known; that of two experts begins anew.
# shellcheck disable=SC2086
plan 0 '' $large --gpus 1 --cache magcache
grep -q '^ *50 of 100 forwards computed: steps 1-10, 13, 16, .*, 47, 49-50$' out || bad "not the steps of magcache"
# shellcheck disable=SC2086
part=$(seconds $large --gpus 1 --cache magcache) whole=$(seconds $large --gpus 1)
python3 -c "import sys; p, w = map(float, sys.argv[1:]); sys.exit(not 0.5 < p / w < 0.53)" "$part" "$whole" ||
    bad "$part s with magcache, $whole s without"
# shellcheck disable=SC2086
plan 0 '' $small --gpus 1 --cache magcache --sample_steps 40
grep -q '^ *52 of 80 .* steps 1-10, 13, 16, 19, 22, 25, 27-32, 34, 36, 38-40$' out || bad "not the steps of two experts"
# shellcheck disable=SC2086
plan 0 '' $small --gpus 1 --cache firstblock
grep -q '^ *at most 80 forwards computed: the run decides in each step$' out || bad "no limit of firstblock"
plan 1 '--image: task t2v-14B does not use it' --task t2v-14B --image none.png
plan 1 '--machine, --nodes and --gpus describe a machine with GPUs' --gpus 2 --device cpu

# Several nodes: what is sent on each link, what is assumed, the mesh that is chosen, and all others.
# shellcheck disable=SC2086
plan 0 '' $large --machine h200 --nodes 2
grep -q '^machine  *2 nodes of 8 GPUs with 141 GB, each as an NVIDIA H200$' out &&
    grep -q '^ *200 GB/s from a rank to its node: NVLink (measured)$' out &&
    grep -q '^ *40 GB/s from a rank to other nodes: InfiniBand .* (assumed)$' out || bad "not what is assumed"
grep -q '^ranks  *16: cfg 2 x ring 1 x ulysses 8' out || bad "not the CFG branches on two nodes"
grep -q '^links  *step: 13.55 GB from a rank to its node in 67.7 ms; 2.419 MB to other nodes in ' out || bad "not the links"
# shellcheck disable=SC2086
plan 0 '' $large --machine h200 --nodes 2 --sample_guide_scale 1 --meshes --json
python3 - <<'END' || bad "--meshes --json: not a ring across nodes, or not all meshes"
import json
r = json.load(open("out"))
assert r["mesh"] == {"cfg": 1, "ring": 2, "ulysses": 8} and r["machine"]["network_is"] == "assumed"
step = [s for s in r["ranks"][0]["stages"] if s["stage"] == "step"][0]
assert step["sent_across_bytes"] == 40 * 2 * (75600 // 2) * (40 // 8) * 128 * 2 # k and v of a chunk, some heads, bf16
rows = r["meshes"]
assert [m["seconds"] for m in rows] == sorted(m["seconds"] for m in rows)
assert sorted(m["mesh"]["ulysses"] for m in rows) == [1, 2, 4, 8, 16]
chosen = [m for m in rows if m["chosen"]]
assert [m["mesh"] for m in chosen] == [r["mesh"]] and chosen[0]["seconds"] < 1.02 * rows[0]["seconds"]
assert abs(chosen[0]["seconds"] - r["seconds"]) < 1e-9 and chosen[0]["rank_bytes"] == r["memory"]["needed_bytes"]
END
# shellcheck disable=SC2086
plan 0 '' $large --machine h200 --nodes 2 --dit_fsdp --network 5 --json
python3 - <<'END' || bad "sharded over two nodes: not 8 of 15 messages, or no waiting for a slow network"
import json
r = json.load(open("out"))
step = [s for s in r["ranks"][0]["stages"] if s["stage"] == "step"][0]
assert 11.9e9 < step["sent_across_bytes"] < 12e9 and step["waited_seconds"] > 1 and r["machine"]["network_is"] == "given"
END
# shellcheck disable=SC2086
plan 0 '' $large --machine nvl72 --json
python3 - <<'END' || bad "nvl72: not its 72 GPUs"
import json
r = json.load(open("out"))
m = r["machine"]
assert r["mesh"] == {"cfg": 2, "ring": 9, "ulysses": 4} and m["nodes"] * m["gpus"] == 72 and m["flops_are"] == "assumed"
assert m["node_bytes_per_second"] == m["network_bytes_per_second"] and r["ranks"][-1]["last"] == 71
END
plan 1 '--machine dgx: choose h100, h200 or nvl72' --machine dgx
plan 1 '--meshes is for the plan of one request' jobs.jsonl --gpus 4 --meshes
plan 1 '--ranks is for this machine; a machine that --machine' --machine h100 --ranks 4
echo "plan: $count checks, $wrong failed"
[ $wrong = 0 ]
