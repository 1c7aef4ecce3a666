"""Low-rank adapters (LoRA) of the transformer, in files of LightX2V's dialect.

    diffusion_model.X.lora_up.weight, X.lora_down.weight    [out, rank], [rank, in]: X.weight += up @ down
    diffusion_model.X.diff, X.diff_b, X.diff_m              added to X.weight, X.bias, X.modulation

Large matrices have the first form, all other parameters the second.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

PREFIX = "diffusion_model."
SMALL = 50_000  # matrices with fewer elements are trained fully
FULL = {".diff": ".weight", ".diff_b": ".bias", ".diff_m": ".modulation"}
UP, DOWN = ".lora_up.weight", ".lora_down.weight"


class Adapted(nn.Module):
    """A linear layer with the matrix weight + up @ down. Weight is fixed, and up begins with zeros."""

    def __init__(self, linear, rank):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.weight.requires_grad_(False)
        rows, columns = linear.weight.shape
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns) * columns**-0.5)

    def forward(self, x):
        return F.linear(x, self.weight + self.up @ self.down, self.bias)


def adapt(dit, rank):
    """Replaces the large linear layers of a transformer. Its parameters with requires_grad are those to train."""
    for name, module in list(dit.named_modules()):
        if isinstance(module, nn.Linear) and module.weight.numel() >= SMALL:
            parent, _, child = name.rpartition(".")
            setattr(dit.get_submodule(parent), child, Adapted(module, rank))


def to_file(path, values, base, settings=""):
    """values: {name: value} of the parameters to train. base: the transformer's weights before."""
    tensors = {}
    for name, value in values.items():
        module, _, kind = name.rpartition(".")
        if kind in ("up", "down"):
            key = f"{module}.lora_{kind}.weight"
        else:
            key = module + next(k for k, v in FULL.items() if v == "." + kind)
            value = value - base[name].to(value.device)
        tensors[PREFIX + key] = value.detach().to("cpu", torch.float16).contiguous().clone()
    save_file(tensors, path, {"format": "pt", "settings": settings})


def merged(state, path, strength=1.0, dtype=torch.bfloat16):
    """The weights of a transformer with those of the file added, in fp32, rounded to dtype."""
    with safe_open(path, "pt") as f:
        adapter = {k.removeprefix(PREFIX): f.get_tensor(k).float() for k in f.keys()}
    state = dict(state)
    for key, value in adapter.items():
        if key.endswith(DOWN):
            continue
        name = key.removesuffix(UP) + ".weight"
        if key.endswith(UP):
            value = value @ adapter[key.removesuffix(UP) + DOWN]
        else:
            module, _, kind = key.rpartition(".")
            name = module + FULL.get("." + kind, ".?")
        if name not in state:
            raise SystemExit(f"{path}: {key} is for no tensor of the transformer")
        old = state[name]
        state[name] = (old.float() + strength * value.to(old.device)).to(dtype)
    return state
