#!/bin/sh
# inspect.sh WANMPI: `wanmpi inspect` for scripts: exit status 0 for complete checkpoints only, files that are no
# weights named for what they are, and --json with the same facts.
. "$(dirname "$0")/cli_common.sh"

# is STATUS PATTERN PATH: inspect --json ends with the status, and its error line and the first problem in the JSON
# have the pattern
is() {
    count=$((count + 1))
    timeout -k 5 60 "$wanmpi" inspect --json "$3" >out 2>err
    [ $? = "$1" ] || bad "$3: not status $1"
    if [ -n "$2" ]; then
        [ "$(wc -l <err)" = 1 ] && grep -q "^wanmpi: .*$2" err || bad "$3: not one line with '$2'"
    fi
    python3 - "$3" "$2" <<'END' || bad "$3: other JSON"
import json, re, sys
report = json.load(open("out"))
problems = report["problems"]
assert report["path"] == sys.argv[1], report["path"]
assert bool(problems) == bool(sys.argv[2]), problems
assert not problems or re.search(sys.argv[2].replace("(", "\\("), problems[0]), problems
END
}

"$wanmpi" synth --preset tiny --out whole >log 2>&1 || {
    cat log
    exit 1
}
weights=diffusion_pytorch_model.safetensors
is 0 '' whole
python3 - <<'END' || bad "whole --json: not the checkpoint"
import json
r = json.load(open("out"))
dit = r["parts"][0]
assert r["layout"] == "official" and r["task"] == "t2v-1.3B" and r["fit"] is True
assert [p["part"] for p in r["parts"]] == ["dit", "t5", "vae"]
assert all(p["complete"] and not p["differences"] for p in r["parts"]) and r["tokenizer"]["complete"]
assert dit["config"]["num_heads"] == 4 and dit["config"]["eps"] == 1e-6 and dit["released"] == ["tiny"]
assert sum(dit["dtypes"].values()) == dit["tensors"] == dit["files"][0]["tensors"]
END

# Folders that are cut or incomplete.
for part in "$weights" models_t5_umt5-xxl-enc-bf16.pth Wan2.1_VAE.pth; do
    rm -rf cut
    cp -r whole cut
    truncate -s -100 cut/$part
    is 3 "cut/$part: " cut
    rm cut/$part
    is 2 'is missing; tried' cut
done
count=$((count + 1)) # the text has the same problem, and the rest of the report
"$wanmpi" inspect cut >out 2>err && bad "cut: succeeded"
grep -q '^  state  *.*is missing; tried' out && grep -q '^wanmpi: .*is missing; tried' err &&
    grep -q '^  state  *complete' out || bad "cut: no report"
rm -rf cut
cp -r whole cut
rm -r cut/google
is 3 'the tokenizer is missing' cut
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4548313\n' >pointer
mkdir -p cut/google/umt5-xxl
cp pointer cut/google/umt5-xxl/spiece.model
is 3 'spiece.model: is a Git LFS pointer' cut
is 2 'No such file' none
is 3 'is not a checkpoint' .

cp pointer cut/$weights
is 3 "cut/$weights: is a Git LFS pointer" cut

# Files that are no weights.
cp pointer pointer.safetensors
printf 'GGUF\003\000\000\000\001\000\000\000\000\000\000\000' >quantized.safetensors
printf '\n<!DOCTYPE html>\n<html><body>404</body></html>\n' >page.safetensors
printf 'Access to model Wan-AI/Wan2.1 is restricted.\n' >denied.safetensors
printf '{"error":"Repository not found"}' >error.safetensors
: >empty.safetensors
truncate -s 4096 zeros.safetensors
printf 'text' >x.txt
python3 - <<'END'
import json, pickle, struct, zipfile
with zipfile.ZipFile("archive.safetensors", "w") as z:
    z.write("x.txt")
with open("object.safetensors", "wb") as f:
    pickle.dump({"steps": 3, "name": "x" * 40}, f, protocol=2)
with zipfile.ZipFile("list.safetensors", "w") as z:
    z.writestr("archive/data.pkl", pickle.dumps([1, 2, 3], protocol=2))
def tensors(path, *names):
    header, at = {}, 0
    for name in names:
        header[name] = {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [at, at + 4]}
        at += 4
    text = json.dumps(header).encode()
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + bytes(at))
tensors("lora.safetensors", "diffusion_model.blocks.0.self_attn.q.lora_A.weight")
tensors("lokr.safetensors", "diffusion_model.blocks.0.self_attn.q.lokr_w1")
tensors("scaled.safetensors", "blocks.0.self_attn.q.weight", "blocks.0.self_attn.q.scale_weight")
tensors("mixed.safetensors", "blocks.0.self_attn.q.weight", "blocks.0.self_attn.q.zero_point")
tensors("module.safetensors", "vace_blocks.0.after_proj.weight")
tensors("flux.safetensors", "double_blocks.0.img_attn.qkv.weight")
tensors("unet.safetensors", "model.diffusion_model.input_blocks.0.0.weight")
tensors("control.safetensors", "controlnet_blocks.0.weight")
def text(s): return struct.pack("<Q", len(s)) + s.encode()
open("llama.gguf", "wb").write(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("general.architecture") + struct.pack("<I", 8)
    + text("llama") + text("blk.0.attn_q.weight") + struct.pack("<IQIQ", 1, 4, 0, 0) + bytes(64))
END
cp whole/Wan2.1_VAE.pth vae.safetensors
cp whole/models_t5_umt5-xxl-enc-bf16.pth text.safetensors
while read -r file line; do
    case $file in *.*) ;; *) file=$file.safetensors ;; esac
    is 3 "$file: $line" $file
done <<'END'
pointer is a Git LFS pointer, not the file: run git lfs pull
quantized its header ends at byte 16
llama.gguf is a GGUF file of the architecture llama
page is an HTML page
denied is a text, as a failed download leaves
error is a text, as a failed download leaves
empty is empty
zeros is without data at its beginning
archive is a zip without data.pkl
object is a pickle without a zip archive
list its pickle holds no dict of tensors
lora .*lora_A.weight has no other factor
lokr .*has no lokr_w2
scaled has no transformer, nor another part of Wan; its first tensor is blocks.0.self_attn.q.weight
module is a VACE module
mixed tensor blocks.0.self_attn.q.weight is F8_E4M3 .*, and this version does not know how
flux is a transformer of FLUX or HunyuanVideo
unet is a UNet of Stable Diffusion
control is a ControlNet
vae has a VAE, not a transformer
text has a text encoder, not a transformer
END

echo "inspect: $count checks, $wrong failed"
[ $wrong = 0 ]
