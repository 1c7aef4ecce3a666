#!/usr/bin/env bash
# run_requests.sh WANMPI SAME_LATENTS: what a request is taken for: prompts that begin with '@', seeds of 64 bits,
# notes about what is adjusted, and the request that the result names.
. "$(dirname "$0")/run_common.sh"

small=(--ckpt_dir model --size 32*32 --frame_num 5 --sample_steps 2 --threads 1)
run() { # run P FLAGS...: a small video; its output goes to run.log
    local p=$1
    shift
    ranks "$p" generate "${small[@]}" "$@" > run.log 2>&1
}
comment() { # comment FILE: the request that the file names
    ffprobe -v error -of csv=p=0 -show_entries format_tags=comment "$1" | sed 's/""/"/g'
}
names() { comment "$1" | grep -qF -e "$2"; } # names FILE TEXT
notes() { grep -q "^note .*$1" run.log; }    # notes PATTERN

# A prompt is read from a file once, however often the request is written and read afterwards.
printf '@none.txt\n' > at.txt
for p in 1 2; do
    check "a file's prompt begins with @, $p ranks" run $p --prompt @at.txt --base_seed 7 \
        --save_file at$p.mp4 --run_file at$p.h5
    check "the prompt is what the file has, $p ranks" names at$p.mp4 '"prompt":"@none.txt"'
done
check "and resumes" ranks 2 generate --resume at2.h5 --save_file again.mp4
check "the same prompt after resuming" names again.mp4 '"prompt":"@none.txt"'

check "the largest seed" run 2 --base_seed 18446744073709551615 --prompt a --save_file seed.mp4 \
    --run_file seed.h5
check "the largest seed is kept exactly" names seed.mp4 '"base_seed":"18446744073709551615"'
check "its low half is a CPU generator's seed" run 1 --base_seed 4294967295 --prompt a \
    --save_file low.mp4 --run_file low.h5
check "so both have the same noise" "$same" seed.h5 low.h5 1e-5

python3 -c 'print("cat " * 700)' > long.txt
check "a long prompt" run 1 --prompt @long.txt --save_file long.mp4
check "a long prompt is noted" notes 'the prompt has [0-9]* tokens, but the model takes 512'
check "no negative prompt, tiles side by side" run 1 --prompt a --n_prompt= --tiled \
    --tile_size 4,4 --tile_stride 4,4 --save_file tiled.mp4
check "the default negative prompt is noted" notes 'the negative prompt is empty'
check "tiles side by side are noted" notes 'tiles do not overlap'

# An image is rounded to bytes as the official program's images are, a video's frame is truncated: the contact
# sheet of one frame is that frame.
pixels() { ffmpeg -v error -i "$1" -f rawvideo -pix_fmt rgb24 - > "$1.rgb"; }
half_is_larger() { # half_is_larger A B: A is as large as B, or larger by 1 for 30 to 70 % of the bytes
    pixels "$1" && pixels "$2" && cmp -l "$1.rgb" "$2.rgb" | python3 -c '
import os, sys
pairs = [(int(a, 8), int(b, 8)) for _, a, b in map(str.split, sys.stdin)]
size = os.path.getsize(sys.argv[1])
print(len(pairs), "of", size, "bytes differ")
sys.exit(not all(a == b + 1 for a, b in pairs) or not 0.3 < len(pairs) / size < 0.7)' "$1.rgb"
}
one=(--frame_num 1 --prompt a --base_seed 3)
check "an image" run 2 "${one[@]}" --save_file image.png
check "the same as a video" run 2 "${one[@]}" --save_file image.mp4 --contact_sheet frame.png
check "the image is rounded" half_is_larger image.png frame.png

# What a file replaces is not named.
check "noise and text from a run file" run 2 --prompt b --base_seed 8 --noise seed.h5 --text seed.h5 \
    --save_file files.mp4 --run_file files.h5
check "the prompt that was not used is noted" notes 'the prompts are not used'
check "the seed that was not used is noted" notes 'the seed is not used'
check "the result names the files" names files.mp4 '"noise":"seed.h5","text":"seed.h5"'
check "and neither prompt" not names files.mp4 'prompt":'
check "nor seed" not names files.mp4 '"base_seed'
check "the latent of that noise and text" "$same" seed.h5 files.h5 1e-5
echo '{"noise": "seed.h5", "text": "seed.h5", "save_file": "line.mp4", "run_file": "line.h5"}' > text.jsonl
check "a batch line with them" ranks 2 batch text.jsonl "${small[@]}"
check "the latent of a batch line" "$same" seed.h5 line.h5 1e-5
summary
