"""Text: the SentencePiece model and a small umT5 encoder with the official parameter names.

The encoder has the architecture of Wan2.1 (wan/modules/t5.py): pre-norm, gated GELU, no biases, no scaling
of the logits, one table of relative positions per layer. It is trained together with the transformer.
"""

import html
import io
import math
import random
import string
import unicodedata

import sentencepiece
import torch
import torch.nn as nn
import torch.nn.functional as F

import render

PAD, EOS, BOS, UNK = 0, 1, 2, 3
VOCAB = 1024

# The official default negative prompt, for the uncond branch. Trained as "no caption".
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
NEGATIVE_I2V = "镜头晃动，" + NEGATIVE


def clean(text):
    """The part of the official cleaning that affects our captions: character widths, quotes, HTML
    entities, white space."""
    out = []
    for ch in text:
        code = ord(ch)
        if code == 0x3000 or 0xFF01 <= code <= 0xFFEF:
            ch = unicodedata.normalize("NFKC", ch)
        elif ch in "\u02bc\u2018\u2019\u201a\u201b":
            ch = "'"
        elif ch in "\u201c\u201d\u201e\u201f":
            ch = '"'
        out.append(ch)
    text = unicodedata.normalize("NFC", "".join(out))
    return " ".join(html.unescape(html.unescape(text)).split())


def lexicon():
    """The words of the grammar and of NEGATIVE: (English, Chinese)."""
    english, chinese = set(), set()
    for _, en, zh in (
        list(render.COLOURS.values())
        + list(render.SHAPES.values())
        + list(render.SIZES.values())
        + list(render.PLAIN.values())
    ):
        english.update(en)
        chinese.update(zh)
    for en, zh in render.MOTIONS.values():
        english.update(word for form in en for word in form)
        chinese.update(zh)
    for _, _, en, zh in render.LAND.values():
        english.update(en)
        chinese.update(zh)
    chinese.update(
        ["一个", "在", "的", "背景上", "背景前", "条纹", "渐变", "方格", "镜头", "平移", "一段视频"]
    )
    chinese.update(clean(NEGATIVE).split(","))
    english = {w for phrase in english for w in phrase.split()}
    return sorted(english), sorted(w for w in chinese if w)


def train_tokenizer(path, seed=7):
    """Trains a unigram model of about VOCAB pieces with umT5's special ids. Captions alone are too regular
    (the pieces would be half sentences), so most of the corpus is single words."""
    rng = random.Random(seed)
    lines = [clean(c) for i in range(150) for c in render.clip(10**9 + i, captions=2)[1]]
    english, chinese = lexicon()
    lines += [" ".join(rng.sample(english, 12)) for _ in range(6000)]
    lines += [" ".join(w.capitalize() for w in rng.sample(english, 12)) for _ in range(600)]
    lines += [",".join(rng.sample(chinese, 12)) for _ in range(6000)]
    lines += [" ".join(string.printable[:94])] * 20  # every printable ASCII character
    rng.shuffle(lines)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCAB,
        normalization_rule_name="nmt_nfkc",
        character_coverage=1.0,
        max_sentencepiece_length=8,
        pad_id=PAD,
        eos_id=EOS,
        bos_id=BOS,
        unk_id=UNK,
        pad_piece="<pad>",
        eos_piece="</s>",
        bos_piece="<s>",
        unk_piece="<unk>",
        num_threads=1,
        minloglevel=1,
        hard_vocab_limit=False,
    )
    with open(path, "wb") as f:
        f.write(model.getvalue())


class Tokenizer:
    def __init__(self, path):
        self.model = sentencepiece.SentencePieceProcessor(model_file=path)

    def __call__(self, text, limit):
        """Returns at most `limit` ids, the last of which is EOS."""
        return self.model.encode(clean(text))[: limit - 1] + [EOS]


class Norm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
        return (x.float() * scale).to(x.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, dim, inner, heads):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, inner, bias=False)
        self.k = nn.Linear(dim, inner, bias=False)
        self.v = nn.Linear(dim, inner, bias=False)
        self.o = nn.Linear(inner, dim, bias=False)
        nn.init.normal_(self.q.weight, std=(dim * inner / heads) ** -0.5)
        nn.init.normal_(self.k.weight, std=dim**-0.5)
        nn.init.normal_(self.v.weight, std=dim**-0.5)
        nn.init.normal_(self.o.weight, std=inner**-0.5)

    def forward(self, x, bias):
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        logits = q @ k.transpose(-1, -2) + bias
        out = logits.float().softmax(-1).to(v.dtype) @ v
        return self.o(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(dim, inner, bias=False))
        self.fc1 = nn.Linear(dim, inner, bias=False)
        self.fc2 = nn.Linear(inner, dim, bias=False)
        nn.init.normal_(self.gate[0].weight, std=dim**-0.5)
        nn.init.normal_(self.fc1.weight, std=dim**-0.5)
        nn.init.normal_(self.fc2.weight, std=inner**-0.5)

    def forward(self, x):
        return self.fc2(self.fc1(x) * F.gelu(self.gate(x), approximate="tanh"))


class Positions(nn.Module):
    BUCKETS, FAR = 32, 128

    def __init__(self, heads):
        super().__init__()
        self.embedding = nn.Embedding(self.BUCKETS, heads)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def bucket(self, length, device):
        """[L, L]: exact up to a distance of 7, then logarithmic up to FAR; the upper half of the buckets is
        for keys to the right."""
        at = torch.arange(length, device=device)
        rel = at[None, :] - at[:, None]
        half, near = self.BUCKETS // 2, self.BUCKETS // 4
        away = rel.abs()
        far = (
            near
            + (
                torch.log(away.clamp(min=1).float() / near)
                / math.log(self.FAR / near)
                * (half - near)
            ).long()
        )
        return torch.where(away < near, away, far.clamp(max=half - 1)) + (rel > 0) * half

    def forward(self, length, device):
        return self.embedding(self.bucket(length, device)).permute(2, 0, 1)[None]


class Block(nn.Module):
    def __init__(self, dim, inner, ffn, heads):
        super().__init__()
        self.norm1 = Norm(dim)
        self.attn = Attention(dim, inner, heads)
        self.norm2 = Norm(dim)
        self.ffn = FeedForward(dim, ffn)
        self.pos_embedding = Positions(heads)

    def forward(self, x, mask):
        x = x + self.attn(self.norm1(x), self.pos_embedding(x.shape[1], x.device) + mask)
        return x + self.ffn(self.norm2(x))


class TextEncoder(nn.Module):
    def __init__(self, vocab=VOCAB, dim=128, inner=128, ffn=256, heads=4, layers=3):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(Block(dim, inner, ffn, heads) for _ in range(layers))
        self.norm = Norm(dim)

    def forward(self, ids):
        """ids [B, L], padded with PAD -> [B, L, dim], zeros at the padding."""
        valid = ids != PAD
        mask = torch.zeros(ids.shape, device=ids.device).masked_fill(~valid, -1e30)[:, None, None]
        x = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) * valid[..., None]
