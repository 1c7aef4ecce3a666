#!/usr/bin/env bash
# run_batch.sh WANMPI SAME_LATENTS: many requests, models loaded once; a second start does what is missing.
. "$(dirname "$0")/run_common.sh"

cat > jobs.jsonl << 'EOF'
{"prompt": "Two cats boxing", "save_file": "a.mp4"}
{"prompt": "A dog skis", "base_seed": 9, "size": "64*64", "save_file": "b.mp4"}

{"prompt": "A dog skis", "frame_num": 1}
EOF
batch() { # batch LOG
    ranks 2 batch jobs.jsonl --task t2v-1.3B --ckpt_dir model --size 128*96 --frame_num 9 \
        --sample_steps 3 --base_seed 7 > "$1" 2>&1 || {
        cat "$1"
        return 1
    }
}
check "batch" batch first.log
check "batch: videos" is_video a.mp4 128 96 9
check "batch: sizes of a line" is_video b.mp4 64 64 9
check "batch: a name for a line without" test -s jobs-0004.png
rm -f b.mp4
check "batch again" batch again.log
check "batch again skips what is there" test "$(grep -c skipped again.log)" -eq 2
check "batch again makes what is missing" is_video b.mp4 64 64 9

# Lines with and without guidance run on one mesh, in either order.
cat > mixed.jsonl << 'EOF'
{"prompt": "A", "save_file": "guided.mp4"}
{"prompt": "B", "save_file": "unguided.mp4", "sample_guide_scale": 1}
EOF
mixed() { # mixed LINES...: on two ranks
    ranks 2 batch "$1" --task t2v-1.3B --ckpt_dir model --size 64*64 --frame_num 5 --sample_steps 1 \
        --base_seed 7 > mixed.log 2>&1
}
check "guided, then not" mixed mixed.jsonl
rm -f guided.mp4 unguided.mp4
tac mixed.jsonl > turned.jsonl
check "not guided, then guided" mixed turned.jsonl
check "both videos" is_video guided.mp4 64 64 5
summary
