"""Records PyTorch's results of each op of kernels/ops.h for small inputs: ops.safetensors.

Usage: python make_ops.py OUT.safetensors        (torch, transformers, safetensors)
CASE.ARGUMENT is an input, CASE.want a result. Results are computed in float64; where an op rounds
intermediate values, these steps are PyTorch's bf16 ops. The channel is the last axis."""
import math
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers.models.umt5.modeling_umt5 import UMT5Attention

torch.manual_seed(2025)
tensors = {}
bf16 = torch.bfloat16


def record(case, **values):
    for name, v in values.items():
        if v.dtype == torch.float64:
            v = v.float()
        tensors[f"{case}.{name}"] = v.contiguous().clone()


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype)


# products
a, w, b = randn(5, 19), randn(7, 19), randn(7)
out = F.linear(a.double(), w.double(), b.double())
record("gemm", a=a, w=w, bias=b, want=out)
record("gemm_gelu", a=a, w=w, bias=b, want=F.gelu(out, approximate="tanh"))
record("gemm_gelu_erf", a=a, w=w, bias=b, want=F.gelu(out))
record("gemm_silu", a=a, w=w, bias=b, want=F.silu(out))
record("gemm_narrow", a=a, w=w.to(bf16), bias=b,
       want=F.linear(a.double(), w.to(bf16).double(), b.double()))
a, w, b = a.to(bf16), w.to(bf16), b.to(bf16)
record("gemm_bf16", a=a, w=w, bias=b,
       want=F.gelu(F.linear(a.double(), w.double(), b.double()).to(bf16), approximate="tanh"))

x, w, b = randn(4, 3, 6, 5), randn(7, 4, 3, 3, 3), randn(7)  # [Cin, T, H, W], [Cout, Cin, ...]
full = F.pad(x.double(), (0, 0, 1, 1, 2, 0))  # rows and frames are padded here, columns by the op
same = F.conv3d(F.pad(full, (1, 1)), w.double(), b.double())
res = randn(*same.shape)
record("conv3d", x=full.permute(1, 2, 3, 0), w=w.permute(0, 2, 3, 4, 1), bias=b,
       residual=res.permute(1, 2, 3, 0), want=(same + res).permute(1, 2, 3, 0))
w2 = randn(7, 4, 3, 3)
down = F.conv2d(F.pad(x.double().permute(1, 0, 2, 3), (0, 1, 0, 1)), w2.double(), stride=2)
record("conv3d_down", x=F.pad(x, (0, 0, 0, 1)).permute(1, 2, 3, 0),
       w=w2[:, :, None].permute(0, 2, 3, 4, 1), want=down.permute(0, 2, 3, 1))
wt = randn(7, 4, 3, 1, 1)
long = randn(4, 5, 2, 3)
record("conv3d_time", x=long.permute(1, 2, 3, 0), w=wt.permute(0, 2, 3, 4, 1),
       want=F.conv3d(long.double(), wt.double(), stride=(2, 1, 1)).permute(1, 2, 3, 0))

# norms
eps = 1e-6
for name, dtype in ("", torch.float32), ("_bf16", bf16):
    x = (randn(4, 24) * 3e-3 + 1e-3).to(dtype)
    scale, shift = randn(24), randn(24)
    plain = F.layer_norm(x.double(), (24,), eps=eps)
    record("norm_modulate" + name, x=x, scale=scale, shift=shift,
           want=plain.to(dtype).double() * (1 + scale.double()) + shift.double())
    record("layer_norm" + name, x=x, w=scale, b=shift,
           want=F.layer_norm(x.double(), (24,), scale.double(), shift.double(), eps=eps))
    plain = F.rms_norm(x.double(), (24,), eps=eps).to(dtype)
    record("rms_norm" + name, x=x, w=scale, want=plain.double() * scale.double())

# the grid 2 x 3 x 4 from token 5 on; two heads of 12, so 2 + 2 + 2 pairs
heads, d, grid, first = 2, 12, (2, 3, 4), 5
pairs = d // 2
axes = [d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6)]
angles = torch.cat([torch.outer(torch.arange(6).double(),
                                1 / 10000 ** (torch.arange(0, n, 2).double() / n)) for n in axes], 1)
freqs = torch.polar(torch.ones_like(angles), angles)
ft, fh, fw = freqs.split([pairs - 2 * (pairs // 3), pairs // 3, pairs // 3], 1)
f, h, w = grid
turn = torch.cat([ft[:f].view(f, 1, 1, -1).expand(f, h, w, -1),
                  fh[:h].view(1, h, 1, -1).expand(f, h, w, -1),
                  fw[:w].view(1, 1, w, -1).expand(f, h, w, -1)], -1).reshape(f * h * w, 1, -1)
values = {"table": torch.view_as_real(freqs)}
for name in "qk":
    x, weight = randn(f * h * w, heads * d), randn(heads * d)
    normed = F.rms_norm(x.double(), (heads * d,), weight.double(), eps=eps)
    turned = torch.view_as_real(torch.view_as_complex(normed.view(-1, heads, pairs, 2)) * turn)
    values |= {name: x[first:], "w" + name: weight,
               "want_" + name: turned.reshape(-1, heads * d)[first:]}
record("qk_norm_rope", **values)

# attention
q, k, v = randn(5, 2, 12), randn(9, 2, 12), randn(9, 2, 12)


def attend(q, k, v, scale):
    logits = torch.einsum("qnd,knd->qnk", q.double(), k.double()) * scale
    out = F.scaled_dot_product_attention(*(t.double().transpose(0, 1) for t in (q, k, v)), scale=scale)
    return out.transpose(0, 1), logits.logsumexp(-1)


out, lse = attend(q, k, v, 0.7)
record("attention", q=q, k=k, v=v, want=out, want_lse=lse)
one, one_lse = attend(q, k[:4], v[:4], 0.7)
two, two_lse = attend(q, k[4:], v[4:], 0.7)
record("attention_merge", acc=one, lse=one_lse, part=two, part_lse=two_lse, want=out, want_lse=lse)

# distances on both sides of the limits of every bucket, and above 128
s, n, d = 140, 2, 4
distance = torch.arange(s)[None, :] - torch.arange(s)[:, None]
umt5 = UMT5Attention.__new__(UMT5Attention)
torch.nn.Module.__init__(umt5)
umt5.relative_attention_num_buckets, umt5.relative_attention_max_distance = 32, 128
umt5.is_decoder = False
bucket = umt5._relative_position_bucket(distance)
for name, dtype in ("", torch.float64), ("_bf16", bf16):
    q, k, v, table = (randn(*x, dtype=bf16) for x in ((s, n, d), (s, n, d), (s, n, d), (32, n)))
    logits = torch.einsum("qnd,knd->nqk", q.double(), k.double()).to(dtype)
    p = (logits + table[bucket].permute(2, 0, 1).to(dtype)).to(dtype)
    p = F.softmax(p.double(), -1).to(dtype).double()
    keep = (lambda t: t) if dtype == bf16 else (lambda t: t.float())
    record("relative_attention" + name, q=keep(q), k=keep(k), v=keep(v), table=keep(table),
           want=torch.einsum("nqk,knd->qnd", p, v.double()).to(dtype))

# element by element
x, y, gate = randn(3, 10), randn(3, 10, dtype=bf16), randn(10)
record("gate_add", x=x, y=y, gate=gate, want=x.double() + y.double() * gate.double())
record("gate_add_plain", x=x, y=y, want=x.double() + y.double())
record("add_rows", a=x, b=gate, want=x + gate)
record("silu", x=x * 5, want=F.silu(x.double() * 5))
g, up = randn(200, dtype=bf16) * 2, randn(200, dtype=bf16)
gelu = 0.5 * g * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (g + 0.044715 * torch.pow(g, 3.0))))
record("gated_gelu_bf16", gate=g, up=up, want=up * gelu)
g, up = g.float(), up.float()
record("gated_gelu", gate=g, up=up, want=up.double() * F.gelu(g.double(), approximate="tanh"))
x0, x1, x2 = randn(11), randn(11), randn(11)
record("lincomb", x0=x0, x1=x1, x2=x2, want=0.5 * x0.double() - 2.0 * x2.double())
x = randn(2, 3, 4, 5)
record("copy", x=x, want=x.permute(3, 1, 0, 2).to(bf16))

# frames
x, gamma, shift = randn(2, 3, 4, 10), randn(10), randn(10)
x[0, 0, 0] = 0
normed = F.normalize(x.double(), dim=-1, eps=1e-12) * math.sqrt(10) * gamma.double()
record("channel_norm", x=x, gamma=gamma, want=normed)
record("channel_norm_silu", x=x, gamma=gamma, want=F.silu(normed))
record("channel_affine", x=x, scale=gamma, shift=shift, want=x.double() * gamma.double() + shift.double())
x = torch.cat([torch.linspace(-1.1, 1.1, 997), torch.tensor([-1.0, 1.0, 0.0])]).view(10, 10, 10, 1)
record("to_u8", x=x, want=((x.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8),
       rounded=((x.clamp(-1, 1) + 1) / 2).mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8))  # save_image
x, w, bias = randn(2, 4, 3, 6), randn(5, 1, 3, 3, 6), randn(5)
large = F.interpolate(x[:, 1:-1].double().permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest-exact")
x[:, 0], x[:, -1] = 0, 0
want = F.conv2d(large, w[:, 0].double().permute(0, 3, 1, 2), bias.double(), padding=1)
record("conv3d_twice", x=x, w=w, bias=bias, want=want.permute(0, 2, 3, 1))

save_file(tensors, sys.argv[1])
