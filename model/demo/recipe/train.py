"""Training: first the autoencoder, then transformer and text encoder together on its latents.

    train.py tokenizer --out DIR
    train.py vae --out DIR --minutes 6
    train.py vae --refine --out DIR --minutes 6      continues with vae.pt, for PSNR only
    train.py dit --out DIR --minutes 13
    train.py clips --out DIR --task i2v              draws and encodes clips once, for several trainings
    train.py dit --out DIR --task i2v --start dit --name i2v --layers 0,3,4,5,6
    train.py dit --out DIR --start dit --name high --shift 12 --times 875,1000

Weights are saved to DIR (vae.pt, dit.pt) about once a minute and on SIGTERM; sample.py and export.py read
them. An interrupted `dit` resumes. Learning rates depend on the elapsed fraction of the minutes. With --start,
a training begins with the weights of another one and keeps its text encoder.
"""

import argparse
import math
import os
import random
import signal
import time
from multiprocessing import Pool

import numpy
import torch
import torch.nn.functional as F

import render
import text
import vae as vae_module
import dit as dit_module
from clip import ImageEncoder
from dit import DiT
from muon import Muon
from text import TextEncoder, Tokenizer
from vae import VAE

EMPTY_SHARE = 0.10  # fraction of captions replaced by the empty one or the default negative prompt
CAPTIONS = 4  # wordings kept per clip
TEST_SEED = 2 * 10**9  # scenes from this number on are not used in training

# frames x height x width : fraction of the clips
BUCKETS = "17x128x128:0.56,33x128x128:0.20,17x128x192:0.12,49x128x128:0.12"

stopping = []  # not empty after SIGTERM: save and end


def log(*words):
    print(*words, flush=True)


def lr_at(progress, step, peak, end, warmup=300):
    fall = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / warmup) * (end + (peak - end) * fall)


class Average:
    """Moving average of the parameters, used for sampling and export."""

    def __init__(self, model, decay):
        self.params = [p for p in model.parameters()]
        self.values = [p.detach().clone() for p in self.params]
        self.decay = decay

    def update(self):
        torch._foreach_lerp_(self.values, [p.detach() for p in self.params], 1 - self.decay)

    def state(self, model):
        names = [n for n, _ in model.named_parameters()]
        return dict(zip(names, self.values))


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last_3d) if x.is_cuda else x


class Captured:
    """A training step for inputs of one shape. On a GPU it is captured once as a CUDA graph and replayed,
    since launching its hundreds of small kernels takes longer than running them."""

    enabled = True

    def __init__(self, step, optimizer, device, *inputs):
        self.step, self.optimizer, self.inputs, self.graph = step, optimizer, inputs, None
        if device == "cuda" and self.enabled:
            self.inputs = [x.clone() for x in inputs]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(4):
                    optimizer.zero_grad(set_to_none=True)
                    step(*self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
            optimizer.zero_grad(set_to_none=True)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = step(*self.inputs)

    def __call__(self, *inputs):
        if self.graph is None:
            self.optimizer.zero_grad(set_to_none=True)
            return self.step(*inputs)
        for mine, given in zip(self.inputs, inputs):
            mine.copy_(given)
        self.graph.replay()
        return self.result.clone()


def save(path, state):
    torch.save(state, path + ".new")
    os.replace(path + ".new", path)


# ---------------------------------------------------------------------------------- scenes


def test_params(count, device):
    """Scenes that are not used in training."""
    scenes = [render.scene(random.Random(TEST_SEED + i)) for i in range(count)]
    return torch.tensor([render.params(s) for s in scenes], device=device)


def scene_params(seed):
    return render.clip(seed, captions=0)[0]


def captioned(job):
    first, count, aspect, tokenizer_file = job
    tokenizer = Tokenizer(tokenizer_file)
    rows, ids = [], []
    for seed in range(first, first + count):
        p, captions = render.clip(seed, aspect, CAPTIONS)
        rows.append(p)
        ids.append([tokenizer(c, 64) for c in captions])
    packed = torch.zeros(count, CAPTIONS, 64, dtype=torch.int16)
    for i, row in enumerate(ids):
        for k, one in enumerate(row):
            packed[i, k, : len(one)] = torch.tensor(one, dtype=torch.int16)
    return numpy.array(rows, numpy.float32), packed.numpy()  # tensors would take a file descriptor each


# ---------------------------------------------------------------------------------- autoencoder


def psnr(a, b):
    """Per clip, for pixels in -1..1."""
    return -10 * torch.log10((a - b).div(2).square().flatten(1).mean(1))


def prepare(vae, device):
    """Sets memory layout and kernels for speed."""
    if device != "cuda":
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch._dynamo.config.recompile_limit = 64
    compiled = torch.compile(vae_module._norm)

    def norm_rows(x, gamma, silu):
        torch._dynamo.mark_static(x, 1)  # one kernel per width, for any number of rows
        torch._dynamo.mark_static(gamma, 0)
        torch._dynamo.maybe_mark_dynamic(x, 0)
        return compiled(x, gamma, silu)

    vae_module.norm_rows = norm_rows
    for p in vae.parameters() if vae else []:
        if p.ndim >= 4:
            p.data = p.data.contiguous(
                memory_format=torch.channels_last if p.ndim == 4 else torch.channels_last_3d
            )


@torch.no_grad()
def evaluate_vae(model, device, frames=17, size=128, count=32):
    values = []
    for part in test_params(count, device).split(8):
        clips = render.render(part, render.clip_times(len(part), frames, device), size, size)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            values.append(psnr(model.decode(model.encode(clips)), clips))
    return torch.cat(values)


def some_clips(rows, frames, size, count):
    """Random windows in space and time of random scenes. Half of the scenes have a length of 17 frames, and
    so move fastest. Windows smaller than the frame are placed around the first object."""
    device = rows.device
    p = rows[torch.randint(0, len(rows), (count,), device=device)]
    total = torch.tensor([17, 17, 33, 49], device=device)[
        torch.randint(0, 4, (count,), device=device)
    ].clamp(min=frames)
    begin = (torch.rand(count, device=device) * (total - frames + 1)).floor()
    times = (begin[:, None] + torch.arange(frames, device=device)) / (total[:, None] - 1)
    middle, first = times[:, frames // 2], render.BACK_PARAMS
    from_, to = p[:, first + 6 : first + 8], p[:, first + 8 : first + 10]
    centre = 128 * (from_ + (to - from_) * middle[:, None]).T
    corner = centre - size / 2 + (torch.rand(2, count, device=device) - 0.5) * size * 0.8
    corner = corner.floor().clamp(0, 128 - size)
    with torch.no_grad():
        return render.render(p, times, size, size, corner[0], corner[1], 128)


def train_vae(a):
    """With a.refine, training continues from the saved autoencoder, for PSNR only."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    if a.refine:
        model = load_vae(a.out, device).requires_grad_(True)
    else:
        model = VAE(a.base).to(device)
        with torch.no_grad():
            model.conv1.bias[vae_module.Z :] = -5.0  # little noise at first
    prepare(model, device)
    average = Average(model, 0.999)
    rate = torch.tensor(a.lr, device=device)  # a tensor, so that it can change in a captured step
    inner = {
        n: p
        for n, p in model.named_parameters()
        if a.muon and n.endswith(".weight") and ("samples." in n or "middle." in n)
    }
    others = [p for n, p in model.named_parameters() if n not in inner]
    optimizer = Muon(list(inner.values()), others, rate, betas=(0.9, 0.99), decay=0.0)
    with Pool(a.workers, torch.set_num_threads, (1,)) as pool:
        rows = pool.map(scene_params, range(a.first, a.first + a.scenes), chunksize=256)
    rows = torch.tensor(rows, device=device)
    log(f"{len(rows)} scenes, {sum(p.numel() for p in model.parameters())} parameters")

    def train_step(clips):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            mean, logvar = model.moments(clips)
            mean, logvar = mean.float(), logvar.float().clamp(-20, 10)
            if a.refine:  # the variance is no longer trained; add a small fixed noise
                logvar = torch.full_like(mean, 2 * math.log(0.03)) + 2 * model.std.log()
            out = model.decode_raw(mean + torch.randn_like(mean) * (0.5 * logvar).exp()).float()
        diff = out - clips
        square = diff.square().flatten(1).mean(1)
        if a.refine:
            prior = ((mean - model.mean) / model.std).square().mean()
            loss = (square + 2e-4).log().mean() + 0.01 * prior
        else:
            prior = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
            edges = torch.diff(diff, dim=-1).abs().mean() + torch.diff(diff, dim=-2).abs().mean()
            loss = diff.abs().mean() + 4 * square.mean() + 0.5 * edges + a.kl * prior
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5 if not a.refine else 5.0)
        optimizer.step()
        average.update()
        return torch.stack([square.detach().log().mean().exp(), prior.detach()])

    path, step = os.path.join(a.out, "vae.pt"), 0
    start = saved = time.time()
    window, steps = [], {}
    while True:
        progress = (time.time() - start) / (60 * a.minutes)
        if progress >= 1 or step == a.steps or stopping:
            break
        # small windows first; whole frames, long clips and larger batches later
        late = a.refine or progress > 0.6
        frames, size = [(17, 64), (17, 128), (33, 64), (17, 128)][step % 4] if late else (17, 64)
        count = max(1, (2 * a.pixels if late else a.pixels) // (frames * size * size))
        shape = (frames, size, count)
        if shape not in steps:
            steps[shape] = Captured(
                train_step, optimizer, device, channels_last(some_clips(rows, *shape))
            )
        rate.fill_(lr_at(progress, step, a.lr, 0.02 * a.lr))
        window.append(steps[shape](some_clips(rows, *shape)))
        step += 1
        if step in (5, 20, 60) or step % a.log == 0:
            s, k = torch.stack(window).mean(0).tolist()
            window = []
            log(
                f"step {step} {time.time() - start:.0f} s  psnr {10 * math.log10(4 / s):.2f}  prior {k:.4f}"
            )
        if time.time() - saved > 60:
            save(path, {"model": average.state(model), "base": a.base})
            saved = time.time()

    model.load_state_dict(average.state(model), strict=False)
    fold(a, model, rows, device)
    save(path, {"model": model.state_dict(), "base": a.base})
    for frames in (17, 33):
        values = evaluate_vae(model, device, frames, count=a.test_clips)
        log(
            f"held-out clips, {frames} frames: psnr mean {values.mean():.2f} min {values.min():.2f}"
        )
    log(f"done: {step} steps, {time.time() - start:.0f} s")


def fold(a, model, rows, device):
    """Folds our latents' mean and std into the weights, so that they become Wan's constants."""
    sums = torch.zeros(3, vae_module.Z, dtype=torch.float64, device=device)
    with torch.no_grad():
        for part in rows[: a.stat_clips].split(16):
            clips = render.render(part, render.clip_times(len(part), 17, device), 128, 128)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                z = model.moments(clips)[0].double().movedim(1, 0).flatten(1)
            sums += torch.stack(
                [
                    torch.full((vae_module.Z,), z.shape[1], device=device),
                    z.sum(1),
                    z.square().sum(1),
                ]
            )
    mean = sums[1] / sums[0]
    std = (sums[2] / sums[0] - mean.square()).sqrt()
    model.fold_statistics(mean.float(), std.float())
    log("latent std before folding:", [round(v, 2) for v in std.tolist()])


# ---------------------------------------------------------------------------------- transformer


class Bucket:
    """Latents and captions of clips of one shape, on the device."""

    def __init__(self, shape, share):
        self.shape, self.share = shape, share
        self.latents, self.ids, self.clips = [], [], 0
        self.first, self.tokens = [], []  # for I2V: latents of the first frame and zeros; the image encoder's tokens

    def close(self):
        for name in ("latents", "ids", "first", "tokens"):
            value = getattr(self, name)
            setattr(self, name, torch.cat(value) if value else None)


@torch.no_grad()
def encode_clips(vae, device, seconds, first, limit, workers, tokenizer_file, buckets, image=None):
    """Renders and encodes clips for `seconds`, in the fractions of the buckets; with an image encoder also what I2V
    is given of them."""
    buckets = [
        Bucket(tuple(map(int, shape.split("x"))), float(share))
        for shape, share in (one.split(":") for one in buckets.split(","))
    ]
    chunk = 32 if device == "cuda" else 1
    jobs, seed = [], first
    while seed < first + limit:
        for i, bucket in enumerate(buckets):
            count = max(1, round(16 * bucket.share)) * chunk
            _, height, width = bucket.shape
            jobs.append((i, (seed, count, width / height, tokenizer_file)))
            seed += count
    start, total = time.time(), 0
    with Pool(workers, torch.set_num_threads, (1,)) as pool:
        results = pool.imap(captioned, [job for _, job in jobs])
        for (i, _), (rows, ids) in zip(jobs, results):
            if time.time() - start > seconds and min(b.clips for b in buckets) > 0:
                break
            rows, ids = torch.from_numpy(rows), torch.from_numpy(ids)
            bucket = buckets[i]
            frames, height, width = bucket.shape
            for part in rows.to(device).split(chunk):
                clips = render.render(
                    part, render.clip_times(len(part), frames, device), height, width
                )
                clips = channels_last(clips)
                with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                    bucket.latents.append(vae.encode(clips).to(torch.bfloat16).contiguous())
                    if image:
                        bucket.tokens.append(image(clips[:, :, 0]).to(torch.bfloat16))
                        clips[:, :, 1:] = 0
                        bucket.first.append(vae.encode(clips).to(torch.bfloat16).contiguous())
            bucket.ids.append(ids.to(device))
            bucket.clips += len(ids)
            total += len(ids)
        pool.terminate()
    for bucket in buckets:
        bucket.close()
    every = torch.cat([b.latents[:256].float().movedim(1, 0).flatten(1) for b in buckets], 1)
    log(
        f"{total} clips in {time.time() - start:.0f} s, latents mean {every.mean():.3f} std {every.std():.3f}"
    )
    return buckets


def save_clips(path, buckets):
    save(path, [{**vars(b), "shape": list(b.shape)} for b in buckets])


def load_clips(path, device):
    buckets = []
    for values in torch.load(path, map_location=device, weights_only=True):
        bucket = Bucket(tuple(values["shape"]), values["share"])
        vars(bucket).update({**values, "shape": bucket.shape})
        buckets.append(bucket)
    return buckets


def make_clips(a, device, image=None):
    vae = load_vae(a.out, device)
    prepare(vae, device)
    file = os.path.join(a.out, "spiece.model")
    return encode_clips(
        vae, device, a.encode_seconds, a.first, a.clips, a.workers, file, a.buckets, image
    )


def load_vae(out, device):
    state = torch.load(os.path.join(out, "vae.pt"), map_location=device, weights_only=True)
    vae = VAE(state["base"]).to(device)
    vae.load_state_dict(state["model"])
    return vae.eval().requires_grad_(False)


class Both(torch.nn.Module):
    """Text encoder and transformer, which are trained together."""

    def __init__(self, vocab, config=dit_module.CONFIG, image=0):
        super().__init__()
        self.text = TextEncoder(vocab)
        self.dit = DiT(config, image)

    def forward(self, x, t, ids, first=None, tokens=None):
        if first is None:
            return self.dit(x, t, self.text(ids))
        channels = dit_module.first_frame_channels(first)
        return self.dit(x, t, self.text(ids), channels, tokens)


def model_of(state):
    """The model with these weights, of a training."""
    dit = {n[4:]: v for n, v in state.items() if n.startswith("dit.")}
    vocab = state["text.token_embedding.weight"].shape[0]
    model = Both(vocab, dit_module.config_of(dit), dit_module.image_width(dit))
    model.load_state_dict(state)
    return model


def start_model(a, vocab, image):
    """The model before training: of a.start's weights, or a new one."""
    kind = dit_module.I2V if image else {}
    if not a.start:
        return Both(vocab, {**dit_module.CONFIG, **kind}, image)
    state = torch.load(os.path.join(a.out, a.start + ".pt"), map_location="cpu", weights_only=True)
    state = state["average"]
    total = dit_module.config_of({n[4:]: v for n, v in state.items() if n.startswith("dit.")})["num_layers"]
    layers = [int(n) for n in a.layers.split(",")] if a.layers else list(range(total))
    model = Both(vocab, {**dit_module.CONFIG, **kind, "num_layers": len(layers)}, image)
    model.dit.start_from({n[4:]: v for n, v in state.items() if n.startswith("dit.")}, layers)
    model.text.load_state_dict({n[5:]: v for n, v in state.items() if n.startswith("text.")})
    model.text.requires_grad_(False)
    log(f"starts from {a.start}, layers {layers}")
    return model


def train_dit(a):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    tokenizer_file = os.path.join(a.out, "spiece.model")
    tokenizer = Tokenizer(tokenizer_file)
    vocab = (tokenizer.model.vocab_size() + 7) // 8 * 8
    i2v = a.task == "i2v"
    encoder = ImageEncoder().to(device) if i2v else None
    model = start_model(a, vocab, encoder.visual.cls_embedding.shape[-1] if i2v else 0).to(device)
    average = Average(model, a.ema)
    rate = torch.tensor(a.lr, device=device)
    inner = {
        n: p
        for n, p in model.named_parameters()
        if ".blocks." in n and p.ndim == 2 and "pos_embedding" not in n and p.requires_grad
    }
    others = [p for n, p in model.named_parameters() if n not in inner and p.requires_grad]
    optimizer = Muon(list(inner.values()), others, rate)
    path, step, before = os.path.join(a.out, a.name + ".pt"), 0, 0.0
    if os.path.exists(path):
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        torch._foreach_copy_(
            average.values, [state["average"][n] for n, _ in model.named_parameters()]
        )
        step, before = state["step"], state["spent"]
        log(f"resumes at step {step}, {before:.0f} s")
    log(
        f"{sum(p.numel() for p in model.dit.parameters())} + {sum(p.numel() for p in model.text.parameters())} parameters, vocabulary {vocab}"
    )

    start = saved = time.time()
    saved_clips = os.path.join(a.out, "clips.pt")
    if os.path.exists(saved_clips):
        buckets = load_clips(saved_clips, device)
        prepare(None, device)
    else:
        buckets = make_clips(a, device, encoder)
    if a.compile:
        for block in list(model.dit.blocks) + list(model.text.blocks):
            block.compile()

    def no_caption(words):
        ids = tokenizer(words, 64)
        return torch.tensor(ids + [text.PAD] * (64 - len(ids)), device=device, dtype=torch.int16)

    negative = text.NEGATIVE_I2V if i2v else text.NEGATIVE
    nothing = torch.stack([no_caption(""), no_caption(negative)])
    low, high = (float(t) / 1000 for t in a.times.split(","))
    u_of = lambda sigma: sigma / (a.shift - (a.shift - 1) * sigma)
    odds = torch.tensor([bucket.share for bucket in buckets])

    def train_step(x0, ids, *image):
        """x0 [B, C, T, H, W] f32, ids [B, L]; image: for I2V, latents like x0, and tokens."""
        count = len(x0)
        drop = torch.rand(count, device=device)
        ids = torch.where(
            (drop < EMPTY_SHARE)[:, None], nothing[(drop < EMPTY_SHARE / 2).long()], ids
        ).long()
        # noise levels spread evenly over the shifted schedule
        u = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
        u = u_of(low) + (u_of(high) - u_of(low)) * u
        sigma = a.shift * u / (1 + (a.shift - 1) * u)
        noise = torch.randn_like(x0)
        s = sigma.view(-1, 1, 1, 1, 1)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            v = model((1 - s) * x0 + s * noise, 1000 * sigma, ids, *image)
        loss = F.mse_loss(v.float(), noise - x0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update()
        return loss.detach()

    window, warm, steps = [], step, {}
    while True:
        spent = before + time.time() - start
        progress = spent / (60 * a.minutes)
        if progress >= 1 or step == a.steps or stopping:
            break
        bucket = buckets[torch.multinomial(odds, 1).item()]
        # a clip of one frame
        still = bucket is buckets[0] and not i2v and random.random() < a.stills
        t, h, w = bucket.latents.shape[2:]
        t = 1 if still else t
        count = min(max(a.tokens // (t * h * w // 4) // 8 * 8, 4), 256)
        pick = torch.randint(0, len(bucket.latents), (count,), device=device)
        x0 = bucket.latents[pick][:, :, :t].float()
        ids = bucket.ids[pick, torch.randint(0, CAPTIONS, (count,), device=device)]
        image = [bucket.first[pick].float(), bucket.tokens[pick].float()] if i2v else []
        rate.fill_(lr_at(progress, step - warm, a.lr, a.lr_end))
        if x0.shape not in steps:
            steps[x0.shape] = Captured(train_step, optimizer, device, x0, ids, *image)
        window.append(steps[x0.shape](x0, ids, *image))
        step += 1
        if step in (5, 20, 60, 200) or step % a.log == 0:
            log(f"step {step} {spent:.0f} s  loss {torch.stack(window).mean():.4f}")
            window = []
        if time.time() - saved > 60:
            save(
                path,
                {
                    "model": model.state_dict(),
                    "average": average.state(model),
                    "step": step,
                    "spent": spent,
                },
            )
            saved = time.time()
    save(
        path,
        {
            "model": model.state_dict(),
            "average": average.state(model),
            "step": step,
            "spent": before + time.time() - start,
        },
    )
    log(f"done: {step} steps, {before + time.time() - start:.0f} s")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["tokenizer", "vae", "clips", "dit"])
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=-1, help="stop after this number of steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--log", type=int, default=200)
    parser.add_argument("--workers", type=int, default=min(28, os.cpu_count()))
    parser.add_argument("--base", type=int, default=16, help="vae: width of the first level")
    parser.add_argument("--lr_end", type=float, default=1e-5, help="dit: at the end")
    parser.add_argument("--first", type=int, default=0, help="the first scene's number")
    parser.add_argument("--refine", action="store_true", help="vae: continue with DIR/vae.pt")
    parser.add_argument("--muon", type=int, default=1, help="vae")
    parser.add_argument("--kl", type=float, default=1e-4)
    parser.add_argument("--pixels", type=int, default=350_000, help="vae: per step")
    parser.add_argument("--scenes", type=int, default=60_000, help="vae: number of scenes")
    parser.add_argument(
        "--stat_clips", type=int, default=2048, help="vae: for the latents' statistics"
    )
    parser.add_argument("--test_clips", type=int, default=32)
    parser.add_argument("--clips", type=int, default=150_000, help="dit: maximum number")
    parser.add_argument("--task", choices=["t2v", "i2v"], default="t2v", help="clips, dit")
    parser.add_argument("--name", default="dit", help="dit: weights are saved to DIR/NAME.pt")
    parser.add_argument("--start", default="", help="dit: start from DIR/START.pt, and keep its text encoder")
    parser.add_argument("--layers", default="", help="dit: those of --start to keep, such as 0,1,3,5,6")
    parser.add_argument("--times", default="0,1000", help="dit: range of the noise levels")
    parser.add_argument("--shift", type=float, default=5.0, help="dit: of the noise levels")
    parser.add_argument("--stills", type=float, default=0.08, help="dit: fraction of single frames")
    parser.add_argument("--buckets", default=BUCKETS, help="clips, dit: frames x height x width : fraction, ...")
    parser.add_argument("--encode_seconds", type=float, default=90)
    parser.add_argument("--tokens", type=int, default=40960, help="dit: per step")
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--compile", type=int, default=1)
    parser.add_argument("--capture", type=int, default=1)
    a = parser.parse_args()
    Captured.enabled = bool(a.capture)
    os.makedirs(a.out, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    if a.what == "tokenizer":
        text.train_tokenizer(os.path.join(a.out, "spiece.model"))
    elif a.what == "vae":
        a.lr = a.lr or 1.5e-3
        train_vae(a)
    elif a.what == "clips":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        image = ImageEncoder().to(device) if a.task == "i2v" else None
        save_clips(os.path.join(a.out, "clips.pt"), make_clips(a, device, image))
    else:
        a.lr = a.lr or 1e-3
        train_dit(a)


if __name__ == "__main__":
    main()
