"""The video autoencoder of Wan2.1 (wan/modules/vae.py), official parameter names, any base width.

The official program processes a clip in chunks (1 frame, then 4 at a time) and keeps the last frames of
every convolution in a cache. Here the whole clip is computed at once. The results are the same, because
the cache holds the frames that a causal convolution over the whole clip reads, with two exceptions, both
coded below:
  - temporal downsampling (encoder): the first frame skips the strided convolution;
  - temporal upsampling (decoder): the first frame skips the convolution, and for the following frames the
    convolution reads zeros in its place.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

MEAN = [
    -0.7571,
    -0.7089,
    -0.9113,
    0.1075,
    -0.1745,
    0.9653,
    -0.1517,
    1.5508,
    0.4134,
    -0.0715,
    0.5517,
    -0.3632,
    -0.1922,
    -0.9497,
    0.2503,
    -0.2921,
]
STD = [
    2.8184,
    1.4541,
    2.3275,
    2.6558,
    1.2196,
    1.7708,
    2.6052,
    2.0743,
    3.2687,
    2.1526,
    2.8652,
    1.5579,
    1.6382,
    1.1253,
    2.8251,
    1.9160,
]
Z = 16


def _norm(x, gamma, silu):
    """x [N, C] -> x / |x| * sqrt(C) * gamma, then SiLU."""
    f = x.float()
    y = (
        f
        * torch.rsqrt(f.square().sum(-1, keepdim=True).clamp(min=1e-24))
        * x.shape[-1] ** 0.5
        * gamma
    )
    return (F.silu(y) if silu else y).to(x.dtype)


norm_rows = _norm  # train.py replaces it by a compiled one


class RMSNorm(nn.Module):
    def __init__(self, dim, dims, silu):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *[1] * dims))
        self.silu = silu

    def forward(self, x):
        rows = x.movedim(1, -1)
        return (
            norm_rows(rows.reshape(-1, rows.shape[-1]), self.gamma.flatten(), self.silu)
            .view(rows.shape)
            .movedim(-1, 1)
        )


class CausalConv3d(nn.Conv3d):
    """Pads with zeros; in time only before the first frame."""

    def forward(self, x):
        if self.kernel_size[0] > 1:
            x = F.pad(x, (0, 0, 0, 0, self.kernel_size[0] - 1, 0))
        pad = self.kernel_size[1] // 2
        return F.conv3d(x, self.weight, self.bias, self.stride, (0, pad, pad))


class ResidualBlock(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.residual = nn.Sequential(  # Identity: activation and dropout, which count in the names
            RMSNorm(cin, 3, True),
            nn.Identity(),
            CausalConv3d(cin, cout, 3),
            RMSNorm(cout, 3, True),
            nn.Identity(),
            nn.Identity(),
            CausalConv3d(cout, cout, 3),
        )
        self.shortcut = CausalConv3d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x):
        return self.shortcut(x) + self.residual(x)


def per_frame(f, x):
    """Applies a 2-D function to each frame of [B, C, T, H, W]."""
    b, _, t = x.shape[:3]
    y = f(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (b, t)).transpose(1, 2)


class AttentionBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = RMSNorm(dim, 2, False)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def frame(self, x):
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None].chunk(3, -1)
        y = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        return self.proj(y[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))

    def forward(self, x):
        return x + per_frame(self.frame, x)


class Resample(nn.Module):
    def __init__(self, dim, mode):
        super().__init__()
        self.mode = mode
        up = mode.startswith("up")
        self.resample = nn.Sequential(
            nn.Identity(),
            nn.Conv2d(
                dim, dim // 2 if up else dim, 3, stride=1 if up else 2, padding=1 if up else 0
            ),
        )
        if mode == "up3d":
            self.time_conv = CausalConv3d(dim, 2 * dim, (3, 1, 1))
        if mode == "down3d":
            self.time_conv = nn.Conv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1))

    def forward(self, x):
        if self.mode == "up3d" and x.shape[2] > 1:
            first, rest = x[:, :, :1], self.time_conv(x[:, :, 1:])
            even, odd = rest.chunk(2, 1)
            x = torch.cat([first, torch.stack([even, odd], 3).flatten(2, 3)], 2)
        if self.mode.startswith("up"):
            x = per_frame(
                lambda f: self.resample[1](F.interpolate(f, scale_factor=2.0, mode="nearest")), x
            )
        else:
            x = per_frame(lambda f: self.resample[1](F.pad(f, (0, 1, 0, 1))), x)
        if self.mode == "down3d" and x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], self.time_conv(x)], 2)
        return x


class Encoder(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.conv1 = CausalConv3d(3, base, 3)
        layers, width = [], base
        for i, mult in enumerate((1, 2, 4, 4)):
            for _ in range(2):
                layers.append(ResidualBlock(width, base * mult))
                width = base * mult
            if i < 3:
                layers.append(Resample(width, ("down2d", "down3d", "down3d")[i]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = nn.Sequential(
            ResidualBlock(width, width), AttentionBlock(width), ResidualBlock(width, width)
        )
        self.head = nn.Sequential(
            RMSNorm(width, 3, True), nn.Identity(), CausalConv3d(width, 2 * Z, 3)
        )

    def forward(self, x):
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, base):
        super().__init__()
        width = 4 * base
        self.conv1 = CausalConv3d(Z, width, 3)
        self.middle = nn.Sequential(
            ResidualBlock(width, width), AttentionBlock(width), ResidualBlock(width, width)
        )
        layers = []
        for i, mult in enumerate((4, 4, 2, 1)):
            for _ in range(3):
                layers.append(ResidualBlock(width, base * mult))
                width = base * mult
            if i < 3:
                layers.append(Resample(width, ("up3d", "up3d", "up2d")[i]))
                width //= 2
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(RMSNorm(base, 3, True), nn.Identity(), CausalConv3d(base, 3, 3))

    def forward(self, x):
        return self.head(self.upsamples(self.middle(self.conv1(x))))


class VAE(nn.Module):
    def __init__(self, base=16):
        super().__init__()
        self.encoder = Encoder(base)
        self.conv1 = CausalConv3d(2 * Z, 2 * Z, 1)
        self.conv2 = CausalConv3d(Z, Z, 1)
        self.decoder = Decoder(base)
        scale = lambda v: torch.tensor(v).view(1, Z, 1, 1, 1)
        self.register_buffer("mean", scale(MEAN), persistent=False)
        self.register_buffer("std", scale(STD), persistent=False)
        for name, m in self.named_modules():  # preserve the variance; residual branches start small
            if isinstance(m, (nn.Conv2d, nn.Conv3d)):
                branch = name.endswith((".residual.6", ".proj"))
                nn.init.normal_(
                    m.weight, std=(0.1 if branch else 1.0) * m.weight[0].numel() ** -0.5
                )
                nn.init.zeros_(m.bias)

    def moments(self, pixels):
        """[B, 3, 4n+1, H, W] in -1..1 -> mean and log variance, each [B, Z, n+1, H/8, W/8]."""
        return self.conv1(self.encoder(pixels)).chunk(2, 1)

    def encode(self, pixels):
        """Normalized latents, the transformer's input."""
        return (self.moments(pixels)[0].float() - self.mean) / self.std

    def decode_raw(self, z):
        return self.decoder(self.conv2(z))

    def decode(self, latents):
        return self.decode_raw(latents * self.std + self.mean).float().clamp(-1, 1)

    @torch.no_grad()
    def fold_statistics(self, mean, std):
        """Wan's latent mean and std are constants of the format. From the mean and std of our latents, changes
        the two 1x1x1 convolutions such that the latents get Wan's and the decoder's input stays the same.
        """
        a = (self.std.flatten() / std).float()  # new = a * old + b
        b = self.mean.flatten() - a * mean
        self.conv1.weight[:Z] *= a.view(-1, 1, 1, 1, 1)
        self.conv1.bias[:Z] = self.conv1.bias[:Z] * a + b
        self.conv2.bias -= (self.conv2.weight.flatten(1) * (b / a)).sum(1)
        self.conv2.weight /= a.view(1, -1, 1, 1, 1)
