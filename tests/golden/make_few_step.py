"""Records the schedules of distilled models, and latents that they give: few_step.safetensors.

Usage: python make_few_step.py WAN2.1_CHECKOUT WAN2.2_CHECKOUT WANMPI OUT.safetensors
  draws.N [3, 16]             the first of N values of three torch.randn of one generator, seed 42
  sigma.S, timestep.S         of the schedules S in SCHEDULES, sigma with the 0 at its end
  start, velocity, noise      [24], [9, 24], [9, 24] inputs of `states`
  states.S [steps, 24]        the sample after each step
  latents.MODEL.PRESET        [C, T, H, W] the last latent of an official transformer in float32 on the CPU
The schedules are transcribed below from the programs that are named; their checkpoints are not needed. The models are
those of `WANMPI synth`, the texts those that WANMPI encodes from PROMPT. Needs torch, diffusers, einops, h5py."""
import json
import math
import os
import subprocess
import sys
import tempfile

import h5py
import official
import torch
from safetensors.torch import load_file, save_file

wan21, wan22, wanmpi, out_path = sys.argv[1:]
PROMPT, SEED = "Two cats boxing", 7
torch.amp.autocast = lambda *_, **__: torch.autocast("cpu", enabled=False)


class StepDistill:
    """LightX2V models/schedulers/wan/step_distill/scheduler.py, WanStepDistillScheduler and Wan22StepDistillScheduler."""

    def __init__(self, steps, shift):
        sigma = torch.linspace(1.0, 0.0, 1001)[:-1]
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        index = [1000 - x for x in steps]
        self.t, self.sigma, self.start = (sigma * 1000)[index], sigma[index], 1.0

    def step(self, x, v, i, draw):
        x = x - self.sigma[i].item() * v
        return x + self.sigma[i + 1].item() * v if i < len(self.t) - 1 else x


class SelfForcing(StepDistill):
    """Self-Forcing: the list of StepDistill, but fresh noise after each step."""

    def step(self, x, v, i, draw):
        x0 = x - self.sigma[i].item() * v
        if i == len(self.t) - 1:
            return x0
        s = self.sigma[i + 1].item()
        return (1 - s) * x0 + s * draw(x.shape)


class Dmd:
    """FastVideo pipelines/stages/denoising.py, DmdDenoisingStage, with models/utils.py pred_noise_to_pred_video and
    FlowMatchEulerDiscreteScheduler(shift=8). In [C, T, H, W]; FastVideo draws the same noise in bf16 and [T, C, H, W]."""

    def __init__(self, steps, shift=8.0):
        sigma = torch.arange(1000, 0, -1, dtype=torch.float32) / 1000
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        nearest = [int((sigma * 1000 - t).abs().argmin()) for t in steps]
        self.t, self.sigma, self.start = torch.tensor(steps).float(), sigma[nearest], 1.0

    def step(self, x, v, i, draw):
        x0 = (x.double() - self.sigma[i].double() * v.double()).float()
        return x0 if i == len(self.t) - 1 else (1 - self.sigma[i + 1]) * x0 + self.sigma[i + 1] * draw(x.shape)


class FlowMatchCausVid:
    """ComfyUI-WanVideoWrapper, scheduler flowmatch_causvid: DiffSynth's Euler over sigma = list / 1000."""

    def __init__(self, steps):
        self.t, self.start = torch.tensor(steps).float(), 1.0
        self.sigma = self.t / 1000

    def step(self, x, v, i, draw):
        return x + v * ((self.sigma[i + 1] if i < len(self.t) - 1 else 0) - self.sigma[i])


class Rcm:
    """TurboDiffusion inference/wan2.1_t2v_infer.py and wan2.2_i2v_infer.py; `ode`: its flag --ode."""

    def __init__(self, steps, sigma_max, ode=False):
        t = torch.tensor([math.atan(sigma_max), *[1.5, 1.4, 1.0][: steps - 1], 0], dtype=torch.float64)
        self.s = torch.sin(t) / (torch.cos(t) + torch.sin(t))
        self.sigma, self.t, self.start, self.ode = self.s[:-1], (self.s[:-1] * 1000).float(), self.s[0], ode

    def step(self, x, v, i, draw):
        now, after = self.s[i], self.s[i + 1]
        if self.ode:
            return x - (now - after) * v.double()
        return (1 - after) * (x - now * v.double()) + after * draw(x.shape)


SCHEDULES = {
    "lightx2v-4": StepDistill([1000, 750, 500, 250], 5),
    "lightx2v-8": StepDistill([1000, 875, 750, 625, 500, 375, 250, 125], 5),
    "meanflow-2": StepDistill([1000, 500], 5),
    "renoise-4": SelfForcing([1000, 750, 500, 250], 5),
    "renoise-8": SelfForcing([1000, 850, 700, 550, 350, 275, 200, 125], 12),
    "fastwan-3": Dmd([1000, 757, 522]),
    "causvid-9": FlowMatchCausVid([999, 934, 862, 756, 603, 410, 250, 140, 74]),
    "turbowan-4": Rcm(4, 80),
    "turbowan-2": Rcm(2, 80),
    "turbowan-ode": Rcm(4, 80, True),
    "turbowan-i2v-4": Rcm(4, 200),
}


def files(preset):
    """A checkpoint of random weights, and its text for the prompt."""
    folder = os.path.join(tempfile.mkdtemp(), preset)
    subprocess.run([wanmpi, "synth", "--preset", preset, "--out", folder], check=True)
    subprocess.run([wanmpi, "generate", "--ckpt_dir", folder, "--size", "64*48", "--frame_num", "1", "--sample_steps", "1",
                    "--prompt", PROMPT, "--save_file", folder + "/x.mp4", "--run_file", folder + "/x.h5"], check=True)
    with h5py.File(folder + "/x.h5") as run:
        return folder, torch.from_numpy(run["text/cond"][()])


def dit(module, folder, without=None):
    with open(os.path.join(folder, "config.json")) as f:
        config = {k: v for k, v in json.load(f).items() if not k.startswith("_")}
    state = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    state = {k: v for k, v in state.items() if without is None or not k.startswith(without)}
    model = module.WanModel(**{**config, "text_dim": state["text_embedding.0.weight"].shape[1]})
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).float()


class MeanFlow:
    """LightX2V models/networks/wan/infer/pre_infer.py and Wan21MeanFlowStepDistillScheduler: silu of the embedding of the
    next step's time, 0 after the last, is added before the projection for the blocks."""

    def __init__(self, module, folder, times):
        state = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
        part = lambda i: torch.nn.Linear(*reversed(state[f"time_embedding_r.{i}.weight"].shape))
        self.embedding = torch.nn.Sequential(part(0), torch.nn.SiLU(), part(2)).requires_grad_(False)
        self.embedding.load_state_dict({k[17:]: v for k, v in state.items() if k.startswith("time_embedding_r.")})
        self.model, self.times, self.module, self.at = dit(module, folder, "time_embedding_r."), times, module, None
        self.project = self.model.time_projection[1]
        self.model.time_projection = torch.nn.Module()
        self.model.time_projection.forward = self.time_projection

    def time_projection(self, e):
        r = self.times[self.at + 1 :][:1] if self.at + 1 < len(self.times) else torch.zeros(1)
        next = self.embedding(self.module.sinusoidal_embedding_1d(self.model.freq_dim, r).float())
        return self.project(torch.nn.functional.silu(e) + torch.nn.functional.silu(next))

    def __call__(self, i, t):
        self.at = i
        return self.model


def sample(s, expert, text, shape):
    """expert(i, t): the transformer of step i."""
    generator = torch.Generator().manual_seed(SEED)
    draw = lambda shape: torch.randn(shape, generator=generator)
    x = draw(shape) * s.start
    tokens = shape[1] * shape[2] * shape[3] // 4
    for i, t in enumerate(s.t):
        v = expert(i, float(t))([x.float()], t=t[None].float(), context=[text], seq_len=tokens)[0]
        x = s.step(x, v, i, draw)
    return x.float().contiguous()


out = {}
for n in (1000, 1003):
    generator = torch.Generator().manual_seed(42)
    out[f"draws.{n}"] = torch.stack([torch.randn(n, generator=generator)[:16] for _ in range(3)])
torch.manual_seed(5)
start, velocity, noise = torch.randn(24), torch.randn(9, 24), torch.randn(9, 24)
out |= {"start": start, "velocity": velocity, "noise": noise}
for name, s in SCHEDULES.items():
    out["sigma." + name] = torch.cat([s.sigma.float(), torch.zeros(1)])
    out["timestep." + name] = s.t.clone()
    x, states = start * s.start, []
    for i in range(len(s.t)):
        x = s.step(x, velocity[i], i, lambda _: noise[i])
        states.append(x.float())
    out["states." + name] = torch.stack(states)

(module,) = official.modules(wan21, "wan.modules.model")
folder, text = files("tiny")
model = dit(module, folder)
for name in ("lightx2v-4", "lightx2v-8", "renoise-4", "fastwan-3", "causvid-9", "turbowan-4", "turbowan-ode"):
    out["latents.tiny." + name] = sample(SCHEDULES[name], lambda i, t: model, text, (16, 2, 6, 8))

folder, text = files("tiny-meanflow")
s = SCHEDULES["meanflow-2"]
out["latents.tiny-meanflow.meanflow-2"] = sample(s, MeanFlow(module, folder, s.t), text, (16, 2, 6, 8))

(module,) = official.modules(wan22, "wan.modules.model")
folder, text = files("tiny-A14B")
high, low = (dit(module, os.path.join(folder, x + "_noise_model")) for x in ("high", "low"))
for name, expert in {
    "lightx2v-4": lambda i, t: high if i < 2 else low,  # boundary_step_index 2
    "turbowan-i2v-4": lambda i, t: high if t >= 900 else low,
    "renoise-4": lambda i, t: high if t >= 950 else low,
}.items():
    out["latents.tiny-A14B." + name] = sample(SCHEDULES[name], expert, text, (16, 2, 6, 8))
for name, value in out.items():
    print(name, tuple(value.shape), float(value.std()) if value.numel() > 1 else float(value))
save_file(out, out_path)
