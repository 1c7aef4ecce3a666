"""Errors of VAEs on a GPU against PyTorch's fp32: PyTorch with TF32, its default, and ours.

    python3 vae_error.py WAN21 WAN22 BENCH_VAE [frames [height [width]]]

WAN21 and WAN22 are checkouts of github.com/Wan-Video/Wan2.1 and Wan2.2, whose VAEs run here with the random weights and
inputs of bench_vae (tests/golden/make_vae.py has the same). Needs torch, einops, safetensors. Prints |x - fp32| / |fp32|.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)) + "/../../tests/golden")
import make_vae
from make_vae import constants, fill, load

wan21, wan22, bench = sys.argv[1:4]
frames, height, width = [int(x) for x in sys.argv[4:]] + [17, 272, 480][len(sys.argv) - 4:]
torch.set_grad_enabled(False)
kinds = dict(dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])


def uniform(name, count):
    """make_vae.uniform, on the GPU: int64 wraps as uint64 does, but shifts copy its sign."""
    seed = 14695981039346656037
    for byte in name.encode():
        seed = (seed ^ byte) * 1099511628211 % 2**64
    signed = lambda v: v - 2**64 if v >= 2**63 else v
    shift = lambda x, n: (x >> n) & (2 ** (64 - n) - 1)
    x = (torch.arange(1, count + 1, device="cuda") * signed(0x9E3779B97F4A7C15)) + signed(seed)
    x = (x ^ shift(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ shift(x, 27)) * signed(0x94D049BB133111EB)
    x = x ^ shift(x, 31)
    return (shift(x, 40).float() * 2**-23 - 1).cpu().numpy()


make_vae.uniform = uniform


def ours(version, half, precision):
    with tempfile.NamedTemporaryFile() as f:
        subprocess.run([bench, "--vae", version, "--device", "cuda", "--precision", precision, "--only", half, "--frames",
                        str(frames), "--height", str(height), "--width", str(width), "--save", f.name],
                       check=True, stdout=subprocess.DEVNULL)
        return torch.from_numpy(np.fromfile(f.name, np.float32))


def run(model, half, x, scale, tf32):
    torch.backends.cudnn.allow_tf32 = tf32
    y = model.decode(x, scale) if half == "decode" else model.encode(x, scale)
    return y[0].permute(1, 2, 3, 0).float().cpu().reshape(-1)


for version in ("2.1", "2.2"):
    if version == "2.1":
        px, z, model = 8, 16, load("wan21_vae", wan21 + "/wan/modules/vae.py").WanVAE_(dim=96, z_dim=16, **kinds)
        scale = constants(None, z)
    else:
        module = load("wan22_vae", wan22 + "/wan/modules/vae2_2.py")
        px, z, model = 16, 48, module.WanVAE_(dim=160, dec_dim=256, z_dim=48, **kinds)
        scale = constants(module, z)
    fill(model)
    model = model.cuda().eval()
    scale = [s.cuda() for s in scale]
    t, h, w = (frames + 3) // 4, height // px, width // px
    latent = torch.from_numpy(uniform("latent", t * h * w * z).reshape(1, t, h, w, z) * np.float32(1.75))
    pixels = torch.from_numpy(uniform("pixels", frames * h * w * px * px * 3).reshape(1, frames, h * px, w * px, 3))
    for half, x in (("decode", latent), ("encode", pixels)):
        x = x.permute(0, 4, 1, 2, 3).contiguous().cuda()
        exact = run(model, half, x, scale, False)
        results = {"PyTorch TF32": run(model, half, x, scale, True)}
        results.update((f"ours {p}", ours(version, half, p)) for p in ("tf32", "fp32", "bf16"))
        for name, y in results.items():
            print(f"Wan{version} {half} {name:12s} {((y - exact).norm() / exact.norm()).item():.2e}, "
                  f"largest {(y - exact).abs().max().item():.2e}", flush=True)
    del model
