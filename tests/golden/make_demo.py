"""Records the latents of the demo checkpoint for one prompt and seed: demo.safetensors.

Usage: python make_demo.py MODEL_DEMO OUT.safetensors
latents [C, T, H, W] after the last of four steps, in fp32 on the CPU, by the modules and the solver of
MODEL_DEMO/recipe, which recipe/compare.py compares with the official code. tests/demo.sh runs the same
request."""
import os
import sys

from safetensors.torch import save_file

folder, out_path = sys.argv[1:]
sys.path.insert(0, os.path.join(folder, "recipe"))
import sample

model, _, tokenizer = sample.load(folder, "cpu")
latents = sample.denoise(
    model,
    tokenizer,
    ["一个红色的圆形向右移动"],
    seeds=[42],
    frames=9,
    height=64,
    width=96,
    steps=4,
    shift=5.0,
    guidance=5.0,
)
save_file({"latents": latents[0].contiguous()}, out_path)
