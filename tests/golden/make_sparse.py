"""Records forwards of the official Wan2.1 transformer whose self attention is replaced by sparse attention, with one
rank in fp32 and under autocast(bfloat16): sparse.safetensors.

Usage: python make_sparse.py WAN2.1_CHECKOUT OUT.safetensors
Weights and inputs are computed as in make_dit.py. The attentions are transcriptions of FastVideo's video_sparse_attn
(tiles of 4 x 4 x 4 tokens, as its attention/backends/video_sparse_attn.py orders them) and of SLA's
SparseLinearAttention, in plain PyTorch.
  KIND.CASE.t    [C, T, H, W]  one forward at time t, KIND vsa or sla
  half.KIND.CASE.t             the same in bf16"""
import contextlib
import math
import sys

import official
import torch
from official import value, weight
from safetensors.torch import save_file

wan, out_path = sys.argv[1:]
(model_file,) = official.modules(wan, "wan.modules.model")
TIMES = (999, 501)

# name: heads, head size, layers, tokens f h w, part of the tiles or blocks
VSA = {"a": (3, 8, 2, (5, 6, 9), 0.75), "b": (2, 16, 2, (4, 4, 8), 0.9)}
SLA = {"a": (3, 8, 2, (5, 8, 10), 0.6), "b": (2, 16, 2, (1, 6, 10), 0.1)}
CHANNELS, TEXT_ROWS = 4, 5


def chosen(scores, count):
    """Bool [N, queries, keys]: the `count` largest of each row."""
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, torch.topk(scores, count, dim=-1).indices, True)


def masked_attention(q, k, v, mask):
    """Exact attention [N, S, D] over the keys of the mask [N, S, S], rounded as a fused kernel's."""
    logits = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (logits.masked_fill(~mask, float("-inf")).softmax(-1) @ v.float()).to(q.dtype)


def block_means(x, block, count):
    """Means [N, count, D] of the rows of x [N, S, D], whose blocks are given by `block` [S]."""
    total = torch.zeros(x.shape[0], count, x.shape[2]).index_add_(1, block, x.float())
    return (total / torch.bincount(block, minlength=count)[None, :, None]).to(x.dtype)


def tile_of_token(f, h, w):
    tiles = [math.ceil(n / 4) for n in (f, h, w)]
    t, y, x = torch.meshgrid(torch.arange(f), torch.arange(h), torch.arange(w), indexing="ij")
    return ((t // 4 * tiles[1] + y // 4) * tiles[2] + x // 4).flatten(), math.prod(tiles)


def vsa(q, k, v, gate, grid, sparsity):
    """q, k, v, gate [N, S, D]."""
    tile, count = tile_of_token(*grid)
    kept = max(1, min(count, math.ceil((1 - sparsity) * count)))
    mean_q, mean_k, mean_v = (block_means(x, tile, count) for x in (q, k, v))
    scores = mean_q @ mean_k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    coarse = scores.softmax(-1) @ mean_v
    mask = chosen(scores, kept)
    fine = masked_attention(q, k, v, mask[:, tile][:, :, tile])
    return coarse[:, tile] * gate + fine


def sla(q, k, v, w, b, share):
    """Blocks of 64 queries and 128 keys, as on Hopper; q, k, v [N, S, D], w and b those of proj_l."""
    s = q.shape[1]
    rows, keys = torch.arange(s) // 64, torch.arange(s) // 128
    count_q, count_k = math.ceil(s / 64), math.ceil(s / 128)
    kept = max(1, min(count_k, int(share * count_k)))
    mean_q = block_means(q, rows, count_q)
    mean_k = block_means(k - k.mean(dim=1, keepdim=True), keys, count_k)
    mask = chosen(mean_q @ mean_k.transpose(-1, -2), kept)
    fine = masked_attention(q, k, v, mask[:, rows][:, :, keys])
    pq, pk = q.softmax(-1), k.softmax(-1)
    linear = (pq @ (pk.transpose(-1, -2) @ v)) / (1e-5 + (pq * pk.sum(1, keepdim=True)).sum(-1, keepdim=True))
    return fine + torch.nn.functional.linear(linear, w.to(q.dtype), b.to(q.dtype))


def replace(m, kind, case):
    """Gives each block of the model the sparse self attention."""
    n, d, _, grid, part = (VSA if kind == "vsa" else SLA)[case]

    def make(block, prefix):
        attn = block.self_attn
        if kind == "vsa":
            names = {"w": "to_gate_compress.weight", "b": "to_gate_compress.bias"}
            shape = {"w": (n * d, n * d), "b": (n * d,)}
        else:
            names = {k: f"self_attn.attn_op.local_attn.proj_l.{v}" for k, v in (("w", "weight"), ("b", "bias"))}
            shape = {"w": (d, d), "b": (d,)}
        w, b = (weight(prefix + names[k], shape[k]) for k in "wb")

        def forward(x, seq_lens, grid_sizes, freqs):
            heads = lambda y: y.unflatten(-1, (n, d))
            rounded = lambda y: y[0].transpose(0, 1).to(torch.bfloat16 if official.half else torch.float32)
            q, k, v = heads(attn.norm_q(attn.q(x))), heads(attn.norm_k(attn.k(x))), heads(attn.v(x))
            q, k = (model_file.rope_apply(y, grid_sizes, freqs) for y in (q, k))
            gate = heads(torch.nn.functional.linear(x, w, b)) if kind == "vsa" else None
            with torch.autocast("cpu", enabled=False):
                q, k, v = rounded(q), rounded(k), rounded(v)
                y = vsa(q, k, v, rounded(gate), grid, part) if kind == "vsa" else sla(q, k, v, w, b, part)
            return attn.o(y.transpose(0, 1).reshape(1, -1, n * d).type(x.dtype))

        attn.forward = forward

    for i, block in enumerate(m.blocks):
        make(block, f"blocks.{i}.")


@torch.no_grad()
def record(out, kind, case):
    n, d, layers, (f, h, w), _ = (VSA if kind == "vsa" else SLA)[case]
    m = model_file.WanModel(model_type="t2v", text_len=8, in_dim=CHANNELS, dim=n * d, ffn_dim=64, freq_dim=16,
                            text_dim=16, out_dim=CHANNELS, num_heads=n, num_layers=layers)
    m.load_state_dict({k: weight(k, p.shape) for k, p in m.state_dict().items()})
    replace(m.eval(), kind, case)
    x, text = 2 * value("latent", (CHANNELS, f, 2 * h, 2 * w)), 4 * value("text.cond", (TEXT_ROWS, 16))
    for t in TIMES:
        pair = []
        for half in (False, True):
            official.half = half
            with torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext():
                pair.append(m([x], t=torch.tensor([t]), context=[text], seq_len=f * h * w)[0].float())
            out[f"{'half.' if half else ''}{kind}.{case}.{t}"] = pair[-1]
        print(kind, case, t, "rms", pair[0].pow(2).mean().sqrt().item(),
              "bf16 from fp32", ((pair[1] - pair[0]).norm() / pair[0].norm()).item())


out = {}
for case in VSA:
    record(out, "vsa", case)
for case in SLA:
    record(out, "sla", case)
save_file({k: v.contiguous() for k, v in out.items()}, out_path)
