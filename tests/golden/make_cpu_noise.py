"""Records torch.randn(n) of the CPU generator: cpu_noise.safetensors.

Usage: python make_cpu_noise.py OUT.safetensors
For each n and seed: all values of short draws; of long draws the first 32, the last 32 and a regular
selection between them. Run it on a machine with AVX2, since PyTorch's AVX2 kernel is the reference."""
import sys

import torch
from safetensors.torch import save_file

out = {}
for n in (1, 2, 7, 15, 16, 17, 31, 100, 1003, 300000, 2096645):
    if n <= 100:
        index = torch.arange(n)
    else:
        index = torch.cat([torch.arange(32), torch.arange(32, n - 32, n // 61), torch.arange(n - 32, n)])
    out[f"index.{n}"] = index
    for seed in (0, 42, 2**31):
        x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
        out[f"values.{n}.{seed}"] = x[index].clone()
save_file(out, sys.argv[1])
