"""Converts train.py's folder to a checkpoint folder in the official layout, bf16.

export.py --out DIR --to model/demo
export.py --out DIR --back model/demo    the reverse, to continue training from a checkpoint folder
export.py --out DIR --name i2v --to model/demo-i2v --link model/demo
export.py --out DIR --name high --to model/demo-pair --pair --link model/demo

The last two write only the transformer, for I2V also its image encoder, and links to the other parts of another
checkpoint folder. Without --out, only the links.

export.py --lora FILE --to FOLDER --link model/demo

Writes the transformer of model/demo with a LoRA of distill.py merged, and links to the other parts.
"""

import argparse
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

import dit
import lora
from clip import ImageEncoder

TRANSFORMER = ("config.json", "diffusion_pytorch_model.safetensors")
OTHERS = ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google")
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


def bf16(state):
    return {
        name: value.detach().to("cpu", torch.bfloat16).contiguous().clone()
        for name, value in state.items()
    }


def part(state, prefix):
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def write_transformer(state, folder):
    os.makedirs(folder, exist_ok=True)
    save_file(state, os.path.join(folder, TRANSFORMER[1]), {"format": "pt"})
    config = {"_class_name": "WanModel", "_diffusers_version": "0.30.0", **dit.config_of(state)}
    with open(os.path.join(folder, TRANSFORMER[0]), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def link(base, folder, names):
    os.makedirs(folder, exist_ok=True)
    for name in names:
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            os.remove(path)
        os.symlink(os.path.relpath(os.path.join(base, name), folder), path)


def links(base, folder, pair):
    link(base, folder, OTHERS)
    if pair:
        link(base, os.path.join(folder, "low_noise_model"), TRANSFORMER)


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
    parser.add_argument("--out", help="train.py's folder")
    parser.add_argument("--name", default="dit", help="the training, of DIR/NAME.pt")
    parser.add_argument("--to")
    parser.add_argument("--link", help="a checkpoint folder for the other parts")
    parser.add_argument("--pair", action="store_true", help="this one is the expert for high noise")
    parser.add_argument("--lora", help="a LoRA to merge with the transformer of --link")
    parser.add_argument("--back")
    a = parser.parse_args()
    if a.back:
        back(a.back, a.out)
        return
    if a.link:
        links(a.link, a.to, a.pair)
    if a.lora:
        base = load_file(os.path.join(a.link, TRANSFORMER[1]))
        write_transformer(bf16(lora.merged(base, a.lora)), a.to)
    if not a.out:
        return
    load = lambda name: torch.load(os.path.join(a.out, name), map_location="cpu", weights_only=True)

    both = bf16(load(a.name + ".pt")["average"])
    transformer = part(both, "dit.")
    write_transformer(transformer, os.path.join(a.to, "high_noise_model") if a.pair else a.to)
    if dit.image_width(transformer):
        encoder = ImageEncoder().half().state_dict()
        torch.save(encoder, os.path.join(a.to, CLIP))
    if not a.link:
        os.makedirs(os.path.join(a.to, "google", "umt5-xxl"), exist_ok=True)
        torch.save(part(both, "text."), os.path.join(a.to, "models_t5_umt5-xxl-enc-bf16.pth"))
        torch.save(bf16(load("vae.pt")["model"]), os.path.join(a.to, "Wan2.1_VAE.pth"))
        shutil.copyfile(
            os.path.join(a.out, "spiece.model"),
            os.path.join(a.to, "google", "umt5-xxl", "spiece.model"),
        )

    total = 0
    for folder, _, files in os.walk(a.to):
        for name in files:
            link = os.path.islink(os.path.join(folder, name))
            if not link and not os.path.relpath(folder, a.to).startswith("recipe"):
                size = os.path.getsize(os.path.join(folder, name))
                total += size
                print(f"{size:10d} {os.path.relpath(os.path.join(folder, name), a.to)}")
    print(f"{total:10d} in total, {total / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
