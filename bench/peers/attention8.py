"""attention8.py: FlashAttention 3 (package fa3-fwd) with e4m3 inputs on a GPU: errors for the inputs of
bench_attention, and TFLOP/s over a second, without the quantization. One scale for each head of q, k and v."""
import math

import fa3_fwd_interface as fa3
import torch

CHANNELS = [3, 40, 77, 101]


def quantize(x):
    scale = x.float().abs().amax(dim=(1, 3), keepdim=True) / 448
    return (x.float() / scale).to(torch.float8_e4m3fn), scale.reshape(x.shape[0], x.shape[2]).contiguous()


def attend(q, k, v):
    (q, dq), (k, dk), (v, dv) = quantize(q), quantize(k), quantize(v)
    return lambda: fa3.flash_attn_func(q, k, v, softmax_scale=1 / math.sqrt(128), q_descale=dq, k_descale=dk,
                                       v_descale=dv)


def normal(rows, heads=3):
    return torch.randn(1, rows, heads, 128, device="cuda")


def error(name, q, k, v):
    q, k, v = (x.bfloat16() for x in (q, k, v))
    a, b, c = (x[0].transpose(0, 1).double() for x in (q, k, v))
    want = torch.softmax(a @ b.transpose(1, 2) / math.sqrt(128), -1) @ c
    out = attend(q, k, v)()
    got = (out[0] if isinstance(out, tuple) else out)[0].transpose(0, 1).double()
    print(f"{name:26s}  FA3 error {(got - want).norm() / want.norm():.2e}", flush=True)


def channels(x, factor=1, add=0):
    x[..., CHANNELS] = x[..., CHANNELS] * factor + add
    return x


def tails(x):
    return x * torch.where(torch.rand_like(x) < 0.001, 10.0, 1.0)


def tokens(x):
    x[:, ::501] *= 30
    return x


def speed(tokens_, heads=40):
    call = attend(*(normal(tokens_, heads).bfloat16() for _ in range(3)))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    runs = 2
    call()
    for _ in range(2):
        begin.record()
        for _ in range(runs):
            call()
        end.record()
        torch.cuda.synchronize()
        ms = begin.elapsed_time(end) / runs
        runs = max(2, int(1000 / ms))
    print(f"{tokens_} tokens, {heads} heads: {ms:.3f} ms, {4 * tokens_**2 * heads * 128 / ms * 1e-9:.0f} TFLOP/s")


M, N = 515, 8190
error("normal", normal(M), normal(N), normal(N))
error("q twice as large", 2 * normal(M), normal(N), normal(N))
error("4 channels of k x 10", normal(M), channels(normal(N), 10), normal(N))
error("4 channels of q, k x 4", channels(normal(M), 4), channels(normal(N), 4), normal(N))
error("4 channels k + 20, v x 10", normal(M), channels(normal(N), 1, 20), channels(normal(N), 10))
error("tokens of v x 30", normal(M), normal(N), tokens(normal(N)))
error("1 of 1000 x 10", tails(normal(M)), tails(normal(N)), tails(normal(N)))
speed(32760)
speed(75600)
