"""The transformer of Wan2.1 T2V and I2V (wan/modules/model.py), official parameter names, batched.

As in the original, the text is padded with zero rows and attention has no mask.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def sinusoid(t, dim):
    half = dim // 2
    angle = t.double()[:, None] * torch.pow(
        10000, -torch.arange(half, device=t.device).double() / half
    )
    return torch.cat([angle.cos(), angle.sin()], 1).float()


def rope(f, h, w, head_dim, device):
    """Returns cos and sin [f*h*w, head_dim/2]: pairs for time, then rows, then columns."""
    pairs = head_dim // 2
    parts = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    at = torch.meshgrid(
        *[torch.arange(n, device=device, dtype=torch.float64) for n in (f, h, w)], indexing="ij"
    )
    angles = [
        p.flatten()[:, None] * torch.pow(10000, -torch.arange(n, device=device).double() / n)
        for p, n in zip(at, parts)
    ]
    angle = torch.cat(angles, 1)
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """x [B, S, N, D]; neighbouring channels are pairs."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class RMSNorm(nn.Module):
    """Over all channels, before the split into heads."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        f = x.float()
        return (f * torch.rsqrt(f.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """With `image`, also attends to the tokens of an image, with keys and values of their own."""

    def __init__(self, dim, heads, image=False):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)
        if image:
            self.k_img, self.v_img = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.norm_k_img = RMSNorm(dim)

    def forward(self, x, context, turn=None, image=None):
        split = lambda y: y.unflatten(-1, (self.heads, -1))
        q, k, v = (
            split(self.norm_q(self.q(x))),
            split(self.norm_k(self.k(context))),
            split(self.v(context)),
        )
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        q, k = q.to(v.dtype), k.to(v.dtype)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        if image is not None:
            v = split(self.v_img(image))
            k = split(self.norm_k_img(self.k_img(image))).to(v.dtype)
            y = y + F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            )
        return self.o(y.transpose(1, 2).flatten(2))


def plain_norm(x):
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    def __init__(self, dim, ffn, heads, image=False):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.self_attn = Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = Attention(dim, heads, image)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.GELU("tanh"), nn.Linear(ffn, dim))

    def forward(self, x, e0, context, cos, sin, image=None):
        """x [B, S, C] f32, e0 [B, 6, C] f32."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (self.modulation + e0)[
            :, :, None
        ].unbind(1)
        u = plain_norm(x) * (1 + scale_a) + shift_a
        x = x + self.self_attn(u, u, (cos, sin)) * gate_a
        x = x + self.cross_attn(
            F.layer_norm(x, x.shape[-1:], self.norm3.weight, self.norm3.bias, 1e-6),
            context,
            image=image,
        )
        u = plain_norm(x) * (1 + scale_f) + shift_f
        return x + self.ffn(u) * gate_f


class ImageEmbedding(nn.Module):
    def __init__(self, width, dim):
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, dim),
            nn.LayerNorm(dim),
        )

    def forward(self, tokens):
        return self.proj(tokens)


class Head(nn.Module):
    def __init__(self, dim, out):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.head = nn.Linear(dim, out)

    def forward(self, x, e):
        shift, scale = (self.modulation + e[:, None])[:, :, None].unbind(1)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(plain_norm(x) * (1 + scale) + shift)


CONFIG = {
    "model_type": "t2v",
    "text_len": 64,
    "in_dim": 16,
    "dim": 256,
    "ffn_dim": 1024,
    "freq_dim": 256,
    "text_dim": 128,
    "out_dim": 16,
    "num_heads": 4,
    "num_layers": 7,
    "eps": 1e-6,
}
I2V = {"model_type": "i2v", "in_dim": 36}  # with these, and tokens of an image encoder
MASK = 4  # channels of the mask in I2V, one for each frame of a latent frame


def config_of(state, **changes):
    """The config of a transformer with these tensors, of those that this code makes."""
    layers = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("blocks."))
    kind = I2V if "img_emb.proj.0.weight" in state else {}
    return {**CONFIG, **kind, "num_layers": layers, **changes}


def image_width(state):
    """The width of the image encoder's tokens; 0 without an image encoder."""
    return len(state["img_emb.proj.0.weight"]) if "img_emb.proj.0.weight" in state else 0


def first_frame_channels(first):
    """first [B, C, T, H, W]: the latents of clips of which all frames but the first one are zeros -> the channels
    of the condition: a mask of the known frames, then these latents."""
    mask = torch.zeros_like(first[:, :MASK])
    mask[:, :, 0] = 1
    return torch.cat([mask, first], 1)


class DiT(nn.Module):
    """image: the width of the image encoder's tokens; 0 for T2V."""

    def __init__(self, config=CONFIG, image=0):
        super().__init__()
        c = self.config = dict(config)
        dim = c["dim"]
        self.patch_embedding = nn.Conv3d(c["in_dim"], dim, (1, 2, 2), stride=(1, 2, 2))
        self.text_embedding = nn.Sequential(
            nn.Linear(c["text_dim"], dim), nn.GELU("tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(c["freq_dim"], dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(
            Block(dim, c["ffn_dim"], c["num_heads"], image > 0) for _ in range(c["num_layers"])
        )
        if image:
            self.img_emb = ImageEmbedding(image, dim)
        self.head = Head(dim, 4 * c["out_dim"])
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for m in (self.time_embedding[0], self.time_embedding[2]):
            nn.init.normal_(m.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    @torch.no_grad()
    def start_from(self, state, layers):
        """Takes the weights of another model, of its `layers`. What it lacks starts such that the result is that
        of the other model: new input channels and the values of image tokens are zero."""
        own = self.state_dict()
        other = {n: v for n, v in state.items() if not n.startswith("blocks.")}
        for mine, theirs in enumerate(layers):
            prefix = f"blocks.{theirs}."
            for n, v in state.items():
                if n.startswith(prefix):
                    other[f"blocks.{mine}." + n[len(prefix) :]] = v
        for n, v in own.items():
            if ".v_img." in n and n not in other:
                v.zero_()
            if n == "patch_embedding.weight":
                v.zero_()
                v[:, : other[n].shape[1]] = other[n]
            elif n in other:
                v.copy_(other[n])

    def forward(self, x, t, text, channels=None, image=None):
        """x [B, C, T, H, W] f32, t [B] in 0..1000, text [B, L, text_dim] with L <= text_len -> v like x.

        For I2V: channels [B, 20, T, H, W], image [B, tokens, width]."""
        c = self.config
        text = F.pad(text, (0, 0, 0, c["text_len"] - text.shape[1]))
        context = self.text_embedding(text)
        with torch.autocast(x.device.type, enabled=False):
            e = self.time_embedding(sinusoid(t, c["freq_dim"]))
            e0 = self.time_projection(e).unflatten(1, (6, -1))
        y = self.patch_embedding(x if channels is None else torch.cat([x, channels], 1))
        image = self.img_emb(image) if image is not None else None
        f, h, w = y.shape[2:]
        # contiguous as the blocks' results: torch.compile compiles for each memory layout
        y = y.flatten(2).transpose(1, 2).float().contiguous()
        cos, sin = rope(f, h, w, c["dim"] // c["num_heads"], x.device)
        for block in self.blocks:
            y = block(y, e0, context, cos, sin, image)
        y = self.head(y, e)
        # the values of a token are ordered (row, column, channel), channel innermost
        y = y.view(y.shape[0], f, h, w, 2, 2, c["out_dim"])
        return y.permute(0, 6, 1, 2, 4, 3, 5).reshape(x.shape[0], c["out_dim"], f, 2 * h, 2 * w)
