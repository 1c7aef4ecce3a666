"""PyTorch's eager CPU mode against bench_block, fp32, with the same number of threads, alternating.

Usage: python peer_block.py BENCH_BLOCK [--threads 2] [--rounds 5] [--repeats 2]

A round runs each program --repeats times, so that other load on the machine affects both; the minimum of
each is reported. On a machine with other load, compare processor time with one thread. The modules are
plain PyTorch, with F.scaled_dot_product_attention; the rotation is in complex64, which is faster than the
official complex128."""
import argparse
import re
import subprocess
import time

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, 1e-6)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)

    def forward(self, x, context, turn=None):
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(0, 1) for t in (q, k, v))
        if turn is not None:
            q, k = (torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous())
                                       * turn).flatten(-2) for t in (q, k))
        y = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        return self.o(y.transpose(0, 1).flatten(-2))


class Block(nn.Module):
    def __init__(self, dim=1536, ffn=8960, heads=12):
        super().__init__()
        self.attention, self.cross = Attention(dim, heads), Attention(dim, heads)
        self.norm1, self.norm2 = (nn.LayerNorm(dim, 1e-6, elementwise_affine=False) for _ in "12")
        self.norm3 = nn.LayerNorm(dim, 1e-6)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.GELU("tanh"), nn.Linear(ffn, dim))

    def forward(self, x, text, mod, turn):
        h = self.norm1(x) * (1 + mod[1]) + mod[0]
        x = x + self.attention(h, h, turn) * mod[2]
        x = x + self.cross(self.norm3(x), text)
        return x + self.ffn(self.norm2(x) * (1 + mod[4]) + mod[3]) * mod[5]


parser = argparse.ArgumentParser()
parser.add_argument("bench")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--repeats", type=int, default=2)
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)

angles = torch.rand(2048, 64)
inputs = (torch.randn(2048, 1536), torch.randn(512, 1536), torch.randn(6, 1536),
          torch.polar(torch.ones_like(angles), angles))
module = Block()
theirs, ours = [], []  # (wall time, processor time)
with torch.inference_mode():
    module(*inputs)  # warm-up
    for _ in range(args.rounds):
        for _ in range(args.repeats):
            wall, used = time.monotonic(), time.process_time()
            module(*inputs)
            theirs.append((time.monotonic() - wall, time.process_time() - used))
        text = subprocess.run([args.bench, str(args.threads), str(args.repeats)], check=True,
                              capture_output=True, text=True).stdout
        found = re.search(r"^block ([0-9.]+) s, ([0-9.]+) s", text, re.M)
        ours.append((float(found[1]), float(found[2])))
print(text, end="")
for i, clock in enumerate(("wall time", "processor time")):
    a, b = min(t[i] for t in ours), min(t[i] for t in theirs)
    print(f"block, {clock}: ours {a:.3f} s, PyTorch {torch.__version__} {b:.3f} s, "
          f"ratio {a / b:.2f}; {args.threads} threads, minimum of {args.rounds} rounds")
