"""Clips from captions, in PyTorch: the reference for wanmpi, and a check of a training's result.

    sample.py --out DIR --prompt "a red circle moves right" --save sheet.png
    sample.py --out DIR --test 64 --save sheet.png        held-out captions, evaluated by measure.py

DIR is train.py's folder, or a checkpoint folder written by export.py. The solver is the official UniPC
(order 2, bh2), the noise is from PyTorch's CPU generator.
"""

import argparse
import math
import os
import time

import torch
from safetensors.torch import load_file

import measure
import render
import text
from train import Both, load_vae
from vae import VAE


def noise_levels(steps, shift):
    """Returns sigma [steps + 1] with 0 at the end, and the integer timesteps for the network."""
    top = torch.tensor(0.999, dtype=torch.float32).double().item()
    base = [top * (1 - i / steps) for i in range(steps)]
    sigma = [shift * s / (1 + (shift - 1) * s) for s in base]
    return torch.tensor(sigma + [0.0], dtype=torch.float32), [int(s * 1000) for s in sigma]


class UniPC:
    def __init__(self, sigma):
        self.sigma = sigma.double().tolist()
        self.history, self.last, self.order, self.step_index = [], None, 1, 0

    def lam(self, i):
        s = self.sigma[i]
        return math.log(1 - s) - math.log(s) if s > 0 else math.inf

    def step(self, x, v):
        i, sigma = self.step_index, self.sigma
        m = x - sigma[i] * v
        if i > 0:  # corrector, from the sample that the last predictor started from
            h = self.lam(i) - self.lam(i - 1)
            hh, e = -h, math.expm1(-h)
            m0 = self.history[-1]
            if self.order == 1:
                correction = 0.5 * (m - m0)
            else:
                r = (self.lam(i - 2) - self.lam(i - 1)) / h
                b1 = (e / hh - 1) / e
                b2 = 2 * ((e / hh - 1) / hh - 0.5) / e
                rho0 = (b1 - b2) / (1 - r)
                correction = rho0 * (self.history[-2] - m0) / r + (b1 - rho0) * (m - m0)
            x = sigma[i] / sigma[i - 1] * self.last - (1 - sigma[i]) * e * (m0 + correction)
        self.history = (self.history + [m])[-2:]
        self.order = min(2, len(sigma) - 1 - i, i + 1)
        self.last = x
        self.step_index += 1
        if sigma[i + 1] == 0:
            return m
        h = self.lam(i + 1) - self.lam(i)
        e = math.expm1(-h)
        move = m
        if self.order == 2:
            r = (self.lam(i - 1) - self.lam(i)) / h
            move = m + 0.5 * (self.history[-2] - m) / r
        return sigma[i + 1] / sigma[i] * x - (1 - sigma[i + 1]) * e * move


def pad(rows):
    out = torch.zeros(len(rows), max(len(r) for r in rows), dtype=torch.long)
    for i, r in enumerate(rows):
        out[i, : len(r)] = torch.tensor(r)
    return out


@torch.no_grad()
def denoise(
    model,
    tokenizer,
    prompts,
    negative=text.NEGATIVE,
    seeds=None,
    frames=17,
    height=128,
    width=128,
    steps=20,
    shift=5.0,
    guidance=5.0,
    device="cpu",
    autocast=False,
):
    """-> latents [B, C, 1 + (frames - 1) / 4, height / 8, width / 8]."""
    limit = model.dit.config["text_len"]
    cond = model.text(pad([tokenizer(p, limit) for p in prompts]).to(device))
    uncond = model.text(pad([tokenizer(negative, limit)]).to(device)).expand(len(prompts), -1, -1)
    shape = (16, 1 + (frames - 1) // 4, height // 8, width // 8)
    seeds = seeds or list(range(len(prompts)))
    x = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ).to(device)
    sigma, times = noise_levels(steps, shift)
    solver = UniPC(sigma)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        for t in times:
            at = torch.full((len(prompts),), float(t), device=device)
            v = model.dit(x, at, cond)
            if guidance != 1:
                u = model.dit(x, at, uncond)
                v = u + guidance * (v - u)
            x = solver.step(x, v)
    return x


@torch.no_grad()
def sample(model, vae, tokenizer, prompts, *settings, **named):
    """Arguments as in denoise() -> [B, 3, frames, height, width] in -1..1."""
    x = denoise(model, tokenizer, prompts, *settings, **named)
    return torch.cat([vae.decode(part) for part in x.split(8)])


def to_bytes(clips):
    """-> [B, T, H, W, 3] u8, converted as in the official program."""
    return ((clips.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()


def sheet(clips, path, columns=5, across=1):
    """Draws one strip of `columns` frames per clip, `across` clips per row."""
    import numpy
    from PIL import Image

    rows = []
    for clip in clips:
        at = (
            [round(k * (len(clip) - 1) / (columns - 1)) for k in range(columns)]
            if len(clip) > 1
            else [0]
        )
        rows.append(numpy.concatenate([clip[k] for k in at], 1))
    rows += [numpy.zeros_like(rows[0])] * (-len(rows) % across)
    lines = [numpy.concatenate(rows[i : i + across], 1) for i in range(0, len(rows), across)]
    Image.fromarray(numpy.concatenate(lines, 0)).save(path)


def load_export(folder, device):
    """Loads an exported checkpoint, converted to fp32."""
    path = lambda name: os.path.join(folder, name)
    widen = lambda state: {n: v.float() for n, v in state.items()}
    words = widen(torch.load(path("models_t5_umt5-xxl-enc-bf16.pth"), weights_only=True))
    model = Both(words["token_embedding.weight"].shape[0])
    model.text.load_state_dict(words)
    model.dit.load_state_dict(widen(load_file(path("diffusion_pytorch_model.safetensors"))))
    state = widen(torch.load(path("Wan2.1_VAE.pth"), weights_only=True))
    vae = VAE(state["encoder.conv1.weight"].shape[0])
    vae.load_state_dict(state)
    return (
        model.to(device).eval(),
        vae.to(device).eval(),
        text.Tokenizer(path("google/umt5-xxl/spiece.model")),
    )


def load(out, device, average=True):
    if os.path.exists(os.path.join(out, "config.json")):
        return load_export(out, device)
    state = torch.load(os.path.join(out, "dit.pt"), map_location=device, weights_only=True)
    weights = state["average" if average else "model"]
    model = Both(weights["text.token_embedding.weight"].shape[0]).to(device)
    model.load_state_dict(weights)
    return model.eval(), load_vae(out, device), text.Tokenizer(os.path.join(out, "spiece.model"))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--test", type=int, default=0, help="number of held-out captions to sample and evaluate")
    parser.add_argument("--negative", default=text.NEGATIVE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--shift", type=float, default=5.0)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--save", default="sheet.png")
    parser.add_argument("--across", type=int, default=2)
    a = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, vae, tokenizer = load(a.out, device)
    cases = render.test_cases(a.test) if a.test else []
    prompts = a.prompt + [c[0] for c in cases]
    start = time.time()
    clips = to_bytes(
        sample(
            model,
            vae,
            tokenizer,
            prompts,
            a.negative,
            [a.seed + i for i in range(len(prompts))],
            a.frames,
            a.height,
            a.width,
            a.steps,
            a.shift,
            a.guidance,
            device,
            device == "cuda",
        )
    )
    print(f"{len(prompts)} clips in {time.time() - start:.1f} s")
    sheet(clips, a.save, across=a.across)
    if cases:
        measure.report(list(zip(cases, clips[len(a.prompt) :])))


if __name__ == "__main__":
    main()
