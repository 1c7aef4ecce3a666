"""Records the latents of the demo checkpoints for one prompt and seed each: demo.safetensors.

Usage: python make_demo.py MODEL_DEMO OUT.safetensors
[C, T, H, W] after the last step, in fp32 on the CPU, by the modules and the solver of MODEL_DEMO/recipe, which
recipe/compare.py compares with the official code: `latents` of MODEL_DEMO, `fast` of it with lora_4steps.safetensors
and without guidance, `pair` of MODEL_DEMO-pair, `i2v` of MODEL_DEMO-i2v with its first.png. tests/demo.sh runs the same requests."""
import os
import sys

import torch
from safetensors.torch import save_file

folder, out_path = sys.argv[1:]
sys.path.insert(0, os.path.join(folder, "recipe"))
import lora
import measure
import sample


def latents(folder, prompt, image=None, adapter=None, **named):
    model, vae, tokenizer = sample.load(folder, "cpu")
    if adapter:
        weights = lora.merged(model.dit.state_dict(), os.path.join(folder, adapter), dtype=torch.float32)
        model.dit.load_state_dict(weights)
    if image is not None:
        pixels = torch.from_numpy(measure.read_image(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        named["condition"] = sample.image_condition(model, vae, pixels, named["frames"])
    return sample.denoise(model, tokenizer, [prompt], seeds=[42], **named)[0].contiguous()


size = dict(frames=9, height=64, width=96, steps=4)
i2v = folder.rstrip("/") + "-i2v"
save_file(
    {
        "latents": latents(folder, "一个红色的圆形向右移动", **size),
        "fast": latents(
            folder,
            "一个红色的圆形向右移动",
            adapter="lora_4steps.safetensors",
            denoising_steps=[1000, 750, 500, 250],
            guidance=1,
            **size,
        ),
        "pair": latents(folder.rstrip("/") + "-pair", "一个红色的圆形向右移动", shift=12.0, guidance=(3.0, 4.0), **size),
        "i2v": latents(
            i2v,
            "a blue triangle moves upward on a gray background",
            os.path.join(i2v, "first.png"),
            frames=5,
            steps=4,
        ),
    },
    out_path,
)
