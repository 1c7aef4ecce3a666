"""Compares the frames of sample.py with those of the official modules, from the exported files.

    compare.py --ckpt_dir model/demo --official PATH [--video FILE.npy ...]

PATH is a checkout of Wan2.1. Its DiT, umT5, VAE and UniPC run in fp32 on the CPU; its attention, which
needs flash-attn, is replaced by PyTorch's. `--video` also compares frames [T, H, W, 3] u8, for example
wanmpi's for the same prompt and seed.
"""

import argparse
import importlib
import json
import os
import sys
import types

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import measure
import sample
import text
from vae import MEAN, STD


def official(checkout):
    """Imports the checkout's modules without running its __init__ files."""
    for name, folder in (
        ("wan", "wan"),
        ("wan.modules", "wan/modules"),
        ("wan.utils", "wan/utils"),
    ):
        package = types.ModuleType(name)
        package.__path__ = [os.path.join(checkout, folder)]
        sys.modules[name] = package
    torch.cuda.current_device = lambda: "cpu"  # a default argument there

    def attention(q, k, v, k_lens=None, **_):
        assert k_lens is None or int(k_lens.min()) == k.shape[1]
        swap = lambda x: x.transpose(1, 2)
        return swap(F.scaled_dot_product_attention(swap(q), swap(k), swap(v)))

    importlib.import_module("wan.modules.attention").flash_attention = attention
    modules = [
        importlib.import_module("wan." + n)
        for n in ("modules.model", "modules.t5", "modules.vae", "utils.fm_solvers_unipc")
    ]
    modules[0].flash_attention = attention
    return modules


@torch.no_grad()
def generate(modules, folder, prompt, seed, frames, size, steps, shift, guidance):
    dit_module, t5_module, vae_module, solver_module = modules
    path = lambda name: os.path.join(folder, name)
    widen = lambda state: {n: v.float() for n, v in state.items()}
    with open(path("config.json")) as f:
        config = {k: v for k, v in json.load(f).items() if not k.startswith("_")}
    dit = dit_module.WanModel(**config)
    dit.load_state_dict(widen(load_file(path("diffusion_pytorch_model.safetensors"))))
    state = widen(torch.load(path("models_t5_umt5-xxl-enc-bf16.pth"), weights_only=True))
    vocab, dim = state["token_embedding.weight"].shape
    t5 = t5_module.T5Encoder(
        vocab,
        dim,
        state["blocks.0.attn.q.weight"].shape[0],
        state["blocks.0.ffn.fc1.weight"].shape[0],
        state["blocks.0.pos_embedding.embedding.weight"].shape[1],
        1 + max(int(n.split(".")[1]) for n in state if n.startswith("blocks.")),
        32,
        shared_pos=False,
    )
    t5.load_state_dict(state)
    state = widen(torch.load(path("Wan2.1_VAE.pth"), weights_only=True))
    vae = vae_module.WanVAE_(
        dim=state["encoder.conv1.weight"].shape[0],
        z_dim=16,
        temperal_downsample=[False, True, True],
    )
    vae.load_state_dict(state)
    for m in (dit, t5, vae):
        m.eval()

    tokenizer = text.Tokenizer(path("google/umt5-xxl/spiece.model"))

    def encode(words):
        ids = tokenizer(words, config["text_len"])
        padded = torch.tensor([ids + [text.PAD] * (config["text_len"] - len(ids))])
        return t5(padded, (padded != text.PAD).long())[0, : len(ids)]

    cond, uncond = encode(prompt), encode(text.NEGATIVE)
    shape = (16, 1 + (frames - 1) // 4, size // 8, size // 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    solver = solver_module.FlowUniPCMultistepScheduler(
        num_train_timesteps=1000, shift=1, use_dynamic_shifting=False
    )
    solver.set_timesteps(steps, device="cpu", shift=shift)
    tokens = shape[1] * shape[2] * shape[3] // 4
    for t in solver.timesteps:
        c = dit([x], t=t[None], context=[cond], seq_len=tokens)[0]
        u = dit([x], t=t[None], context=[uncond], seq_len=tokens)[0]
        x = solver.step((u + guidance * (c - u))[None], t, x[None], return_dict=False)[0][0]
    return vae.decode(x[None], [torch.tensor(MEAN), 1 / torch.tensor(STD)]).clamp(-1, 1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt_dir", required=True)
    parser.add_argument("--official", required=True)
    parser.add_argument("--prompt", default="a red circle moves right on a white background")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--video", nargs="*", default=[])
    a = parser.parse_args()
    theirs = generate(
        official(a.official),
        a.ckpt_dir,
        a.prompt,
        a.seed,
        a.frames,
        a.size,
        a.steps,
        5.0,
        a.guidance,
    )
    ours = sample.sample(
        *sample.load(a.ckpt_dir, "cpu"),
        [a.prompt],
        seeds=[a.seed],
        frames=a.frames,
        height=a.size,
        width=a.size,
        steps=a.steps,
        guidance=a.guidance,
    )
    apart = (ours - theirs).abs()
    print(
        f"sample.py and the official modules: largest difference {apart.max():.2e}, mean {apart.mean():.2e}, "
        f"of frames with standard deviation {theirs.std():.3f}"
    )
    frames = sample.to_bytes(theirs)[0].astype(numpy.int32)
    for file in a.video:
        other = (numpy.load(file) if file.endswith(".npy") else measure.read_clip(file)).astype(
            numpy.int32
        )
        apart = numpy.abs(other - frames)
        print(f"{file}: largest difference {apart.max()} of 255, mean {apart.mean():.4f}")


if __name__ == "__main__":
    main()
