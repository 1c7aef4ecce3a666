"""Records results of the official transformer for small models: dit.safetensors.

Usage: python make_dit.py WAN2.1_CHECKOUT OUT.safetensors
Weights and inputs are computed by value(name) below, as in tests/dit_model.h, so no weights are stored.
Attention is PyTorch's in f32; its inputs and result are rounded as in flash attention.
  v.CASE.t      [C, T, H, W]  one forward at time t, cond branch
  half.CASE.t                 the same under autocast(bfloat16)
  final.SOLVER                case a after 10 steps, shift 5, guidance 5"""
import contextlib
import importlib.util
import sys
import types

import diffusers.models.modeling_utils  # must be imported before modules are replaced below
import numpy as np
import torch
import torch.cuda.amp
from safetensors.torch import save_file

wan, out_path = sys.argv[1:]


def value(name, shape):
    """128 levels around 0, in (-1, 1): splitmix64 of the name's FNV-1a and the index."""
    h = 0xCBF29CE484222325
    for c in name.encode():
        h = (h ^ c) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        i = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
        z = np.uint64(h) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    level = (z >> np.uint64(57)).astype(np.float32)
    return torch.from_numpy((level - 63.5) / 64).reshape(shape)


def weight(name, shape):
    if "norm" in name and name.endswith("weight"):
        return 1 + value(name, shape) / 4
    if "modulation" in name:
        return value(name, shape)  # large gates, so that every block affects the result
    return value(name, shape) / 8


# Loads the official file, with its attention replaced and its CUDA autocast changed to the CPU's.
package = types.ModuleType("wan_modules")
package.__path__ = [wan + "/wan/modules"]
attention = types.ModuleType("wan_modules.attention")
sys.modules.update({"wan_modules": package, "wan_modules.attention": attention})
half = False


def flash_attention(q, k, v, k_lens=None, window_size=(-1, -1)):
    if half:
        r = lambda x: x.bfloat16().float()
    else:
        r = lambda x: x
    with torch.autocast("cpu", enabled=False):
        y = torch.nn.functional.scaled_dot_product_attention(
            *(r(x.float()).transpose(1, 2) for x in (q, k, v)))
    return r(y.transpose(1, 2).contiguous()).type(q.dtype)


attention.flash_attention = flash_attention
spec = importlib.util.spec_from_file_location("wan_modules.model", wan + "/wan/modules/model.py")
model_file = importlib.util.module_from_spec(spec)
torch.cuda.amp.autocast = lambda **_: torch.autocast("cpu", enabled=False)
spec.loader.exec_module(model_file)


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
    with torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext():
        return m([x], t=torch.tensor([t]), context=[text], seq_len=tokens)[0]


out = {}
for case in CASES:
    m = make(case)
    x = 2 * value("latent", (CASES[case][4], *CASES[case][9]))
    for t in (999, 501, 36):
        out[f"v.{case}.{t}"] = forward(case, m, x, t, "cond")
        half = True
        out[f"half.{case}.{t}"] = forward(case, m, x, t, "cond")
        half = False
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
