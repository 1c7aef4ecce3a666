"""Records latents of guided runs in which not all steps compute both branches: guidance.safetensors.

Usage: python make_guidance.py WAN2.1_CHECKOUT WAN2.2_CHECKOUT WANMPI OUT.safetensors
  MODEL.CASE [C, T, H, W]   the last latent of an official transformer and solver in float32 on the CPU
The models are those of `WANMPI synth`, the texts those that WANMPI encodes from PROMPT. The guidance is transcribed from
FastVideo fastvideo/pipelines/stages/denoising.py (FASTVIDEO_CFG_GATE_STEP) and diffusers guiders/classifier_free_guidance.py
(start, stop) and classifier_free_zero_star_guidance.py. Needs torch, diffusers, einops, h5py."""
import json
import os
import subprocess
import sys
import tempfile

import h5py
import official
import torch
from safetensors.torch import load_file, save_file

wan21, wan22, wanmpi, out_path = sys.argv[1:]
PROMPT, SEED, STEPS = "Two cats boxing", 7, 6
torch.amp.autocast = lambda *_, **__: torch.autocast("cpu", enabled=False)


def files(preset):
    """A checkpoint of random weights, and its texts for the prompt and the task's negative prompt."""
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


def unipc(shift):
    s = unipc_file.FlowUniPCMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
    s.set_timesteps(STEPS, device="cpu", shift=shift)
    return s.timesteps, lambda v, t, x: s.step(v[None], t, x[None], return_dict=False)[0][0]


def euler(shift):
    """DiffSynth: FlowMatchScheduler of Wan."""
    sigma = torch.linspace(1, 0, STEPS + 1)[:-1]
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    after = iter(zip(torch.cat([sigma[1:], torch.zeros(1)]), sigma))

    def step(v, t, x):
        to, now = next(after)
        return x + v * (to - now)

    return sigma * 1000, step


def zero_star(c, u):
    """cfg_zero_star_scale of diffusers."""
    c, u = c.flatten()[None].float(), u.flatten()[None].float()
    return (torch.sum(c * u, dim=1, keepdim=True) / (torch.sum(u**2, dim=1, keepdim=True) + 1e-8)).squeeze()


def sample(solver, expert, scale, texts, gate=1.0, start=0.0, stop=1.0, star=False, zero_init=0):
    """expert(t): the transformer of a step; scale: of each."""
    shape = (16, 2, 6, 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    timesteps, step = solver
    gate_step, delta, delta_of = int(gate * STEPS), None, None
    for i, t in enumerate(timesteps):
        model = expert(float(t))
        forward = lambda text: model([x], t=t[None].float(), context=[text], seq_len=shape[1] * shape[2] * shape[3] // 4)[0]
        g = scale[model]
        if i < zero_init:
            v = torch.zeros(shape)
        elif not int(start * STEPS) <= i < int(stop * STEPS):
            v = forward(texts[0])
        elif i >= gate_step and delta_of is model:
            c = forward(texts[0])
            v = c + (g - 1) * delta
        else:
            c, u = forward(texts[0]), forward(texts[1])
            if star:
                u = zero_star(c, u) * u
            delta, delta_of = c - u, model
            v = u + g * (c - u)
        x = step(v, t, x)
    return x.contiguous()


out = {}
unipc_file, module = official.modules(wan21, "wan.utils.fm_solvers_unipc", "wan.modules.model")
folder, texts = files("tiny")
model = dit(module, folder)
for case, solver, settings in (
    ("gate", unipc, dict(gate=0.5)),
    ("interval", euler, dict(start=0.2, stop=0.8, gate=0.5)),
    ("star", unipc, dict(star=True, zero_init=1)),
    ("zero", euler, dict(zero_init=2)),
):
    out["tiny." + case] = sample(solver(5.0), lambda t: model, {model: 5.0}, texts, **settings)

unipc_file, module = official.modules(wan22, "wan.utils.fm_solvers_unipc", "wan.modules.model")
folder, texts = files("tiny-A14B")
high, low = (dit(module, os.path.join(folder, x + "_noise_model")) for x in ("high", "low"))
expert = lambda t: high if t >= 875 else low
for case, settings in ("gate", dict(gate=0.5)), ("all", dict(gate=0.34, stop=0.99, star=True, zero_init=1)):
    out["tiny-A14B." + case] = sample(unipc(12.0), expert, {high: 4.0, low: 3.0}, texts, **settings)
for name, value in out.items():
    print(name, tuple(value.shape), float(value.std()))
save_file(out, out_path)
