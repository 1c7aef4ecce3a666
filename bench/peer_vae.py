"""Seconds of the official VAE on the CPU, PyTorch eager, float32, random weights.

    python3 peer_vae.py WAN21 [threads [frames [height [width [runs]]]]]

WAN21 is a checkout of github.com/Wan-Video/Wan2.1 (needs torch and einops). Prints the minimum of `runs`.
"""
import importlib.util
import sys
import time

import torch

numbers = [int(x) for x in sys.argv[2:]]
threads, frames, height, width, runs = numbers + [2, 17, 128, 128, 1][len(numbers):]
torch.set_num_threads(threads)
torch.set_grad_enabled(False)
torch.manual_seed(0)
spec = importlib.util.spec_from_file_location("wan_vae", sys.argv[1] + "/wan/modules/vae.py")
vae = importlib.util.module_from_spec(spec)
spec.loader.exec_module(vae)
model = vae.WanVAE_(dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
                    temperal_downsample=[False, True, True]).eval()
scale = [torch.zeros(16), torch.ones(16)]
latent = torch.randn(1, 16, (frames + 3) // 4, height // 8, width // 8)
pixels = torch.rand(1, 3, frames, height, width) * 2 - 1
for name, call, x in (("decode", model.decode, latent), ("encode", model.encode, pixels)):
    best = busy = float("inf")
    for _ in range(runs):
        start, start_busy = time.perf_counter(), time.process_time()
        call(x, scale)
        best = min(best, time.perf_counter() - start)
        busy = min(busy, time.process_time() - start_busy)
    print(f"{name} {frames} frames of {width} x {height}, {threads} threads, torch "
          f"{torch.__version__}: {best:.2f} s, CPU {busy:.2f} s")
