"""What the scripts that run the official transformers share: weights and inputs that are computed, and
the modules of a checkout, with attention in PyTorch's f32 and without CUDA.

`half` True: inputs and result of attention are rounded to bf16, as in flash attention."""
import importlib
import sys
import types

import diffusers.models.modeling_utils  # must be imported before modules are replaced below
import numpy as np
import torch
import torch.cuda.amp

half = False


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


def flash_attention(q, k, v, k_lens=None, window_size=(-1, -1), **_):
    if half:
        r = lambda x: x.bfloat16().float()
    else:
        r = lambda x: x
    with torch.autocast("cpu", enabled=False):
        y = torch.nn.functional.scaled_dot_product_attention(
            *(r(x.float()).transpose(1, 2) for x in (q, k, v)))
    return r(y.transpose(1, 2).contiguous()).type(q.dtype)


def modules(checkout, *names, keep=False):
    """Modules of a checkout ("wan.modules.model"), without running the packages' __init__. `keep`: together with those
    of the last call, which was of the same checkout."""
    if keep:
        return [importlib.import_module(name) for name in names]
    for name in [n for n in sys.modules if n == "wan" or n.startswith("wan.")]:
        del sys.modules[name]  # of another checkout
    for package in ("wan", "wan.modules", "wan.utils", "wan.distributed"):
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [f"{checkout}/{package.replace('.', '/')}"]
    attention = types.ModuleType("wan.modules.attention")
    attention.flash_attention = attention.attention = flash_attention
    sys.modules["wan.modules.attention"] = attention
    torch.cuda.amp.autocast = lambda **_: torch.autocast("cpu", enabled=False)
    torch.cuda.current_device = lambda: 0  # a default argument of the official encoder
    return [importlib.import_module(name) for name in names]
