"""PSNR of the autoencoder on held-out clips, by bench/vae_psnr and by PyTorch.

    vae_psnr.py --ckpt_dir model/demo --program build/bench/vae_psnr [--frames 17] [--count 32]
    vae_psnr.py ... --images        of the images that measure.py gives to I2V, each as one frame

Both compute in fp32 on the CPU from the published weights.
"""

import argparse
import os
import subprocess
import tempfile

import torch
from safetensors.torch import save_file

import measure
import render
import sample
import train


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt_dir", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", action="store_true")
    a = parser.parse_args()
    vae = sample.load(a.ckpt_dir, "cpu")[1]
    rows = train.test_params(a.count, "cpu")
    clips = render.render(rows, render.clip_times(a.count, a.frames), 128, 128)
    if a.images:
        a.frames, images = 1, measure.first_frames(a.count)
        clips = torch.stack([torch.from_numpy(i).permute(2, 0, 1)[:, None] for i in images]) / 127.5 - 1
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "clips.safetensors")
        frames = clips.permute(0, 2, 3, 4, 1).contiguous()
        save_file({f"clip.{i:03d}": clip.clone() for i, clip in enumerate(frames)}, file)
        out = subprocess.run(
            [a.program, a.ckpt_dir, file, str(a.threads)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    ours = torch.tensor([float(line.split()[1]) for line in out.splitlines()[: a.count]])
    with torch.no_grad():
        theirs = torch.cat(
            [train.psnr(vae.decode(vae.encode(clip)), clip) for clip in clips.split(1)]
        )
    print(
        f"{a.count} held-out clips of {a.frames} frames: PSNR {ours.mean():.3f} dB (minimum {ours.min():.3f}), "
        f"PyTorch {theirs.mean():.3f}, largest difference {(ours - theirs).abs().max():.4f}"
    )


if __name__ == "__main__":
    main()
