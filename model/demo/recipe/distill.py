"""Distillation of the transformer to a few steps without guidance, as a LoRA.

    distill.py --out DIR --minutes 4             from DIR/dit.pt to DIR/fast.pt and DIR/fast.safetensors

The student's steps are Euler's, over the noise levels of --denoising_steps. The teacher, the model itself with
guidance, computes each of them in --teacher_steps steps of UniPC, and the student learns the teacher's mean velocity
between two of its levels. This needs captions only: all clips begin with noise, and go on from one level to the next
by the teacher's or by the student's own step, so that the student learns to continue from its own results.
Weights are saved about once a minute and on SIGTERM. An interrupted training resumes.
"""

import argparse
import math
import os
import random
import signal
import time
from multiprocessing import Pool

import torch

import lora
import text
import train
from sample import UniPC, listed_levels
from text import Tokenizer
from train import Average, Captured, captioned, log, lr_at, model_of, save

FIRST_LEVEL = 0.9998  # the largest one of the official schedules, for which the teacher's solver is defined


def teacher_levels(steps, count, shift):
    """Per step of the student: noise levels [count + 1] of the teacher, evenly over the schedule of the shift."""
    ends = [step / 1000 for step in steps] + [0.0]
    levels = []
    for first, last in zip(ends, ends[1:]):
        u = torch.linspace(first, last, count + 1, dtype=torch.float64)
        levels.append((shift * u / (1 + (shift - 1) * u)).clamp(max=FIRST_LEVEL))
    return levels


class Bucket:
    """The last `room` clips of one shape: for each of the student's steps, latents before it and the velocity to learn."""

    def __init__(self, shape, share, steps, room, device):
        frames, height, width = map(int, shape.split("x"))
        self.latent = (16, 1 + (frames - 1) // 4, height // 8, width // 8)
        self.tokens = math.prod(self.latent[1:]) // 4
        self.share = float(share)
        self.starts = torch.zeros(steps, room, *self.latent, device=device)
        self.velocities = torch.zeros_like(self.starts)
        self.ids = torch.zeros(room, 64, dtype=torch.int16, device=device)
        self.count = self.next = 0
        self.rollout = self.step = None

    def add(self, both, ids):
        room = len(self.ids)
        at = (self.next + torch.arange(len(ids), device=ids.device)) % room
        self.starts[:, at], self.velocities[:, at] = both
        self.ids[at] = ids
        self.next = (self.next + len(ids)) % room
        self.count = min(self.count + len(ids), room)

    def pick(self, which):
        """which [B]: of the steps -> latents, velocities, captions of random clips."""
        at = torch.randint(0, self.count, (len(which),), device=which.device)
        return self.starts[which, at], self.velocities[which, at], self.ids[at]


def read_captions(a, device):
    """[N, CAPTIONS, 64] ids; the clips themselves are not drawn."""
    chunk = min(500, a.clips)
    file = os.path.join(a.out, "spiece.model")
    jobs = [(a.first + i, chunk, 1.0, file) for i in range(0, a.clips, chunk)]
    with Pool(a.workers, torch.set_num_threads, (1,)) as pool:
        return torch.cat([torch.from_numpy(ids) for _, ids in pool.imap(captioned, jobs)]).to(device)


def distill(a):
    start = saved = time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    state = torch.load(os.path.join(a.out, a.start + ".pt"), map_location="cpu", weights_only=True)
    state = state["average"]
    base = {n[4:]: v for n, v in state.items() if n.startswith("dit.")}
    teacher = model_of(state).to(device).eval().requires_grad_(False)
    student = model_of(state).dit
    lora.adapt(student, a.rank)
    student.to(device)
    params = {n: p for n, p in student.named_parameters() if p.requires_grad}
    weights = list(params.values())
    average = Average(torch.nn.ParameterList(weights), a.ema)
    rate = torch.tensor(0.0, device=device)  # a tensor, so that it can change in a captured step
    cuda = device == "cuda"
    optimizer = torch.optim.AdamW(
        weights, rate, (0.9, 0.98), weight_decay=0.0, fused=cuda, capturable=cuda
    )
    path, step, before = os.path.join(a.out, a.name + ".pt"), 0, 0.0
    if os.path.exists(path):
        state = torch.load(path, map_location=device, weights_only=True)
        with torch.no_grad():
            for n, p in params.items():
                p.copy_(state["model"][n])
        torch._foreach_copy_(average.values, [state["average"][n] for n in params])
        step, before = state["step"], state["spent"]
        log(f"resumes at step {step}, {before:.0f} s")

    list_ = [float(t) for t in a.denoising_steps.split(",")]
    sigma, times = listed_levels(list_, a.shift)
    levels = teacher_levels(list_, a.teacher_steps, a.shift)
    shares = [float(s) for s in a.shares.split(",")] if a.shares else [1.0] * len(times)
    buckets = [
        Bucket(*one.split(":"), len(times), a.room, device) for one in a.buckets.split(",")
    ]
    captions = read_captions(a, device)
    log(
        f"{sum(p.numel() for p in weights)} parameters to train, {len(captions)} clips' captions, "
        f"noise levels {[round(s, 4) for s in sigma.tolist()]}, {time.time() - start:.0f} s"
    )
    train.prepare(None, device)
    if a.compile:
        for block in list(student.blocks) + list(teacher.dit.blocks):
            block.compile(dynamic=True)  # once for all shapes
    autocast = lambda: torch.autocast(device, torch.bfloat16, enabled=cuda, cache_enabled=False)
    with torch.no_grad():
        words = Tokenizer(os.path.join(a.out, "spiece.model"))(text.NEGATIVE, 64)
        words = torch.tensor([words + [text.PAD] * (64 - len(words))], device=device)
        uncond = teacher.text(words)

    def at_time(t, count):
        return torch.full((count,), float(t), device=device)

    def rollout(shape):
        @torch.no_grad()
        def run(ids, own):
            """ids [G, L]; own: the fraction of clips that go on by the student's steps -> [2, steps, G, *shape]:
            latents before each step, and the velocities to learn."""
            count = len(ids)
            x = torch.randn(count, *shape, device=device)
            mine = (torch.rand(count, device=device) < own).view(-1, 1, 1, 1, 1)
            starts, velocities = [], []
            with autocast():
                cond = teacher.text(ids.long())
                both = torch.cat([cond, uncond.to(cond.dtype).expand(count, -1, -1)])
                for i, t in enumerate(times):
                    y, solver = x, UniPC(levels[i])
                    for s in levels[i][:-1].tolist():
                        v = teacher.dit(torch.cat([y, y]), at_time(1000 * s, 2 * count), both)
                        c, u = v.float().chunk(2)
                        y = solver.step(y, u + a.guidance * (c - u))
                    length = (sigma[i] - sigma[i + 1]).item()
                    starts.append(x)
                    velocities.append((x - y) / length)
                    if i + 1 < len(times):
                        v = student(x, at_time(t, count), cond).float()
                        x = torch.where(mine, x - length * v, y)
            return torch.stack([torch.stack(starts), torch.stack(velocities)])

        return run

    def train_step(which, counts):
        at = torch.tensor(times, device=device)[which]

        def run(x, velocity, ids):
            with autocast():
                with torch.no_grad():
                    cond = teacher.text(ids.long())
                v = student(x, at, cond)
            error = (v.float() - velocity).square().flatten(1).mean(1)
            # the root, so that steps and clips with large errors do not dominate
            (error + 1e-6).sqrt().mean().backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            average.update()
            scale = velocity.square().flatten(1).mean(1)
            return torch.stack(
                [e.sum() / s.sum() for e, s in zip(error.detach().split(counts), scale.split(counts))]
            )

        return run

    def write(path):
        values = dict(zip(params, average.values))
        if not all(v.isfinite().all() for v in values.values()):
            raise SystemExit("the weights are no longer finite; the last saved ones stay")
        save(
            path,
            {
                "model": {n: p.detach() for n, p in params.items()},
                "average": values,
                "step": step,
                "spent": before + time.time() - start,
            },
        )
        settings = (
            f"{len(times)} steps: denoising_steps {a.denoising_steps}, sample_shift {a.shift:g}, Euler, "
            "guidance 1, as LightX2V's step_distill"
        )
        file = path.removesuffix(".pt") + ".safetensors"
        lora.to_file(file + ".new", values, base, settings)
        os.replace(file + ".new", file)

    odds = torch.tensor([bucket.share for bucket in buckets])
    window, warm, rounds = [], step, 0
    while True:
        spent = before + time.time() - start
        progress = spent / (60 * a.minutes)
        if progress >= 1 or step == a.steps or train.stopping:
            break
        # at first one round of each, which also compiles and captures
        bucket = buckets[rounds] if rounds < len(buckets) else buckets[torch.multinomial(odds, 1).item()]
        rounds += 1
        count = max(a.tokens // bucket.tokens // 8 * 8, a.least)
        pick = torch.randint(0, len(captions), (count,), device=device)
        ids = captions[pick, torch.randint(0, captions.shape[1], (count,), device=device)]
        own = torch.tensor(a.own * min(1.0, progress / 0.3), device=device)
        if bucket.rollout is None:
            bucket.rollout = Captured(rollout(bucket.latent), optimizer, device, ids, own)
        bucket.add(bucket.rollout(ids, own), ids)
        counts = [max(1, round(s * count / sum(shares))) for s in shares]
        which = torch.repeat_interleave(torch.arange(len(times)), torch.tensor(counts)).to(device)
        if bucket.step is None:
            bucket.step = Captured(train_step(which, counts), optimizer, device, *bucket.pick(which))
        for _ in range(max(1, round(a.uses * len(times) * count / len(which)))):
            spent = before + time.time() - start
            rate.fill_(lr_at(spent / (60 * a.minutes), step - warm, a.lr, a.lr_end, 100))
            window.append(bucket.step(*bucket.pick(which)))
            step += 1
            if step in (5, 20, 60, 200) or step % a.log == 0:
                errors = torch.stack(window).mean(0).tolist()
                log(
                    f"step {step} {spent:.0f} s  {rounds} rollouts  error of the velocity, relative, per step "
                    + " ".join(f"{e:.5f}" for e in errors)
                )
                window = []
            if step == a.steps:
                break
        if time.time() - saved > 60:
            write(path)
            saved = time.time()
    write(path)
    log(f"done: {step} steps, {before + time.time() - start:.0f} s")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", default="dit", help="the teacher: DIR/START.pt")
    parser.add_argument("--name", default="fast", help="weights are saved to DIR/NAME.pt and .safetensors")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=-1, help="stop after this number of training steps")
    parser.add_argument("--denoising_steps", default="1000,750,500,250", help="the student's, before the shift")
    parser.add_argument("--shift", type=float, default=5.0)
    parser.add_argument("--guidance", type=float, default=4.0, help="the teacher's")
    parser.add_argument("--teacher_steps", type=int, default=6, help="per step of the student")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--lr_end", type=float, default=1e-5)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--own", type=float, default=0.9, help="fraction of clips that go on by the student's steps")
    parser.add_argument("--uses", type=float, default=4.0, help="how often the result of a rollout is used")
    parser.add_argument("--room", type=int, default=2048, help="clips kept per shape")
    parser.add_argument("--shares", default="4,4,5,7", help="of a batch, for each of the student's steps")
    parser.add_argument("--buckets", default="17x128x128:0.85,33x128x128:0.15", help="as in train.py")
    parser.add_argument("--tokens", type=int, default=40960, help="per training step")
    parser.add_argument("--least", type=int, default=8, help="least number of clips per training step")
    parser.add_argument("--clips", type=int, default=40_000, help="whose captions are used")
    parser.add_argument("--first", type=int, default=0, help="the first scene's number")
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count()))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=int, default=200)
    parser.add_argument("--compile", type=int, default=1)
    parser.add_argument("--capture", type=int, default=1)
    a = parser.parse_args()
    Captured.enabled = bool(a.capture)
    signal.signal(signal.SIGTERM, lambda *_: train.stopping.append(True))
    distill(a)


if __name__ == "__main__":
    main()
