"""Records torch.randn(n, device="cuda") on a GPU of 132 multiprocessors: cuda_noise.safetensors.

Usage: python make_cuda_noise.py OUT.safetensors
For each n and seed: the values at 320 indices (64 at the start, 256 spread over the draw)."""
import json
import struct
import sys

import torch


def indices(n):
    step = max(1, n // 256)
    spread = [(i * step + (i * 7919) % step) % n for i in range(256)]
    return torch.tensor(list(range(64)) + spread, dtype=torch.int64)


def save(tensors, path):
    """Writes safetensors without the library: a JSON header and raw bytes."""
    names = {torch.int64: "I64", torch.float32: "F32"}
    header, blobs, at = {}, [], 0
    for k, v in tensors.items():
        b = v.numpy().tobytes()
        header[k] = {"dtype": names[v.dtype], "shape": list(v.shape), "data_offsets": [at, at + len(b)]}
        blobs.append(b)
        at += len(b)
    h = json.dumps(header).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h + b"".join(blobs))


out = {"sms": torch.tensor([torch.cuda.get_device_properties(0).multi_processor_count])}
for n in (1000, 300000, 2096640):
    out[f"index.{n}"] = indices(n)
    for seed in (0, 42, 2**31):
        g = torch.Generator("cuda").manual_seed(seed)
        x = torch.randn(n, generator=g, device="cuda").cpu()
        out[f"values.{n}.{seed}"] = x[out[f"index.{n}"]].clone()
save(out, sys.argv[1])
