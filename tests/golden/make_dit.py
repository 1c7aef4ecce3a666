"""Records results of the official transformer for small models: dit.safetensors.

Usage: python make_dit.py WAN2.1_CHECKOUT OUT.safetensors
Weights and inputs are computed by value(name) of official.py, as in tests/dit_model.h, so none are stored.
Attention is PyTorch's in f32; its inputs and result are rounded as in flash attention.
  v.CASE.t      [C, T, H, W]  one forward at time t, cond branch
  half.CASE.t                 the same under autocast(bfloat16)
  final.SOLVER                case a after 10 steps, shift 5, guidance 5"""
import contextlib
import importlib.util
import sys

import official
import torch
from official import value, weight
from safetensors.torch import save_file

wan, out_path = sys.argv[1:]
(model_file,) = official.modules(wan, "wan.modules.model")


def load(name):
    spec = importlib.util.spec_from_file_location(name, f"{wan}/wan/utils/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# name: heads, head size, ffn, layers, in, out, text_len, text_dim, freq, latent T H W, text rows
CASES = {
    "a": (12, 6, 200, 3, 16, 16, 24, 40, 32, (3, 6, 10), 7),
    "b": (40, 8, 256, 2, 8, 8, 16, 24, 64, (2, 10, 6), 16),
    "c": (5, 10, 64, 2, 12, 4, 10, 16, 16, (1, 2, 14), 1),
}


def make(case):
    n, d, ffn, layers, i, o, text_len, text_dim, freq, *_ = CASES[case]
    m = model_file.WanModel(model_type="t2v", text_len=text_len, in_dim=i, dim=n * d, ffn_dim=ffn,
                            freq_dim=freq, text_dim=text_dim, out_dim=o, num_heads=n, num_layers=layers)
    m.load_state_dict({k: weight(k, p.shape) for k, p in m.state_dict().items()})
    return m.eval()


@torch.no_grad()
def forward(case, m, x, t, branch):
    text = 4 * value(f"text.{branch}", (CASES[case][10], CASES[case][7]))
    tokens = x.shape[1] * x.shape[2] * x.shape[3] // 4
    with torch.autocast("cpu", dtype=torch.bfloat16) if official.half else contextlib.nullcontext():
        return m([x], t=torch.tensor([t]), context=[text], seq_len=tokens)[0]


out = {}
for case in CASES:
    m = make(case)
    x = 2 * value("latent", (CASES[case][4], *CASES[case][9]))
    for t in (999, 501, 36):
        out[f"v.{case}.{t}"] = forward(case, m, x, t, "cond")
        official.half = True
        out[f"half.{case}.{t}"] = forward(case, m, x, t, "cond")
        official.half = False
        full, rounded = out[f"v.{case}.{t}"], out[f"half.{case}.{t}"]
        print(case, t, "rms", full.pow(2).mean().sqrt().item(),
              "bf16 from fp32", ((rounded - full).norm() / full.norm()).item())

unipc, dpmpp = load("fm_solvers_unipc"), load("fm_solvers")
m = make("a")
for solver in ("unipc", "dpm++", "euler"):
    x = 2 * value("latent", (16, 3, 6, 10))
    if solver == "unipc":
        s = unipc.FlowUniPCMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
        s.set_timesteps(10, device="cpu", shift=5.0)
        times = s.timesteps
    elif solver == "dpm++":
        s = dpmpp.FlowDPMSolverMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
        times, _ = dpmpp.retrieve_timesteps(s, device="cpu", sigmas=dpmpp.get_sampling_sigmas(10, 5.0))
    else:  # as in DiffSynth
        sigma = torch.linspace(1.0, 0.0, 11)
        sigma = 5.0 * sigma / (1 + (5.0 - 1) * sigma)
        times = sigma[:-1] * 1000
    for i, t in enumerate(times):
        cond = forward("a", m, x, t.item(), "cond")
        uncond = forward("a", m, x, t.item(), "uncond")
        v = uncond + 5.0 * (cond - uncond)
        if solver == "euler":
            x = x + v * (sigma[i + 1] - sigma[i])
        else:
            x = s.step(v.unsqueeze(0), t, x.unsqueeze(0), return_dict=False)[0].squeeze(0)
    print(solver, "rms", x.pow(2).mean().sqrt().item())
    out[f"final.{solver}"] = x
save_file({k: v.contiguous() for k, v in out.items()}, out_path)
