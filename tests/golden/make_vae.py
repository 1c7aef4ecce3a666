"""Writes vae.safetensors: results of the VAEs of Wan2.1 and Wan2.2 for random weights, latents and pixels.

    python3 make_vae.py WAN21 WAN22 [DIFFSYNTH]

WAN21 and WAN22 are checkouts of github.com/Wan-Video/Wan2.1 and Wan2.2 (needs torch, einops, safetensors). With a checkout
of github.com/modelscope/DiffSynth-Studio, its tiled_decode and tiled_encode are run too, and must agree
with the tiling below.

Weights and inputs are not stored: element i of the tensor called NAME is u * size, with u in [-1, 1)
from a hash of (NAME, i), as in tests/vae_random.h. Everything is float32 on the CPU. Outputs have our
layout, frames [T, H, W, C]; decoded pixels are not clamped. The first frames of a longer video equal the
frames of a shorter one, which is checked here, so only the longest is stored.
"""
import argparse
import importlib.util
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

# name: width, decoder's width in Wan2.2, z, latent frames, rows, columns, tile (size_h, size_w, stride_h, stride_w)
CASES = {
    "wide": (8, None, 16, 5, 2, 3, None),
    "tall": (16, None, 4, 5, 5, 2, None),
    "tiles": (8, None, 4, 2, 7, 6, (4, 3, 2, 1)),
    "wide22": (8, 12, 48, 4, 2, 2, None),
    "tall22": (8, 4, 6, 3, 5, 1, None),
    "tiles22": (4, 4, 4, 2, 3, 2, (2, 1, 1, 1)),
}
MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]
STD = [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160]


def constants(wan22, z):
    """Mean and deviation of the latents, of Wan2.2 as its class sets them."""
    if wan22 is None:
        return [torch.tensor(MEAN[:z]), 1.0 / torch.tensor(STD[:z])]
    wan22._video_vae = lambda **_: torch.nn.Identity()
    return [x[:z] for x in wan22.Wan2_2_VAE(device="cpu").scale]


def uniform(name, count):
    """FNV-1a of the name, then splitmix64 of it and the index; uses the top 24 bits."""
    seed = 14695981039346656037
    for byte in name.encode():
        seed = (seed ^ byte) * 1099511628211 % 2**64
    with np.errstate(over="ignore"):
        x = np.uint64(seed) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - np.float32(1)


def fill(model):
    for name, p in model.named_parameters():
        u = uniform(name, p.numel())
        if name.endswith("gamma"):
            u = np.float32(1) + u * np.float32(0.25)
        elif name.endswith("bias"):
            u = u * np.float32(0.125)
        else:
            fan = p.numel() // p.shape[0]
            u = u * np.float32(np.sqrt(3.0 / fan))
        p.data = torch.from_numpy(u.reshape(p.shape))


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ramps(n, border, inside_near, inside_far):
    m = torch.ones(n)
    if inside_near:
        m[:border] = (torch.arange(border) + 1) / border
    if inside_far:
        m[n - border:] = ((torch.arange(border) + 1) / border).flip(0)
    return m


def tiled(run, x, tile, into, out_shape):
    """Splits x [C, T, H, W] into tiles, calls `run` on each and blends the results; `into` converts a
    number of rows of x to rows of the result."""
    size_h, size_w, stride_h, stride_w = tile
    total, weight = torch.zeros(out_shape), torch.zeros(out_shape[-2:])
    h, w = x.shape[-2:]
    for r in range(0, h, stride_h):
        if r > 0 and r - stride_h + size_h >= h:
            continue
        for c in range(0, w, stride_w):
            if c > 0 and c - stride_w + size_w >= w:
                continue
            y = run(x[:, :, r:r + size_h, c:c + size_w])
            mask = torch.minimum(
                ramps(y.shape[-2], into(size_h - stride_h), r > 0, r + size_h < h)[:, None],
                ramps(y.shape[-1], into(size_w - stride_w), c > 0, c + size_w < w)[None, :])
            rows, cols = slice(into(r), into(r) + y.shape[-2]), slice(into(c), into(c) + y.shape[-1])
            total[:, :, rows, cols] += y * mask
            weight[rows, cols] += mask
    return total / weight


def near(a, b, limit=2e-6):
    distance = ((a - b).norm() / b.norm()).item()
    assert distance < limit, distance


def main():
    args = argparse.ArgumentParser()
    args.add_argument("wan21")
    args.add_argument("wan22")
    args.add_argument("diffsynth", nargs="?")
    args = args.parse_args()
    torch.set_grad_enabled(False)
    vae21 = load("wan21_vae", args.wan21 + "/wan/modules/vae.py")
    vae22 = load("wan22_vae", args.wan22 + "/wan/modules/vae2_2.py")
    out = {}
    for case, (base, decoder_base, z, t, h, w, tile) in CASES.items():
        kinds = dict(dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])
        if decoder_base is None:
            px, model, scale = 8, vae21.WanVAE_(dim=base, z_dim=z, **kinds), constants(None, z)
        else:
            px, model = 16, vae22.WanVAE_(dim=base, dec_dim=decoder_base, z_dim=z, **kinds)
            scale = constants(vae22, z)
        fill(model)
        latent = torch.from_numpy(uniform(case + ".latent", t * h * w * z).reshape(t, h, w, z))
        latent = (latent * np.float32(1.75)).permute(3, 0, 1, 2)
        frames = 4 * t - 3
        pixels = torch.from_numpy(uniform(case + ".pixels", frames * h * px * w * px * 3))
        pixels = pixels.reshape(frames, h * px, w * px, 3).permute(3, 0, 1, 2)

        def decode(x):
            return model.decode(x[None], scale)[0]

        def encode(x):
            return model.encode(x[None], scale)[0]

        if tile is None:
            decoded, encoded = decode(latent), encode(pixels)
            for n in range(1, t):
                near(decode(latent[:, :n]), decoded[:, :4 * n - 3])
                near(encode(pixels[:, :4 * n - 3]), encoded[:, :n])
        else:
            large = [px * n for n in tile]
            decoded = tiled(decode, latent, tile, lambda n: px * n, (3, frames, px * h, px * w))
            encoded = tiled(encode, pixels, large, lambda n: n // px, (z, t, h, w))
            if args.diffsynth and px == 8:
                ds = load("ds_vae", args.diffsynth + "/diffsynth/models/wan_video_vae.py")
                theirs = ds.WanVideoVAE(z_dim=16)
                theirs.model, theirs.scale, theirs.z_dim = model, scale, z
                got = theirs.tiled_decode(latent[None], "cpu", tile[:2], tile[2:])[0]
                near(decoded.clamp(-1, 1), got)
                near(encoded, theirs.tiled_encode(pixels[None], "cpu", large[:2], large[2:])[0])
        out[case + ".decoded"] = decoded.permute(1, 2, 3, 0).contiguous().numpy()
        out[case + ".encoded"] = encoded.permute(1, 2, 3, 0).contiguous().numpy()
        print(case, {k: (v.shape, float(v.std())) for k, v in out.items() if k.startswith(case)})
    save_file(out, sys.path[0] + "/vae.safetensors")


if __name__ == "__main__":
    main()
