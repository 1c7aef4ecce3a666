"""The image encoder of Wan2.1 I2V (wan/modules/clip.py, VisionTransformer), official parameter names, any width.

Its weights are random and fixed: the transformer learns to use its output. Images of 224 pixels in patches of 14
give 257 tokens, as in the released model.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = {"dim": 80, "heads": 1, "layers": 2, "ffn_dim": 320, "out_dim": 32}
SIDE, PATCH = 224, 14
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(*map(split, self.to_qkv(x).chunk(3, -1)))
        return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim, ffn, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, ffn), nn.GELU(), nn.Linear(ffn, dim))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vision(nn.Module):
    def __init__(self, dim, heads, layers, ffn_dim, out_dim):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, dim, PATCH, stride=PATCH, bias=False)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.zeros(1, (SIDE // PATCH) ** 2 + 1, dim))
        self.pre_norm = nn.LayerNorm(dim)
        self.transformer = nn.Sequential(*[Block(dim, ffn_dim, heads) for _ in range(layers)])
        self.post_norm = nn.LayerNorm(dim)
        self.head = nn.Parameter(torch.zeros(dim, out_dim))


class ImageEncoder(nn.Module):
    def __init__(self, config=CONFIG, seed=0):
        super().__init__()
        self.visual = Vision(**config)
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                if p.ndim > 1:  # preserve the variance; norms and biases as PyTorch's
                    std = (p[0].numel() if p.ndim != 3 else p.shape[-1]) ** -0.5
                    p.copy_(torch.randn(p.shape, generator=random) * std)
                elif p is not None and not torch.all(p == 1):
                    p.zero_()
        self.half().float()  # the values of the file, which is fp16 like the released one
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images):
        """[B, 3, H, W] f32 in -1..1 -> [B, 257, dim] f32, the output before the last block."""
        v, per_channel = self.visual, lambda x: torch.tensor(x, device=images.device).view(3, 1, 1)
        x = F.interpolate(images, size=(SIDE, SIDE), mode="bicubic", align_corners=False)
        x = (x * 0.5 + 0.5 - per_channel(MEAN)) / per_channel(STD)
        with torch.autocast(images.device.type, enabled=False):
            x = v.patch_embedding(x).flatten(2).transpose(1, 2)
            x = torch.cat([v.cls_embedding.expand(len(x), -1, -1), x], 1) + v.pos_embedding
            return v.transformer[:-1](v.pre_norm(x))
