"""Converts train.py's folder to a checkpoint folder in the official layout, bf16.

export.py --out DIR --to model/demo
export.py --out DIR --back model/demo    the reverse, to continue training from a checkpoint folder
"""

import argparse
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

from dit import CONFIG


def bf16(state):
    return {
        name: value.detach().to("cpu", torch.bfloat16).contiguous().clone()
        for name, value in state.items()
    }


def part(state, prefix):
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def back(folder, out):
    """Writes train.py's files from a checkpoint folder."""
    widen = lambda state, prefix="": {prefix + n: v.float() for n, v in state.items()}
    path = lambda name: os.path.join(folder, name)
    os.makedirs(out, exist_ok=True)
    weights = widen(load_file(path("diffusion_pytorch_model.safetensors")), "dit.")
    weights.update(
        widen(torch.load(path("models_t5_umt5-xxl-enc-bf16.pth"), weights_only=True), "text.")
    )
    torch.save(
        {"model": weights, "average": weights, "step": 1, "spent": 0.0}, os.path.join(out, "dit.pt")
    )
    vae = widen(torch.load(path("Wan2.1_VAE.pth"), weights_only=True))
    torch.save(
        {"model": vae, "base": vae["encoder.conv1.weight"].shape[0]},
        os.path.join(out, "vae.pt"),
    )
    shutil.copyfile(path("google/umt5-xxl/spiece.model"), os.path.join(out, "spiece.model"))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="train.py's folder")
    parser.add_argument("--to")
    parser.add_argument("--back")
    a = parser.parse_args()
    if a.back:
        back(a.back, a.out)
        return
    os.makedirs(os.path.join(a.to, "google", "umt5-xxl"), exist_ok=True)
    load = lambda name: torch.load(os.path.join(a.out, name), map_location="cpu", weights_only=True)

    both = bf16(load("dit.pt")["average"])
    save_file(
        part(both, "dit."),
        os.path.join(a.to, "diffusion_pytorch_model.safetensors"),
        {"format": "pt"},
    )
    torch.save(part(both, "text."), os.path.join(a.to, "models_t5_umt5-xxl-enc-bf16.pth"))
    torch.save(bf16(load("vae.pt")["model"]), os.path.join(a.to, "Wan2.1_VAE.pth"))
    shutil.copyfile(
        os.path.join(a.out, "spiece.model"),
        os.path.join(a.to, "google", "umt5-xxl", "spiece.model"),
    )
    with open(os.path.join(a.to, "config.json"), "w") as f:
        json.dump(
            {"_class_name": "WanModel", "_diffusers_version": "0.30.0", **CONFIG}, f, indent=2
        )
        f.write("\n")

    total = 0
    for folder, _, files in os.walk(a.to):
        for name in files:
            if not os.path.relpath(folder, a.to).startswith("recipe"):
                size = os.path.getsize(os.path.join(folder, name))
                total += size
                print(f"{size:10d} {os.path.relpath(os.path.join(folder, name), a.to)}")
    print(f"{total:10d} in total, {total / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
