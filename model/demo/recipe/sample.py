"""Clips from captions, in PyTorch: the reference for wanmpi, and a check of a training's result.

    sample.py --out DIR --prompt "a red circle moves right" --save sheet.png
    sample.py --out DIR --test 64 --save sheet.png        held-out captions, evaluated by measure.py
    sample.py --out model/demo-i2v --image first.png --prompt "..." ...
    sample.py --out model/demo --lora FILE --denoising_steps 1000,750,500,250 --guidance 1 --prompt "..."

DIR is train.py's folder, or a checkpoint folder written by export.py: of T2V, of I2V, which needs an image per
prompt (with --test, the drawings' first frames), or of two experts. The solver is the official UniPC
(order 2, bh2), with --denoising_steps Euler's. The noise is from PyTorch's CPU generator.
"""

import argparse
import math
import os
import time

import torch
from safetensors.torch import load_file

import lora
import measure
import render
from export import CLIP
import text
from clip import ImageEncoder
from dit import DiT, config_of, first_frame_channels, image_width
from train import load_vae, model_of
from vae import VAE

BOUNDARY = 875  # of two experts, the timestep from which the one for high noise computes


def noise_levels(steps, shift):
    """Returns sigma [steps + 1] with 0 at the end, and the integer timesteps for the network."""
    top = torch.tensor(0.999, dtype=torch.float32).double().item()
    base = [top * (1 - i / steps) for i in range(steps)]
    sigma = [shift * s / (1 + (shift - 1) * s) for s in base]
    return torch.tensor(sigma + [0.0], dtype=torch.float32), [int(s * 1000) for s in sigma]


def listed_levels(steps, shift):
    """The same for a list of timesteps before the shift, as LightX2V's denoising_step_list."""
    sigma = [shift * t / (1000 + (shift - 1) * t) for t in steps]
    return torch.tensor(sigma + [0.0], dtype=torch.float32), [1000 * s for s in sigma]


class Euler:
    def __init__(self, sigma):
        self.lengths = iter((sigma[:-1] - sigma[1:]).tolist())

    def step(self, x, v):
        return x - next(self.lengths) * v


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
    negative=None,
    seeds=None,
    frames=17,
    height=128,
    width=128,
    steps=20,
    shift=5.0,
    guidance=5.0,
    device="cpu",
    autocast=False,
    condition=(),
    denoising_steps=None,
):
    """-> latents [B, C, 1 + (frames - 1) / 4, height / 8, width / 8]. guidance: a number, or (low, high) of two
    experts. condition: for I2V, of image_condition(). denoising_steps: as in listed_levels(), instead of steps."""
    if negative is None:
        negative = text.NEGATIVE_I2V if condition else text.NEGATIVE
    limit = model.dit.config["text_len"]
    cond = model.text(pad([tokenizer(p, limit) for p in prompts]).to(device))
    uncond = model.text(pad([tokenizer(negative, limit)]).to(device)).expand(len(prompts), -1, -1)
    shape = (16, 1 + (frames - 1) // 4, height // 8, width // 8)
    seeds = seeds or list(range(len(prompts)))
    x = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ).to(device)
    if denoising_steps:
        sigma, times = listed_levels(denoising_steps, shift)
        solver = Euler(sigma)
    else:
        sigma, times = noise_levels(steps, shift)
        solver = UniPC(sigma)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        for t in times:
            at = torch.full((len(prompts),), float(t), device=device)
            high = getattr(model, "high", None) if t >= BOUNDARY else None
            dit = high or model.dit
            scale = guidance if isinstance(guidance, (int, float)) else guidance[high is not None]
            v = dit(x, at, cond, *condition)
            if scale != 1:
                u = dit(x, at, uncond, *condition)
                v = u + scale * (v - u)
            x = solver.step(x, v)
    return x


@torch.no_grad()
def image_condition(model, vae, images, frames):
    """images [B, 3, height, width] f32 in -1..1, the first frames -> what denoise() takes."""
    clips = torch.zeros(*images.shape[:2], frames, *images.shape[2:], device=images.device)
    clips[:, :, 0] = images
    first = torch.cat([vae.encode(clip) for clip in clips.split(8)])
    return first_frame_channels(first), model.image(images)


@torch.no_grad()
def sample(model, vae, tokenizer, prompts, *settings, images=None, **named):
    """Arguments as in denoise() -> [B, 3, frames, height, width] in -1..1. images: as in image_condition()."""
    if images is not None:
        named["condition"] = image_condition(model, vae, images, named["frames"])
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
    words = torch.load(path("models_t5_umt5-xxl-enc-bf16.pth"), weights_only=True)
    pair = os.path.isdir(path("high_noise_model"))
    weights = "diffusion_pytorch_model.safetensors"
    dit = widen(load_file(path("low_noise_model/" + weights if pair else weights)))
    model = model_of(
        {f"text.{n}": v.float() for n, v in words.items()} | {f"dit.{n}": v for n, v in dit.items()}
    )
    if pair:
        high = widen(load_file(path("high_noise_model/" + weights)))
        model.high = DiT(config_of(high))
        model.high.load_state_dict(high)
    if image_width(dit):
        model.image = ImageEncoder()
        model.image.load_state_dict(widen(torch.load(path(CLIP), weights_only=True)))
    state = widen(torch.load(path("Wan2.1_VAE.pth"), weights_only=True))
    vae = VAE(state["encoder.conv1.weight"].shape[0])
    vae.load_state_dict(state)
    return (
        model.to(device).eval(),
        vae.to(device).eval(),
        text.Tokenizer(path("google/umt5-xxl/spiece.model")),
    )


def load(out, device, average=True):
    if any(os.path.exists(os.path.join(out, f)) for f in ("config.json", "high_noise_model")):
        return load_export(out, device)
    state = torch.load(os.path.join(out, "dit.pt"), map_location=device, weights_only=True)
    weights = state["average" if average else "model"]
    model = model_of(weights).to(device)
    return model.eval(), load_vae(out, device), text.Tokenizer(os.path.join(out, "spiece.model"))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--test", type=int, default=0, help="number of held-out captions to sample and evaluate")
    parser.add_argument("--image", action="append", default=[], help="I2V: of each --prompt")
    parser.add_argument("--negative", help="default: the task's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--denoising_steps", help="timesteps before the shift, such as 1000,750,500,250")
    parser.add_argument("--lora", help="a file of distill.py, for T2V")
    parser.add_argument("--shift", type=float, default=5.0)
    parser.add_argument("--guidance", type=float, nargs="+", default=[5.0], help="two: of the experts, low and high")
    parser.add_argument("--save", default="sheet.png")
    parser.add_argument("--across", type=int, default=2)
    a = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, vae, tokenizer = load(a.out, device)
    if a.lora:
        model.dit.load_state_dict(lora.merged(model.dit.state_dict(), a.lora))
    cases = render.test_cases(a.test) if a.test else []
    prompts = a.prompt + [c[0] for c in cases]
    start = time.time()
    images = None
    if hasattr(model, "image"):
        given = [measure.read_image(f) for f in a.image] + measure.first_frames(a.test)
        given = torch.stack([torch.from_numpy(g).permute(2, 0, 1) for g in given])
        images = given.float().to(device) / 127.5 - 1
    clips = to_bytes(
        sample(
            model,
            vae,
            tokenizer,
            prompts,
            negative=a.negative,
            seeds=[a.seed + i for i in range(len(prompts))],
            frames=a.frames,
            height=a.height,
            width=a.width,
            steps=a.steps,
            shift=a.shift,
            guidance=a.guidance[0] if len(a.guidance) == 1 else a.guidance,
            device=device,
            autocast=device == "cuda",
            images=images,
            denoising_steps=a.denoising_steps and [float(t) for t in a.denoising_steps.split(",")],
        )
    )
    print(f"{len(prompts)} clips in {time.time() - start:.1f} s")
    sheet(clips, a.save, across=a.across)
    if cases:
        measure.report(list(zip(cases, clips[len(a.prompt) :])))
        if images is not None:
            measure.report_first(measure.first_frames(a.test), [c[0] for c in clips[len(a.prompt) :]])


if __name__ == "__main__":
    main()
