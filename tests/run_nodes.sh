#!/usr/bin/env bash
# run_nodes.sh WANMPI SAME_LATENTS NODES: ranks that take each other for ranks of two nodes (faults/nodes.c) end as one
# rank does: in the same bits, but for a ring; in each step they send to the other node the bytes that plan says; and
# the ranks of each node share their weights in host memory.
if grep -qE '__(asan|hwasan|msan|tsan)_init' "$1"; then
    echo "run_nodes: a sanitizer is loaded before other libraries"
    exit 77
fi
nodes=$(realpath "$3")
. "$(dirname "$0")/run_common.sh" "$1" "$2"
common=(--task t2v-1.3B --ckpt_dir model "${small[@]}")

across() { # across P NAME STEPS FLAGS...: on nodes of two ranks; NAME.log has what each rank has sent to others
    local p=$1 name=$2 steps=$3
    shift 3
    "${mpirun[@]}" -x LD_PRELOAD="$nodes" -x NODES_RANKS=2 -x NODES_LOG="$PWD/$name.log" -n "$p" "$wanmpi" generate \
        "${common[@]}" --sample_steps "$steps" --save_file "$name.mp4" --run_file "$name.h5" "$@"
}
as_planned() { # as_planned NAME FLAGS...: bytes of a step, by which runs of two steps and of one differ
    "$wanmpi" plan "${common[@]}" --nodes 2 --gpus 2 --precision fp32 --sample_steps 2 --json "${@:2}" > plan.json &&
        python3 - "$1" << 'END'
import json, sys
sent = [dict(line.split()[:2] for line in open(f"{sys.argv[1]}{steps}.log")) for steps in (2, 1)]
plan = json.load(open("plan.json"))["ranks"]
for rank in range(4):
    stages = [r["stages"] for r in plan if r["first"] <= rank <= r["last"]][0]
    want = [s["sent_across_bytes"] for s in stages if s["stage"] == "step"][0]
    got = int(sent[0][str(rank)]) - int(sent[1][str(rank)])
    print(f"rank {rank} sends {got} bytes to the other node in a step, planned {want}")
    assert got == want > 0
END
}

check "one rank" ranks 1 generate "${common[@]}" --sample_steps 2 --save_file one.mp4 --run_file one.h5
for axes in "cfg 0 --cfg_size 2 --ulysses_size 2 --dit_fsdp" "ring 1e-5 --cfg_size 1 --ring_size 2 --ulysses_size 2"; do
    read -r name tolerance flags <<< "$axes"
    # shellcheck disable=SC2086
    for steps in 2 1; do check "$name, $steps steps" across 4 "$name$steps" $steps $flags; done
    # shellcheck disable=SC2086
    check "$name: as one rank" "$same" one.h5 "${name}2.h5" $tolerance
    # shellcheck disable=SC2086
    check "$name: the planned bytes" as_planned "$name" $flags
done
# rank 2 is alone on the second node
check "host memory" across 3 host 2 --cfg_size 1 --ulysses_size 3 --dit_fsdp=False --num_persistent_param_in_dit 0
check "host memory: the same bits" "$same" one.h5 host.h5
owners() { sort -n host.log | awk '{ printf "%s", $3 }'; }
check "host memory: one file on each node, of its first rank" [ "$(owners)" = 101 ]
summary
