"""Records latents of step caching with official transformers in float32 on the CPU: cache.safetensors.

Usage: python make_cache.py WAN2.1_CHECKOUT WAN2.2_CHECKOUT WANMPI OUT.safetensors
  latents.NAME [C, T, H, W]   the last latent of 16 steps of euler, shift 5, guidance 5
  ratios       [2, 16]        of cond and uncond, as MagCache's calibration measures them
The methods are transcribed below from the programs that are named, as a module in place of the list of blocks (EasyCache:
around the model). The models are those of `WANMPI synth`, the texts those that WANMPI encodes from PROMPT. The script
prints which forwards are computed, and how near the decisions were. Needs torch, diffusers, einops, h5py."""
import json
import os
import re
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import official
import torch
from safetensors.torch import load_file, save_file

wan21, wan22, wanmpi, out_path = sys.argv[1:]
PROMPT, SEED, STEPS, SHIFT, GUIDANCE = "Two cats boxing", 7, 16, 5, 5
torch.amp.autocast = lambda *_, **__: torch.autocast("cpu", enabled=False)
tables = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../model/sampling/cache_tables.c")).read()
ratios = {m[1]: [float(v) for v in m[2].split(",")] for m in re.finditer(r"double (\w+)\[\] = \{([^}]*)\}", tables)}


class Cache(torch.nn.Module):
    """In place of the blocks. cnt counts forwards, two a step, as in the official programs."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks, self.cnt, self.residual, self.log, self.margin = blocks, 0, [None, None], "", 9.0

    def run(self, x, blocks, **kwargs):
        for block in blocks:
            x = block(x, **kwargs)
        return x

    def forward(self, x, **kwargs):
        skip = self.skip(x, kwargs)
        if skip:
            y = x + self.residual[self.cnt % 2]
        else:
            y = self.run(x, self.blocks[self.cnt // 2 >= self.split], **kwargs)
            self.residual[self.cnt % 2] = y - x
        self.log += "-" if skip else "C"
        self.cnt += 1
        return y

    split = STEPS  # the first step of the second expert

    def below(self, value, threshold):
        self.margin = min(self.margin, abs(value / threshold - 1))
        return value < threshold


class MagCache(Cache):
    """MagCache4Wan2.1/magcache_generate.py and MagCache4Wan2.2's, magcache_forward."""

    def __init__(self, blocks, table, thresh, k, retention, split=STEPS):
        super().__init__(blocks)
        table = np.array([1.0] * 2 + table)
        at = np.round(np.arange(STEPS) * ((len(table) // 2 - 1) / (STEPS - 1))).astype(int)  # nearest_interp
        self.mag = np.stack([table[0::2][at], table[1::2][at]], axis=1).reshape(-1)
        self.thresh, self.k, self.retention, self.split = thresh, k, retention, split
        self.ratio, self.err, self.n = [1.0, 1.0], [0.0, 0.0], [0, 0]

    def skip(self, x, kwargs):
        num, split, cnt, b = 2 * STEPS, 2 * self.split, self.cnt, self.cnt % 2
        if split == num:
            use = cnt >= int(num * self.retention)
        else:
            use = not (cnt < int(split * self.retention) or (split <= cnt <= (num - split) * self.retention + split))
        if not use:
            return False
        self.ratio[b] *= self.mag[cnt]
        self.n[b] += 1
        self.err[b] += abs(1 - self.ratio[b])
        if self.below(self.err[b], self.thresh) and self.n[b] <= self.k:
            return True
        self.ratio[b], self.err[b], self.n[b] = 1.0, 0.0, 0
        return False


class TeaCache(Cache):
    """DiffSynth-Studio, class TeaCache; `ret`: TeaCache4Wan2.1/teacache_generate.py with --use_ret_steps."""

    def __init__(self, blocks, coefficients, thresh, ret):
        super().__init__(blocks)
        self.poly, self.thresh, self.ret = np.poly1d(coefficients), thresh, ret
        self.acc, self.previous = [0.0, 0.0], [None, None]

    def skip(self, x, kwargs):
        b, step, e = self.cnt % 2, self.cnt // 2, kwargs["e"].clone()
        if step < (5 if self.ret else 1) or (step == STEPS - 1 and not self.ret):
            skip, self.acc[b] = False, 0.0
        else:
            self.acc[b] += self.poly(((e - self.previous[b]).abs().mean() / self.previous[b].abs().mean()).item())
            skip = self.below(self.acc[b], self.thresh)
            self.acc[b] = self.acc[b] if skip else 0.0
        self.previous[b] = e
        return skip


class FirstBlock(Cache):
    """cache-dit's DBCache with one block first, of which uncond follows cond."""

    def __init__(self, blocks, thresh, warmup, most):
        super().__init__(blocks)
        self.thresh, self.warmup, self.most, self.first, self.row, self.reuse = thresh, warmup, most, None, 0, False

    def forward(self, x, **kwargs):
        blocks, b = self.blocks[0], self.cnt % 2
        y = self.run(x, blocks[:1], **kwargs)
        if b == 0:
            change = y - x
            self.reuse = False
            if self.cnt // 2 >= self.warmup:
                diff = ((change - self.first).abs().mean() / self.first.abs().mean()).item()
                self.reuse = self.below(diff, self.thresh) and self.row < self.most
            self.row = self.row + 1 if self.reuse else 0
            self.first = self.first if self.reuse else change
        self.log += "-" if self.reuse else "C"
        self.cnt += 1
        if self.reuse:
            return y + self.residual[b]
        z = self.run(y, blocks[1:], **kwargs)
        self.residual[b] = z - y
        return z


class Calibration(Cache):
    """magcache_calibration."""

    def __init__(self, blocks):
        super().__init__(blocks)
        self.ratios = [[1.0], [1.0]]

    def skip(self, x, kwargs):
        return False

    def forward(self, x, **kwargs):
        b = self.cnt % 2
        old = self.residual[b]
        y = super().forward(x, **kwargs)
        if old is not None:
            self.ratios[b].append((self.residual[b].norm(dim=-1) / old.norm(dim=-1)).mean().item())
        return y


class EasyCache:
    """EasyCache4Wan2.1/easycache_generate.py, easycache_forward: around a model."""

    def __init__(self, model, thresh, ret):
        self.model, self.thresh, self.ret, self.cnt, self.acc, self.k = model, thresh, ret, 0, 0.0, None
        self.x_before = self.x_computed = self.v = None
        self.cache, self.compute, self.log, self.margin = [None, None], True, "", 9.0

    def __call__(self, inputs, **kwargs):
        x, b, step = inputs[0], self.cnt % 2, self.cnt // 2
        if b == 0:
            self.compute = True
            if step < self.ret or step >= STEPS - 1:
                self.acc = 0.0
            elif self.k is not None:
                self.acc += (self.k * ((x - self.x_before).abs().mean() / self.v.abs().mean())).item()
                self.margin = min(self.margin, abs(self.acc / self.thresh - 1))
                self.compute = self.acc >= self.thresh
                self.acc = 0.0 if self.compute else self.acc
            self.x_before = x.clone()
        self.cnt += 1
        self.log += "C" if self.compute else "-"
        if not self.compute:
            return [x + self.cache[b]]
        v = self.model([x], **kwargs)[0]
        if b == 0:
            if self.v is not None:
                self.k = (v - self.v).abs().mean() / (self.x_before - self.x_computed).abs().mean()
            self.x_computed, self.v = self.x_before, v.clone()
        self.cache[b] = v - x
        return [v]


def files(preset):
    folder = os.path.join(tempfile.mkdtemp(), preset)
    subprocess.run([wanmpi, "synth", "--preset", preset, "--out", folder], check=True)
    subprocess.run([wanmpi, "generate", "--ckpt_dir", folder, "--size", "64*48", "--frame_num", "1", "--sample_steps", "1",
                    "--prompt", PROMPT, "--save_file", folder + "/x.mp4", "--run_file", folder + "/x.h5"], check=True)
    with h5py.File(folder + "/x.h5") as run:
        return folder, [torch.from_numpy(run["text/" + name][()]) for name in ("cond", "uncond")]


def dit(module, folder):
    with open(os.path.join(folder, "config.json")) as f:
        config = {k: v for k, v in json.load(f).items() if not k.startswith("_")}
    state = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    model = module.WanModel(**{**config, "text_dim": state["text_embedding.0.weight"].shape[1]})
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).float()


def sample(name, expert, texts, cache):
    """The last latent; expert(i): the model of step i."""
    sigma = torch.linspace(1.0, 0.0, STEPS + 1)
    sigma = SHIFT * sigma / (1 + (SHIFT - 1) * sigma)
    x = torch.randn((16, 1, 6, 8), generator=torch.Generator().manual_seed(SEED))
    for i in range(STEPS):
        t = sigma[i][None] * 1000
        c, u = (expert(i)([x], t=t, context=[text], seq_len=12)[0] for text in texts)
        x = x + (u + GUIDANCE * (c - u)) * (sigma[i + 1] - sigma[i])
    if cache is not None:
        print(name, cache.log, "margin", cache.margin)
    return x.contiguous()


out = {}
(module,) = official.modules(wan21, "wan.modules.model")
folder, texts = files("tiny")
model = dit(module, folder)
blocks = [model.blocks]
whole = sample("off", lambda i: model, texts, None)
poly = [8.10705460e03, 2.13393892e03, -3.72934672e02, 1.66203073e01, -4.17769401e-02]  # Wan2.1-I2V-14B-720P
caches = {
    "magcache": MagCache(blocks, ratios["t2v_1_3b"], 0.12, 2, 0.2),
    "teacache": TeaCache(blocks, poly, 18000, False),
    "teacache-ret": TeaCache(blocks, poly, 18000, True),
    "firstblock": FirstBlock(blocks, 1.0, 4, 3),
}
for name, cache in caches.items():
    model.blocks = torch.nn.ModuleList([cache])
    out["latents." + name] = sample(name, lambda i: model, texts, cache)
calibration = Calibration(blocks)
model.blocks = torch.nn.ModuleList([calibration])
sample("calibration", lambda i: model, texts, calibration)
out["ratios"] = torch.tensor(calibration.ratios)
model.blocks = blocks[0]
easy = EasyCache(model, 2.5, 3)
out["latents.easycache"] = sample("easycache", lambda i: easy, texts, easy)

(module,) = official.modules(wan22, "wan.modules.model")
folder, texts = files("tiny-A14B")
high, low = (dit(module, os.path.join(folder, x + "_noise_model")) for x in ("high", "low"))
cache = MagCache([high.blocks, low.blocks], ratios["t2v_a14b"], 0.06, 2, 0.4, split=8)
high.blocks = low.blocks = torch.nn.ModuleList([cache])
out["latents.magcache-A14B"] = sample("magcache-A14B", lambda i: low if i >= 8 else high, texts, cache)
for name, value in out.items():
    print(name, tuple(value.shape), float(value.std()),
          float((value - whole).norm() / whole.norm()) if value.shape == whole.shape else "")
save_file(out, out_path)
